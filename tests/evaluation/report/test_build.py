"""`recap report`: what it writes, with which baseline, and what it refuses."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import Result
from support import Recorder, feed_values, write_feed
from typer.testing import CliRunner

from recap.cli.main import app
from recap.config.file.load import load_config
from recap.errors import CheckpointError, ConfigError, InputError, RunError
from recap.evaluation.report import page
from recap.evaluation.result import EvaluationReport
from recap.runs import Run
from recap.training.trainer import train

NAMES = ["sport", "news", "<b>", "music"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A feed, a run, one that is its baseline, and one of regressions without users."""
    folder = write_feed(tmp_path_factory.mktemp("feed"))

    def trained(name: str, values: dict[str, Any]) -> None:
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(values))
        train(load_config(folder / f"{name}.yaml"), Recorder())

    (folder / "names.txt").write_text("\n".join(NAMES))
    values = feed_values(folder, folder / "run")
    values["features"]["names"] = {"vector": str(folder / "names.txt")}
    values["training"]["watch"] = {"metric": "auc", "split": "validation"}
    trained("run", values)
    values = feed_values(folder, folder / "regressions")
    del values["features"]["user"]
    for task in values["model"]["tasks"].values():
        task.pop("pos_weight", None)
        task["objective"] = {"kind": "regression"}
    values["training"] |= {"num_train_steps": 2, "eval_log_every_n": None}
    trained("regressions", values)
    values = feed_values(folder, folder / "fewer")
    values["features"]["continuous"] = ["followers"]
    for section in ("model", "train_data"):
        values[section]["tasks"].pop("share")
    values["scoring"]["weights"].pop("share")
    values["training"] |= {"num_train_steps": 2, "eval_log_every_n": None}
    trained("fewer", values)
    return folder


def report(*arguments: str | Path) -> str:
    done = CliRunner().invoke(app, ["report", *map(str, arguments)])
    if done.exception is not None:
        raise done.exception
    return done.output


@pytest.fixture(scope="module")
def done(folder: Path) -> Result:
    """What `recap report` said of the run, with checks that fail it."""
    return CliRunner().invoke(app, ["report", str(folder / "run"), "--fail-on", "warning"])


def numbers_in(folder: Path) -> Any:
    return json.loads((folder / "report.json").read_text())


def test_a_report_holds_the_numbers_of_evaluate_and_the_curves_of_training(folder: Path, done: Result) -> None:
    assert str(folder / "run" / "report" / "index.html") in done.output
    numbers = numbers_in(folder / "run" / "report")
    assert CliRunner().invoke(app, ["evaluate", str(folder / "run")]).exit_code == 0
    result = EvaluationReport.read(Run(folder / "run")).splits["validation"]
    for task in numbers["tasks"]:
        for name, measured in task["metrics"].items():
            value = result.metrics[task["task"]][name]
            assert measured["value"] == (pytest.approx(value) if math.isfinite(value) else None)
    like = numbers["tasks"][0]["metrics"]["auc"]
    assert (like["low"], like["high"]) == pytest.approx(result.intervals["like"]["auc"])
    assert numbers["training"]["model"]["losses"]["steps"] == [3, 6, 9, 12]
    assert numbers["training"]["model"]["evaluations"]["steps"] == [6, 12]
    assert numbers["verdict"]["state"] == "alone"
    assert (numbers["rows"], numbers["users"]) == (250, 25)
    card = (folder / "run" / "report" / "model_card.md").read_text()
    assert card.startswith("# run\n")
    assert "| like |" in card


def test_single_values_of_vectors_are_listed_by_task_under_their_names(folder: Path, done: Result) -> None:
    values = numbers_in(folder / "run" / "report")["value_importance"]
    assert list(values) == ["like", "share"]
    assert {name for name, _ in values["like"]["vector"]} == {f"vector[{name}]" for name in NAMES}
    moved = [each for _, each in values["like"]["vector"]]
    assert moved == sorted(moved, reverse=True)
    assert moved[-1] > 0


def test_failed_checks_are_on_the_terminal_in_the_report_and_in_the_exit_code(folder: Path, done: Result) -> None:
    assert isinstance(done.exception, RunError)
    failed = re.findall(r"(?:error|warning) (R\d+): ", done.output)
    assert f"--fail-on warning: {len(failed)} findings of checks: {', '.join(dict.fromkeys(failed))}" == str(
        done.exception
    )
    findings = numbers_in(folder / "run" / "report")["findings"]
    assert [item["code"] for item in findings if item["severity"] != "note"] == failed
    card = (folder / "run" / "report" / "model_card.md").read_text()
    assert all(f"{item['severity']} {item['code']}" in card for item in findings)


