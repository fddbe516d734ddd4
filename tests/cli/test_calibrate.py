"""`recap calibrate`: what is fitted, shown, kept and refused."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from support import Recorder, feed_values, write_feed
from typer.testing import CliRunner

from recap.cli.main import app
from recap.config.file.load import load_config
from recap.errors import CheckpointError, ConfigError, InputError
from recap.evaluation.calibrate import rows as calibrate_rows
from recap.inference.predictor import Predictor
from recap.model.directory import open_model
from recap.runs import Run
from recap.storage import add_file, verify
from recap.training.trainer import train

TASKS = ("like", "share")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A feed, and a run with validation sets, of which `same` has the file of `calibration`."""
    folder = write_feed(tmp_path_factory.mktemp("feed"), validation_rows=3000)
    rows = pq.read_table(folder / "validation")
    for name, start in (("calibration", 0), ("other", 1500)):
        pq.write_table(rows.slice(start, 1500), folder / f"{name}.parquet")
    values = feed_values(folder, folder / "run")
    values["training"] |= {"num_train_steps": 20, "checkpoint_every_n": 10, "eval_log_every_n": None}
    values["validation_data"] = {
        name: {"source": {"inputs": str(folder / f"{file}.parquet")}}
        for name, file in (("calibration", "calibration"), ("other", "other"), ("same", "calibration"))
    }
    values["train_data"]["source"]["num_files_to_keep"] = 3
    values["validation_data"]["of_training"] = {"source": {"inputs": values["train_data"]["source"]["inputs"]}}
    shutil.copy(folder / "train" / "part-0.parquet", folder / "copied.parquet")
    for path in (folder / "train" / "part-00.parquet", folder / "empty.parquet"):  # alike, but without rows
        pq.write_table(rows.slice(0, 0), path)
    values["validation_data"]["copied"] = {"source": {"inputs": str(folder / "copied.parquet")}}
    (folder / "ranker.yaml").write_text(yaml.safe_dump(values))
    train(load_config(folder / "ranker.yaml"), Recorder())
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the run."""
    shutil.copytree(trained / "run", tmp_path / "run")
    return tmp_path / "run"


def recap(*arguments: str | Path) -> str:
    """The output of a command."""
    done = CliRunner().invoke(app, [*map(str, arguments)])
    if done.exception is not None:
        raise done.exception
    return done.output


def evaluated(run: Path, split: str, *, fitted_here: bool = False) -> dict[str, dict[str, float]]:
    """Task → metric → value. `fitted_here`: whether the calibration was fitted on this split, which is said."""
    text = recap("evaluate", run, "--split", split)
    assert (f"{split}: the calibration was fitted on these rows" in text) == fitted_here
    metrics: dict[str, dict[str, float]] = json.loads((run / "evaluation.json").read_text())["splits"][split]
    return metrics


def test_a_calibrated_run_evaluates_and_predicts_with_its_calibration(run: Path, trained: Path) -> None:
    before = evaluated(run, "calibration"), evaluated(run, "other")
    text = recap("calibrate", run, "--split", "calibration")
    assert "fitted 2 tasks on calibration, 1,500 rows" in text
    assert "other, 1,500 rows, before → after calibration" in text
    assert "AUC: unchanged" in text
    assert "same: not evaluated, since it shares files with calibration" in text
    assert "of_training: not evaluated, since it shares files with train_data" in text
    checkpoint = Run(run).checkpoint()
    assert f"written: {checkpoint / 'calibration.json'}" in text
    verify(checkpoint)
    after = evaluated(run, "calibration", fitted_here=True), evaluated(run, "other")
    gains = json.loads((checkpoint / "calibration.json").read_text())["gains"]
    for task in TASKS:
        assert after[0][task]["calibration"] == pytest.approx(1, abs=1e-5)
        assert after[0][task]["log_loss"] < before[0][task]["log_loss"]
        assert after[1][task]["auc"] == pytest.approx(before[1][task]["auc"], abs=1e-9)
        of_task = gains[0]["tasks"][task]
        for metric in ("log_loss", "rce", "calibration"):
            assert of_task[metric]["before"]["value"] == pytest.approx(before[1][task][metric], rel=1e-6)
            assert of_task[metric]["after"]["value"] == pytest.approx(after[1][task][metric], rel=1e-6)
        gain = before[1][task]["log_loss"] - after[1][task]["log_loss"]
        assert of_task["log_loss"]["gain"]["value"] == pytest.approx(gain, abs=1e-8)
    assert Predictor.open(checkpoint).scorer.fitted is not None
    assert Predictor.open(Run(run).checkpoint(10)).scorer.fitted is None

    recap("calibrate", run, "--split", "calibration", "--evaluate-on", "other", "--output", run.parent / "copy")
    with pytest.raises(InputError, match=r"step_00000020: is calibrated already; add --overwrite .* or --remove"):
        recap("calibrate", run, "--split", "calibration")
    recap("model", "golden", checkpoint, trained / "other.parquet")
    # It fits the same model, not the calibrated one.
    text = recap("calibrate", run, "--split", "calibration", "--overwrite")
    assert f"{checkpoint / 'golden.json'} holds predictions from before; write it again" in text
    assert json.loads((checkpoint / "calibration.json").read_text())["gains"] == gains
    assert recap("calibrate", run, "--remove").startswith(f"calibration removed from {checkpoint}\n")
    assert evaluated(run, "other") == before[1]
    with pytest.raises(InputError, match="has no calibration to remove"):
        recap("calibrate", run, "--remove")


def test_a_calibration_that_cannot_be_read_is_fitted_again_or_removed(run: Path) -> None:
    checkpoint = Run(run).checkpoint()
    for arguments in (["--split", "calibration", "--evaluate-on", "other", "--overwrite"], ["--remove"]):
        add_file(checkpoint, "calibration.json", "{}")
        with pytest.raises(CheckpointError, match=r"not a calibration of this model.*--remove.*--overwrite"):
            recap("evaluate", run)
        recap("calibrate", run, *arguments)
        assert (open_model(checkpoint).calibration is None) == (arguments == ["--remove"])
    recap("calibrate", run, "--split", "calibration", "--evaluate-on", "other")
    (checkpoint / "calibration.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"damaged .*; remove it with 'recap calibrate --remove', or use another"):
        recap("evaluate", run)
    recap("calibrate", run, "--remove")
    open_model(checkpoint)


def test_files_beyond_num_files_to_keep_were_not_trained_on(run: Path, trained: Path) -> None:
    inputs = f"validation_data.of_training.source.inputs={trained / 'train' / 'part-2.parquet'}"
    arguments = ["calibrate", run, "--split", "of_training", "--evaluate-on", "other"]
    assert "fitted 1 task on of_training, 200 rows" in recap(*arguments, inputs)


def test_files_without_rows_are_not_copies_of_each_other(run: Path, trained: Path) -> None:
    files = f"[{trained / 'calibration.parquet'}, {trained / 'empty.parquet'}]"
    arguments = ["calibrate", run, "--split", "calibration", "--evaluate-on", "other"]
    assert "fitted 2 tasks" in recap(*arguments, f"validation_data.calibration.source.inputs={files}")


def test_a_resumed_run_does_not_carry_the_calibration_on(run: Path, trained: Path) -> None:
    recap("calibrate", run, "--split", "calibration")
    config = load_config(trained / "ranker.yaml", [f"training.save_dir={run}", "training.num_train_steps=30"])
    train(config, Recorder())
    assert open_model(Run(run).checkpoint(20)).calibration is not None
    assert open_model(Run(run).checkpoint(30)).calibration is None


def test_a_copy_is_calibrated_and_the_run_stays_as_it_is(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copies" / "model"
    arguments = ["calibrate", run, "--split", "calibration", "--evaluate-on", "other", "--step", "10", "--by", "hour"]
    text = recap(*arguments, "--output", copy)
    assert "AUC" not in text  # offsets may change the order of rows
    assert {file.name for file in copy.iterdir()} == {
        "assets",
        "calibration.json",
        "config.yaml",
        "manifest.json",
        "statistics.json",
        "weights.safetensors",
    }
    calibration = open_model(copy).calibration
    assert calibration is not None
    assert [offset.value for offset in calibration.tasks["like"].offsets] != []
    assert open_model(Run(run).checkpoint(10)).calibration is None
    with pytest.raises(InputError, match=r"--output: .*model already exists; add --overwrite"):
        recap(*arguments, "--output", copy)
    recap(*arguments, "--output", copy, "--overwrite")
    for folder in (run, Run(run).checkpoint(20)):
        with pytest.raises(InputError, match="exists and is not a calibrated copy"):
            recap(*arguments, "--output", folder, "--overwrite")
    with pytest.raises(InputError, match="is in the model directory"):
        recap(*arguments, "--output", copy / "inside")


def test_with_one_split_half_of_the_users_show_the_gain(run: Path, trained: Path, tmp_path: Path) -> None:
    values = yaml.safe_load((trained / "ranker.yaml").read_text())
    values["validation_data"] = {"calibration": values["validation_data"]["calibration"]}
    values["training"]["save_dir"] = str(run)
    (tmp_path / "one.yaml").write_text(yaml.safe_dump(values))
    text = recap("calibrate", tmp_path / "one.yaml", "--split", "calibration", "--method", "isotonic")
    assert "calibration, the other half of its users, " in text
    assert "like: affine, since isotonic needs 10,000 positives" in text
    checkpoint = json.loads((Run(run).checkpoint() / "calibration.json").read_text())
    assert checkpoint["rows"] == 1500
    assert 0 < checkpoint["gains"][0]["rows"] < 1500


def test_tasks_with_few_positives_are_left_alone(run: Path, trained: Path, tmp_path: Path) -> None:
    rows = pq.read_table(trained / "calibration.parquet")
    likes = np.flatnonzero(rows.column("like").to_numpy() == 1)
    pq.write_table(rows.take(np.setdiff1d(np.arange(len(rows)), likes[30:])), tmp_path / "few.parquet")
    arguments = ["calibrate", run, "--split", "calibration", "--evaluate-on", "other"]
    inputs = f"validation_data.calibration.source.inputs={tmp_path / 'few.parquet'}"
    assert "like: left alone (30 positives, fewer than 50)" in recap(*arguments, inputs)
    calibration = open_model(Run(run).checkpoint()).calibration
    assert calibration is not None
    assert list(calibration.tasks) == ["share"]
    pq.write_table(rows.slice(0, 400), tmp_path / "few.parquet")
    alone = [f"validation_data={{calibration: {{source: {{inputs: {tmp_path / 'few.parquet'}}}}}}}", "--overwrite"]
    text = recap("calibrate", run, "--split", "calibration", *alone)
    assert "calibration, the other half of its users: too few rows to show the gain of share" in text
    assert Path(Run(run).checkpoint() / "calibration.json").exists()
    pq.write_table(rows.slice(0, 40), tmp_path / "few.parquet")
    before = (Run(run).checkpoint() / "calibration.json").read_bytes()
    with pytest.raises(InputError, match="no task can be calibrated on 'calibration'; nothing was written"):
        recap(*arguments, inputs, "--overwrite")
    assert (Run(run).checkpoint() / "calibration.json").read_bytes() == before


def test_tasks_that_get_worse_on_other_rows_are_left_as_they_were(run: Path, trained: Path, tmp_path: Path) -> None:
    rows = pq.read_table(trained / "other.parquet")
    before, of_split = evaluated(run, "other"), evaluated(run, "calibration")
    arguments = ["calibrate", run, "--split", "calibration", "--evaluate-on", "other"]
    inputs = f"validation_data.other.source.inputs={tmp_path / 'misleading.parquet'}"

    def mislead(task: str) -> None:
        """Labels all rows of `task` with what the calibration makes less probable on average."""
        nonlocal rows
        column = rows.column_names.index(task)
        label = int(of_split[task]["calibration"] > 1)
        labels = pa.array(np.full(len(rows), label), rows.schema.field(task).type)
        rows = rows.set_column(column, rows.schema.field(task), labels)
        pq.write_table(rows, tmp_path / "misleading.parquet")

    mislead("like")
    for by in ([], ["--by", "hour", "--overwrite"]):
        text = recap(*arguments, inputs, *by)
        assert re.search(r"warning: like: log loss \+\S+ on other, worse than before; it is left as it was", text)
        calibration = open_model(Run(run).checkpoint()).calibration
        assert calibration is not None
        assert list(calibration.tasks) == ["share"]
    recap(*arguments, "--overwrite", inputs)
    assert evaluated(run, "other")["like"] == before["like"]
    assert evaluated(run, "other")["share"] != before["share"]
    recap("calibrate", Run(run).checkpoint(), "--remove")
    mislead("share")
    with pytest.raises(InputError, match="makes no task better on other rows; nothing was written"):
        recap(*arguments, inputs)
    assert open_model(Run(run).checkpoint()).calibration is None


def test_rows_of_the_training_stay_so_if_train_data_is_overridden(run: Path, trained: Path, tmp_path: Path) -> None:
    files = {name: str(trained / "train" / f"part-{part}.parquet") for name, part in (("calibration", 0), ("other", 1))}
    trains = {"train_data": {"source": {"inputs": str(trained / "copied.parquet")}}}
    both = {name: {"source": {"inputs": file}} for name, file in files.items()}
    (tmp_path / "both.yaml").write_text(yaml.safe_dump(trains | {"validation_data": both}))
    options = [f"train_data.source.inputs={trains['train_data']['source']['inputs']}"]
    overrides = {name: f"validation_data.{name}.source.inputs={file}" for name, file in files.items()}
    for source in (run, trained / "ranker.yaml"):
        for changes in ([*options, overrides["calibration"]], ["--set-file", str(tmp_path / "both.yaml")]):
            with pytest.raises((InputError, ConfigError), match=r"--split: 'calibration' holds .* which the model was"):
                recap("calibrate", source, "--split", "calibration", *changes)
    inputs = [f"train_data.source.inputs={trained / 'empty.parquet'}", overrides["other"]]
    assert "other: not evaluated, since it shares files with train_data" in recap(
        "calibrate", run, "--split", "calibration", *inputs
    )


def test_a_large_split_is_sampled_and_the_sample_is_fair(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrate_rows, "MAX_ROWS", 400)
    text = recap("calibrate", run, "--split", "calibration", "--evaluate-on", "other")
    assert "fitted 2 tasks on calibration, a fair sample of 400 of 1,500 rows" in text
    assert "other, 1,500 rows, before → after calibration" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--split: missing"),
        (["--split", "train_data"], "--split: the model fits the rows that it was trained on too well.*calibration"),
        (["--split", "of_training"], r"--split: 'of_training' holds .*part-0.parquet, which the model was trained on"),
        (["--split", "copied"], r"--split: 'copied' holds .*copied.parquet, which the model was trained on"),
        (["--split", "calibratio"], "unknown split 'calibratio'.*Did you mean 'calibration'"),
        (["--split", "calibration", "--evaluate-on", "calibration"], "has the rows that the calibration is fitted on"),
        (["--split", "calibration", "--evaluate-on", "same"], "has the rows that the calibration is fitted on"),
        (["--split", "calibration", "--evaluate-on", "of_training"], "--evaluate-on: .*was trained on"),
        (["--split", "calibration", "--by", "ours"], "--by: unknown discrete feature 'ours'.*Did you mean 'hour'"),
        (["--split", "calibration", "training.seed=3"], "leave out these overrides"),
        (["--split", "calibration", "--remove"], "--split: --remove fits nothing"),
        (["--split", "calibration", "--step", "7"], "no checkpoint of step 7"),
    ],
)
def test_misuse_is_refused_and_changes_nothing(run: Path, arguments: list[str], message: str) -> None:
    with pytest.raises((InputError, ConfigError, CheckpointError), match=message):
        recap("calibrate", run, *arguments)
    assert open_model(Run(run).checkpoint()).calibration is None
