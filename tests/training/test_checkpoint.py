"""Checkpoints: written while training continues, refused when damaged, and never lost to a full disk."""

import errno
import os
import resource
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import torch
import yaml
from processes import Command
from safetensors.torch import load_file
from support import Recorder, feed_config, feed_values
from training.runs import assert_same_run, interrupt, records

from recap import storage
from recap.config.file.load import load_config
from recap.config.recap import RecapConfig
from recap.data.encoding.assets import Assets, load_assets
from recap.errors import CheckpointError, Interrupted, RunError
from recap.evaluation.run import evaluate_run
from recap.model.directory import build_ranker, open_model
from recap.model.ranker import Ranker
from recap.runs import Run, find_model_directory
from recap.storage import verify
from recap.training.average import WeightAverage
from recap.training.checkpoints import Checkpoints
from recap.training.loss_scale import LossScale
from recap.training.state import ModelWeights, Progress, TrainState
from recap.training.trainer import train


class Moments:
    """A stub of an optimizer: tensors without training."""

    def __init__(self) -> None:
        self.tensors = {"a/exp_avg": torch.ones(9)}

    def state_dict(self) -> Mapping[str, torch.Tensor]:
        return self.tensors

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        self.tensors = dict(state)


@dataclass
class Example:
    """A state to save, with weights of a real model."""

    config: RecapConfig
    assets: Assets
    ranker: Ranker
    moments: Moments

    @classmethod
    def of(cls, config: RecapConfig) -> "Example":
        assets = load_assets(config.features)
        return cls(config, assets, build_ranker(config, assets), Moments())

    def checkpoints(self) -> Checkpoints:
        return Checkpoints(self.config, self.assets)

    def state(self, step: int, best: int | None = None) -> TrainState:
        weights = ModelWeights(self.ranker, WeightAverage(None, self.ranker))
        return TrainState.of(Progress(step=step, best_step=best), weights=weights, optimizer=self.moments)

    def fill(self, value: float) -> None:
        with torch.no_grad():
            for tensor in (*self.ranker.parameters(), *self.moments.tensors.values()):
                tensor.fill_(value)