def test_a_baseline_with_other_features_and_tasks_is_compared_on_the_same_rows(folder: Path, tmp_path: Path) -> None:
    report(folder / "run", "--baseline", folder / "fewer", "--output", tmp_path / "new", "--quick")
    numbers = numbers_in(tmp_path / "new")
    (like,) = numbers["tasks"]
    assert like["metrics"]["auc"]["change"]["value"] == pytest.approx(
        like["metrics"]["auc"]["value"] - like["metrics"]["auc"]["baseline"]
    )
    assert numbers["remarks"] == ["Left out, because only this model predicts it: share."]
    assert ["features.continuous.0", "age", "followers"] not in numbers["config_changes"]
    assert any(path.startswith("features.continuous") for path, *_ in numbers["config_changes"])


def test_step_best_applies_to_the_baseline_and_a_number_to_the_model_alone(folder: Path, tmp_path: Path) -> None:
    run, fewer = folder / "run", folder / "fewer"
    best = Run(run).best
    assert best is not None
    report(run, "--baseline", run, "--step", "best", "--output", tmp_path, "--quick")
    assert numbers_in(tmp_path)["baseline"] == f"run, {best.name}"
    report(fewer, "--baseline", run, "--step", "2", "--output", tmp_path, "--quick")
    assert numbers_in(tmp_path)["baseline"] == "run, step_00000012"
    remark = "The baseline has no best checkpoint, since it watched no metric; compared is fewer, step_00000002."
    assert remark in report(run, "--baseline", fewer, "--step", "best", "--output", tmp_path, "--quick")
    assert numbers_in(tmp_path)["remarks"][0] == remark


def test_a_model_against_itself_differs_in_nothing(folder: Path, tmp_path: Path) -> None:
    checkpoint = folder / "run" / "checkpoints" / "step_00000012"
    report(folder / "run", "--baseline", checkpoint, "--output", tmp_path, "--quick")
    numbers = numbers_in(tmp_path)
    assert numbers["baseline"] == "step_00000012"
    assert numbers["verdict"]["state"] == "unclear"
    changes = [cell["change"] for task in numbers["tasks"] for cell in task["metrics"].values() if cell["change"]]
    assert {change["value"] for change in changes} <= {0.0, None}
    assert numbers["config_changes"] == []
    assert (numbers["checked"], numbers["findings"], numbers["importance"]) == (False, [], {})


def test_regressions_without_users_have_their_own_metrics_charts_and_intervals(folder: Path, tmp_path: Path) -> None:
    report(folder / "regressions", "--output", tmp_path, "--quick")
    numbers = numbers_in(tmp_path)
    assert (numbers["rows"], numbers["users"]) == (250, 0)
    assert numbers["remarks"] == ["Without features.user, intervals take each row as a user of its own."]
    html = (tmp_path / "index.html").read_text()
    assert re.findall(r'<figure data-chart="(\w+)">', html) == ["loss", "auc", "rate", "means", "values"]
    assert "The training recorded no XAUC of this task on this split." in html
    assert "by users" not in html
    assert "by users" not in (tmp_path / "model_card.md").read_text()


def test_misuse_is_refused_before_anything_is_written(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="--fail-on: --quick leaves the checks out; leave out one of the two"):
        report(folder / "run", "--output", tmp_path / "new", "--quick", "--fail-on", "error")
    checkpoint = folder / "run" / "checkpoints" / "step_00000012"
    with pytest.raises(InputError, match="is a model directory, whose files must not change; add --output DIR"):
        report(checkpoint)
    (tmp_path / "index.html").write_text("mine")
    with pytest.raises(InputError, match=r"index.html exists, and no report wrote it; choose another --output"):
        report(folder / "run", "--output", tmp_path)
    assert (tmp_path / "index.html").read_text() == "mine"
    with pytest.raises(InputError, match="is not a folder"):
        report(folder / "run", "--output", folder / "run.yaml")
    with pytest.raises(ConfigError, match="split: unknown split 'test'"):
        report(folder / "run", "--split", "test", "--output", tmp_path / "new")
    with pytest.raises(CheckpointError, match="no such folder"):
        report(folder / "run", "--baseline", folder / "none", "--output", tmp_path / "new")
    monkeypatch.setattr(page, "find_spec", lambda module: None if module == "altair" else module)
    with pytest.raises(InputError, match=r"not installed: altair; run pip install 'recap-ranker\[report\]'"):
        report(folder / "run", "--output", tmp_path / "new")
    assert not (tmp_path / "new").exists()
