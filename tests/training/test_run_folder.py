"""What a run keeps in its folder, and what it leaves alone."""

from pathlib import Path

import pytest
import yaml
from support import Recorder, feed_config, feed_values

from recap.config.file.load import dump_config, load_config
from recap.errors import CheckpointError, InputError
from recap.runs import Run, find_model_directory
from recap.training.trainer import train


def test_a_run_never_replaces_a_configuration_that_it_did_not_write(feed: Path, tmp_path: Path) -> None:
    file = tmp_path / "exp" / "config.yaml"
    file.parent.mkdir()
    written = "# what I learned so far\n" + yaml.safe_dump(feed_values(feed, file.parent))
    file.write_text(written)
    with pytest.raises(
        InputError, match=r"exp/config.yaml: the run would replace this file, which recap did not write"
    ):
        train(load_config(file), Recorder())
    assert file.read_text() == written
    assert [path.name for path in file.parent.iterdir()] == ["config.yaml"]


def test_files_of_others_in_the_place_of_those_of_a_run_are_refused_and_kept(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for file, message in (
        (run.metrics_file, "the run would replace this file, which recap did not write"),
        (run.checkpoints_folder, "is not a folder; choose another training.save_dir"),
    ):
        file.write_text("my notes\n")
        with pytest.raises(InputError, match=f"{file}: {message}"), run.lock():
            pass
        assert file.read_text() == "my notes\n"
        file.unlink()
    run.metrics_file.write_text('{"step": 1, "loss": 0.5}\n{"st')
    run.check_files()


def test_a_run_replaces_its_own_configuration_even_of_an_earlier_recap(feed: Path, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    train(feed_config(feed, run.path, training={"num_train_steps": 1}), Recorder())
    more = feed_config(feed, run.path, training={"num_train_steps": 2})
    train(more, Recorder())
    assert run.config_file.read_text() == dump_config(more)
    for file in (run.config_file, run.checkpoint_path(2) / "config.yaml"):
        file.write_text(file.read_text().replace("seed: 0\n", ""))
    run.check_files()
    (run.checkpoint_path(2) / "config.yaml").unlink()
    with pytest.raises(InputError, match="which recap did not write"):
        run.check_files()


def test_only_folders_with_the_names_of_checkpoints_are_checkpoints(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for name in (
        "step_00000010",
        "step_٣",
        "step_00000٣12",
        "step_7",
        "step_+0000005",
        "step_1_000_00",
        "step_000000008",
    ):
        (run.checkpoints_folder / name).mkdir(parents=True)
    (run.checkpoints_folder / "step_00000020").write_text("a file")
    assert list(run.checkpoints) == [10]


def test_the_folder_of_checkpoints_is_the_run(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with pytest.raises(CheckpointError, match="no such folder"):
        find_model_directory(run.checkpoints_folder)
    run.checkpoint_path(10).mkdir(parents=True)
    run.checkpoint_path(20).mkdir()
    assert find_model_directory(run.checkpoints_folder) == run.checkpoint_path(20)
    assert find_model_directory(run.checkpoints_folder, 10) == run.checkpoint_path(10)


def test_a_run_without_checkpoints_is_none_yet_and_another_folder_is_no_run(feed: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"train: holds no model; expected a run \(its training.save_dir\) or a"):
        find_model_directory(feed / "train")
    Run(tmp_path).config_file.touch()
    with pytest.raises(CheckpointError, match="no checkpoint yet; run 'recap train' first"):
        find_model_directory(tmp_path)


def test_a_run_with_secrets_resumes_with_them(feed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_SEED", "17")
    monkeypatch.setenv("SECRET_USER", "user_id")
    values = feed_values(feed, tmp_path / "run")
    values["training"] |= {"seed": "${secret:SECRET_SEED}", "num_train_steps": 1}
    values["features"]["user"] = "${secret:SECRET_USER}"
    file = tmp_path / "ranker.yaml"
    file.write_text(yaml.safe_dump(values))
    train(load_config(file), Recorder())
    recorder = Recorder()
    train(load_config(file, ["training.num_train_steps=2"]), recorder)
    assert recorder.steps == [2]
    assert recorder.messages == ["changed since step_00000001: training.num_train_steps: 1 → 2"]