@pytest.fixture
def example(feed: Path, tmp_path: Path) -> Example:
    return Example.of(feed_config(feed, tmp_path / "run", training={"checkpoint_max_to_keep": 2}))


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Until this event is set, the writer waits before its first sync of each checkpoint."""
    gate, sync = threading.Event(), storage._sync

    def wait_and_sync(path: Path) -> None:
        gate.wait()
        sync(path)

    monkeypatch.setattr(storage, "_sync", wait_and_sync)
    yield gate
    gate.set()


def test_changes_during_the_write_stay_out_of_the_checkpoint(example: Example, tmp_path: Path) -> None:
    checkpoints = example.checkpoints()
    for step in range(1, 30):
        example.fill(step)
        checkpoints.save(example.state(step))
        example.fill(-1)
    checkpoints.wait()
    for step in (28, 29):
        folder = Run(tmp_path / "run").checkpoint_path(step)
        verify(folder)
        learned = dict(example.ranker.named_parameters())
        for name, tensor in load_file(folder / "weights.safetensors").items():
            assert name not in learned or (tensor == step).all(), name
        assert (load_file(folder / "optimizer.safetensors")["a/exp_avg"] == step).all()


def test_every_part_of_the_state_is_restored_from_a_checkpoint(example: Example, feed: Path, tmp_path: Path) -> None:
    checkpoints, other = example.checkpoints(), Example.of(feed_config(feed, tmp_path / "run"))
    example.fill(3.0)
    checkpoints.save(example.state(7, best=5))
    checkpoints.wait()
    restored = other.state(0)
    other.checkpoints().restore(7, restored)
    assert restored.progress == Progress(step=7, best_step=5)
    assert all((parameter == 3.0).all() for parameter in other.ranker.parameters())
    assert (other.moments.tensors["a/exp_avg"] == 3.0).all()


def test_a_part_that_a_checkpoint_lacks_stays_unchanged(example: Example, tmp_path: Path) -> None:
    """Checkpoints of earlier versions lack parts that were added later."""
    checkpoints, run = example.checkpoints(), Run(tmp_path / "run")
    checkpoints.save(example.state(1))
    checkpoints.wait()
    scale = LossScale(enabled=True)
    state = TrainState.of(Progress(), loss_scale=scale)
    checkpoints.restore(1, state)
    assert state.progress.step == 1
    assert scale.state_dict() == LossScale(enabled=True).state_dict()
    assert "loss_scale" not in run.state(1)


def test_the_layout_of_a_checkpoint_stays_readable_for_older_runs(feed: Path, tmp_path: Path) -> None:
    watch = {"metric": "auc", "split": "validation"}
    config = feed_config(
        feed,
        tmp_path / "run",
        training={"num_train_steps": 6, "watch": watch, "ema": {}},
        optimizer={"balancing": {"kind": "uncertainty"}},
    )
    train(config, Recorder())
    names = {file.stem for file in Run(tmp_path / "run").checkpoint_path(6).glob("*.safetensors")}
    assert names == {"weights", "raw_weights", "optimizer", "balancing"}
    state = Run(tmp_path / "run").state(6)
    top_level = {"step", "evaluated_step", "best_step", "skipped_steps", "rolled_back", "finished"}
    assert state.keys() == top_level | {"loss_sums", "loss_steps", "stream", "watch", "loss_scale", "initial_rates"}
    assert state["stream"].keys() == {"row", "files", "skipped"}
    assert state["watch"].keys() == {"best", "waited", "cuts"}
    assert state["loss_scale"].keys() == {"factor", "good_steps"}


def test_weights_of_another_model_are_refused_by_name(example: Example, feed: Path, tmp_path: Path) -> None:
    checkpoints = example.checkpoints()
    checkpoints.save(example.state(1))
    checkpoints.wait()
    wider = Example.of(feed_config(feed, tmp_path / "run", model={"embeddings": {"default": 5}}))
    with pytest.raises(
        CheckpointError, match=r"weights.safetensors: the weights belong to another model:\n  .*is 25×4"
    ):
        wider.checkpoints().restore(1, wider.state(0))


def test_training_continues_while_a_checkpoint_is_written(feed: Path, tmp_path: Path, gate: threading.Event) -> None:
    run = tmp_path / "run"
    recorder = Recorder({step: lambda: seen.append(list(Run(run).checkpoints)) for step in range(1, 9)} | {8: gate.set})
    seen: list[list[int]] = []
    train(feed_config(feed, run), recorder)
    assert seen == [[]] * 7, "steps 5 to 7 were done before the checkpoint of step 4 existed"
    train(feed_config(feed, tmp_path / "other"), Recorder())
    assert_same_run(run, tmp_path / "other", 12)


def test_at_most_one_checkpoint_is_being_written(example: Example, tmp_path: Path, gate: threading.Event) -> None:
    checkpoints, saved = example.checkpoints(), threading.Event()
    checkpoints.save(example.state(1))

    def save_another() -> None:
        checkpoints.save(example.state(2))
        saved.set()

    thread = threading.Thread(target=save_another)
    thread.start()
    assert not saved.wait(0.1)
    gate.set()
    thread.join()
    checkpoints.wait()
    assert list(Run(tmp_path / "run").checkpoints) == [1, 2]


def test_old_checkpoints_are_deleted_once_the_new_one_is_complete(
    example: Example, tmp_path: Path, gate: threading.Event
) -> None:
    checkpoints, run = example.checkpoints(), tmp_path / "run"
    gate.set()
    for step in (1, 2, 3, 4):
        checkpoints.save(example.state(step, best=2))
    assert checkpoints.latest() == Run(run).checkpoint_path(4)
    assert list(Run(run).checkpoints) == [2, 3, 4]
    gate.clear()
    checkpoints.save(example.state(5, best=5))
    assert list(Run(run).checkpoints) == [2, 3, 4]
    gate.set()
    checkpoints.wait()
    assert list(Run(run).checkpoints) == [4, 5]


def test_a_signal_waits_for_the_checkpoint_it_reports(feed: Path, tmp_path: Path, gate: threading.Event) -> None:
    threading.Timer(0.2, gate.set).start()
    with pytest.raises(Interrupted, match="after step 3, which is saved"):
        train(feed_config(feed, tmp_path / "run"), Recorder({3: interrupt}))
    assert gate.is_set()
    verify(Run(tmp_path / "run").checkpoint_path(3))


@pytest.mark.parametrize(("steps", "whole"), [(12, []), (4, [])])
def test_a_failed_write_ends_the_run_at_the_next_save_or_the_end(
    feed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int, whole: list[int]
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    run, recorder = tmp_path / "run", Recorder()
    config = feed_config(feed, run, training={"num_train_steps": steps})
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(
            RunError, match=r"language-\w+.parquet: cannot be written \(Input/output error\)\nsaving step 4"
        ) as error:
            train(config, recorder)
    assert error.value.exit_code == 1
    assert recorder.steps[-1] == min(steps, 8)
    assert list(Run(run).checkpoints) == whole
    train(config, Recorder())
    train(feed_config(feed, tmp_path / "other", training={"num_train_steps": steps}), Recorder())
    assert_same_run(run, tmp_path / "other", steps)


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def halve(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1)


@pytest.mark.parametrize(
    ("damage", "name"),
    [
        (flip, "weights.safetensors"),
        (cut, "optimizer.safetensors"),
        (Path.unlink, "state.json"),
        (halve, "manifest.json"),
        (Path.unlink, "manifest.json"),
    ],
)
def test_a_run_resumes_from_the_checkpoint_before_a_damaged_one(
    feed: Path, tmp_path: Path, damage: Callable[[Path], None], name: str
) -> None:
    run, longer = tmp_path / "run", {"num_train_steps": 14}
    train(feed_config(feed, run), Recorder())
    latest = Run(run).checkpoint_path(12)
    damage(latest / name)
    for opened in (
        lambda: open_model(find_model_directory(run)),
        lambda: evaluate_run(feed_config(feed, run), run, step=12),
    ):
        with pytest.raises(CheckpointError, match=rf"{name}.*; {run}/checkpoints also holds step_00000004, s"):
            opened()
    open_model(find_model_directory(run, step=8))
    recorder = Recorder()
    train(feed_config(feed, run, training=longer), recorder)
    assert recorder.messages[0].startswith(str(latest))
    assert name in recorder.messages[0]
    assert recorder.messages[0].endswith("set aside as step_00000012.damaged, resuming from step_00000008")
    assert recorder.steps == [9, 10, 11, 12, 13, 14]
    assert list(Run(run).checkpoints) == [4, 8, 12, 14]
    train(feed_config(feed, tmp_path / "other", training=longer), Recorder())
    assert_same_run(run, tmp_path / "other", 14)


def test_a_run_with_only_damaged_checkpoints_is_refused_unchanged(feed: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(feed_config(feed, run), Recorder())
    for step in (4, 8, 12):
        flip(Run(run).checkpoint_path(step) / "weights.safetensors")
    logged = records(run)
    for _ in range(2):
        with pytest.raises(CheckpointError, match=r"step_00000004.*\n.*no valid checkpoint is left. Restore one"):
            train(feed_config(feed, run), Recorder())
    assert list(Run(run).checkpoints) == [4, 8, 12]
    assert records(run) == logged


def test_a_damaged_best_checkpoint_is_refused_and_the_run_resumes(feed: Path, tmp_path: Path) -> None:
    watch = {"watch": {"metric": "auc", "split": "validation"}, "eval_log_every_n": 4, "checkpoint_max_to_keep": 1}
    run = tmp_path / "run"
    config = feed_config(feed, run, training=watch)
    train(config, Recorder())
    best = find_model_directory(run, "best")
    flip(best / "weights.safetensors")
    with pytest.raises(CheckpointError, match=f"{best}/weights.safetensors: damaged"):
        open_model(find_model_directory(run, "best"))
    if best == Run(run).checkpoint_path(12):  # then it is the latest too, and the only one
        with pytest.raises(CheckpointError, match="no valid checkpoint is left"):
            train(config, Recorder())
    else:
        assert train(feed_config(feed, run, training={**watch, "num_train_steps": 13}), Recorder()).trained


def small_files_only() -> None:
    """Limit the files of this process to 15 kB: the weights fit, the moments do not."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (15_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def recap_train(config: Path, *overrides: str, full: bool = False) -> CompletedProcess[str]:
    return Command("train", config, *overrides, prepare=small_files_only if full else None).wait()


