"""`recap compare`: models on the same rows, and gates."""

import io
import json
import re
from pathlib import Path

import pytest
import rich.console
import yaml
from support import Recorder, feed_values, write_feed
from typer.testing import CliRunner

from recap.cli.main import app
from recap.cli.terminal.comparison import comparison_tables
from recap.config.file.load import config_of
from recap.errors import CheckpointError, ConfigError, DataError, InputError, RunError
from recap.evaluation.compare_models import compare_models
from recap.runs import Run
from recap.training.trainer import train


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A feed, a trained run, one that its second step made worse, and one without a task."""
    folder = write_feed(tmp_path_factory.mktemp("compare"), train_rows=2000, validation_rows=800)
    for name, steps in (("good", 60), ("bad", 2), ("one_task", 1)):
        values = feed_values(folder, folder / name)
        values["training"] |= {"num_train_steps": steps, "checkpoint_every_n": steps, "eval_log_every_n": None}
        if name == "bad":
            values["training"] |= {"checkpoint_every_n": 1, "eval_log_every_n": 1}
            values["training"]["watch"] = {"metric": "auc", "split": "validation"}
            values["optimizer"]["backbone"] = {"kind": "constant", "learning_rate": 0.5}
        if name == "one_task":
            for section in (values["model"], values["train_data"]):
                del section["tasks"]["share"]
            values["optimizer"]["towers"] = {"default": values["optimizer"]["backbone"]}
            values.pop("scoring", None)
        train(config_of(values), Recorder())
    return folder


def compare(*arguments: str | Path) -> str:
    done = CliRunner().invoke(app, ["compare", *map(str, arguments)])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.output


def test_the_better_model_is_told_apart_on_the_same_rows(folder: Path, tmp_path: Path) -> None:
    output = compare(folder / "bad", folder / "good", "--output", tmp_path / "differences.json")
    assert "better: mean AUC +0." in output
    (content,) = json.loads((tmp_path / "differences.json").read_text())
    assert content["verdict"] == "better"
    assert content["model"] == "good, step_00000060"
    difference = content["differences"]["like"]["auc"]
    assert 0 < difference["low"] < difference["value"] < difference["high"]
    assert "worse: mean AUC -0." in compare(folder / "good", folder / "bad")
    with pytest.raises(InputError, match="already exists"):
        compare(folder / "bad", folder / "good", "--output", tmp_path / "differences.json")


def test_a_narrow_terminal_shows_every_difference(folder: Path) -> None:
    comparison = compare_models(folder / "bad", [folder / "good"], None, (), lambda text: None)
    for width, form in ((60, r"like +auc +\+0\.\d{4} ± 0\.\d{4} +better"), (100, r"like +auc +0.* \[\+0\.\d{4}, ")):
        console = rich.console.Console(width=width, file=io.StringIO())
        for table in comparison_tables("title", comparison.comparisons["good, step_00000060"], width):
            console.print(table)
        text = console.file.getvalue()
        assert re.search(form, text)
        assert "…" not in text


def test_step_chooses_the_checkpoint_of_every_run_and_takes_a_checkpoint_as_it_is(folder: Path) -> None:
    bad, checkpoint = folder / "bad", folder / "good" / "checkpoints" / "step_00000060"
    assert Run(bad).best == Run(bad).checkpoint(1)
    assert "step_00000060 against bad, step_00000001" in compare(bad, checkpoint, "--step", "best")
    latest = compare(checkpoint, bad)
    assert "bad, step_00000002 against step_00000060" in latest
    assert f"{bad}: using step_00000002, the latest; the watched metric was best at step 1: --step best" in latest


def test_equal_models_cannot_be_told_apart(folder: Path) -> None:
    output = compare(folder / "good", folder / "good" / "checkpoints" / "step_00000060")
    assert "cannot be told: mean AUC +0.0000 [+0.0000, +0.0000]" in output


def test_other_files_and_tasks_that_only_one_model_has(folder: Path) -> None:
    output = compare(folder / "one_task", folder / "good", "--data", folder / "train" / "part-0.parquet")
    assert "left out, since only one of them predicts it: share" in output
    assert "warning: data: part-0.parquet is a training file of good, step_00000060; expect better" in output
    assert "left out, since only one of them predicts it: share" in compare(folder / "good", folder / "one_task")


def test_a_gate_opens_for_the_better_model_only(folder: Path, tmp_path: Path) -> None:
    gate = tmp_path / "gate.yaml"
    gate.write_text(
        "rules: [{metric: auc, not_worse_by: 0.01}, {metric: log_loss, tasks: [like], better_by: 0}, "
        "{metric: ndcg, at_least: 0.1}]"
    )
    output = compare(folder / "bad", folder / "good", "--gate", gate)
    assert re.findall(r"gate: (ok) +(.*?): (\w+) [+-]?0.*, required: (.*)\n", output) == [
        ("ok", "like", "auc", "not worse by 0.01"),
        ("ok", "share", "auc", "not worse by 0.01"),
        ("ok", "like", "log_loss", "better by 0"),
        ("ok", "final score", "ndcg", "at least 0.1"),
    ]
    assert "gate: open, all 4 conditions hold" in output
    with pytest.raises(RunError, match="the gate is closed: 3 of its conditions do not hold"):
        compare(folder / "good", folder / "bad", "--gate", gate)


def test_misuse_is_refused(folder: Path, tmp_path: Path) -> None:
    gate = tmp_path / "gate.yaml"
    gate.write_text(yaml.safe_dump({"rules": [{"metric": "auc", "tasks": ["lik"], "at_least": 0.5}]}))
    good, bad = folder / "good", folder / "bad"
    with pytest.raises(ConfigError, match=r"rules\.0\.tasks: unknown task 'lik'.*Did you mean 'like'"):
        compare(good, folder / "bad", "--gate", gate)
    for model in (good, good / "checkpoints" / "step_00000060"):
        with pytest.raises(InputError, match="overwritten by its own output"):
            compare(good, model, "--output", model / "config.yaml", "--overwrite")
    gate.write_text("rules: [{metric: uplift_7, at_least: 0.5}]")
    with pytest.raises(ConfigError, match=r"metrics\.hit_at lacks its rank.*Did you mean 'uplift_3'"):
        compare(good, folder / "bad", "--gate", gate)
    gate.write_text("rules: [{metric: ndcg, at_least: 0.5}]")
    with pytest.raises(ConfigError, match=r"ndcg needs .*scoring\.weights that are the same"):
        compare(good, folder / "one_task", "--gate", gate)
    with pytest.raises(InputError, match="--step: none of the models is a run"):
        compare(good / "checkpoints" / "step_00000060", bad / "checkpoints" / "step_00000001", "--step", "best")
    with pytest.raises(CheckpointError, match="no best checkpoint, because no metric was watched"):
        compare(good, bad, "--step", "best")
    with pytest.raises(CheckpointError, match="no checkpoint of step 7"):
        compare(good, folder / "bad", "--step", "7")
    with pytest.raises(InputError, match="--step: expected a whole number or 'best'"):
        compare(good, folder / "bad", "--step", "last")
    with pytest.raises(ConfigError, match="unknown split 'valid'"):
        compare(good, folder / "bad", "--split", "valid")
    with pytest.raises(ConfigError, match="cannot be read"):
        compare(good, folder / "bad", "--gate", tmp_path / "missing.yaml")
    with pytest.raises(CheckpointError, match="no such folder"):
        compare(good, folder / "missing")
    with pytest.raises(InputError, match="given twice"):
        compare(good, good)
    with pytest.raises(DataError, match="missing"):
        compare(good, folder / "bad", "--data", tmp_path / "missing.parquet")