def write_config(feed: Path, run: Path) -> Path:
    values = feed_values(feed, run)
    values["training"]["watch"] = {"metric": "auc", "split": "validation"}
    file = run.parent / "ranker.yaml"
    file.write_text(yaml.safe_dump(values))
    return file


@pytest.mark.slow
def test_a_full_disk_ends_the_run_with_a_reason_and_it_resumes_later(feed: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = write_config(feed, run)
    assert recap_train(config, "training.num_train_steps=4").returncode == 0
    full = recap_train(config, full=True)
    assert full.returncode == 1
    assert "Traceback" not in full.stderr
    assert "step_00000006.unfinished/optimizer.safetensors: cannot be written" in full.stderr
    assert "File too large" in full.stderr
    assert (
        f"saving step 6 failed; the last valid checkpoint is {Run(run).checkpoint_path(4)}. Free space" in full.stderr
    )
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["step_00000004"]
    verify(Run(run).checkpoint_path(4))
    assert "resuming after step 4 of 12" in recap_train(config).stdout
    for steps in (4, 12):
        other = [f"training.save_dir={tmp_path}/other", f"training.num_train_steps={steps}"]
        train(load_config(config, other), Recorder())
    assert_same_run(run, tmp_path / "other", 12)


@pytest.mark.slow
def test_a_file_where_a_folder_is_expected_is_reported(feed: Path, tmp_path: Path) -> None:
    config = write_config(feed, tmp_path / "run")
    (tmp_path / "run").write_text("in the way")
    before = recap_train(config)
    assert (before.returncode, before.stderr.splitlines()[-1]) == (
        2,
        f"training.save_dir: {tmp_path}/run cannot be written (File exists); choose another",
    )


def test_a_second_command_on_a_running_run_is_refused(feed: Path, tmp_path: Path) -> None:
    config = write_config(feed, tmp_path / "run")
    with Run(tmp_path / "run").lock():
        second = recap_train(config)
    assert second.returncode == 2
    assert second.stderr.splitlines()[-1] == (
        f"{tmp_path}/run: another process is training this run; wait for it, or choose another training.save_dir"
    )


@pytest.mark.slow
def test_a_moved_run_resumes_at_its_new_path(feed: Path, tmp_path: Path) -> None:
    run, moved = tmp_path / "run", tmp_path / "elsewhere" / "moved"
    config = write_config(feed, run)
    assert recap_train(config, "training.num_train_steps=7").returncode == 0
    moved.parent.mkdir()
    run.rename(moved)
    resumed = recap_train(config, f"training.save_dir={moved}")
    assert "resuming after step 7 of 12" in resumed.stdout
    best = find_model_directory(moved, "best")
    assert str(best) in resumed.stdout
    assert not run.exists()
    train(load_config(config, ["training.num_train_steps=7"]), Recorder())
    train(load_config(config), Recorder())
    assert find_model_directory(run, "best").name == best.name
    assert_same_run(run, moved, 12)
