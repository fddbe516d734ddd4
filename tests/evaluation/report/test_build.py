"""`recap report`: what it writes, with which baseline, and what it refuses."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import Recorder, feed_values, write_feed
from typer.testing import CliRunner

from recap.cli.main import app
from recap.config.file.load import load_config
from recap.errors import CheckpointError, ConfigError, InputError, RunError
from recap.evaluation.report import page
from recap.evaluation.result import EvaluationReport
from recap.runs import Run
from recap.training.trainer import train


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A feed, a run, and others that are its baselines."""
    folder = write_feed(tmp_path_factory.mktemp("feed"))

    def trained(name: str, values: dict[str, Any]) -> None:
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(values))
        train(load_config(folder / f"{name}.yaml"), Recorder())

    values = feed_values(folder, folder / "run")
    trained("run", values)
    values = feed_values(folder, folder / "fewer")
    values["features"]["continuous"] = ["followers"]
    for section in ("model", "train_data"):
        values[section]["tasks"].pop("share")
    values["scoring"]["weights"].pop("share")
    trained("fewer", values)
    return folder


def report(*arguments: str | Path) -> str:
    done = CliRunner().invoke(app, ["report", *map(str, arguments)])
    if done.exception is not None:
        raise done.exception
    return done.output


def test_a_report_holds_the_numbers_of_evaluate_and_the_curves_of_training(folder: Path) -> None:
    assert str(folder / "run" / "report" / "index.html") in report(folder / "run")
    numbers = json.loads((folder / "run" / "report" / "report.json").read_text())
    assert CliRunner().invoke(app, ["evaluate", str(folder / "run")]).exit_code == 0
    result = EvaluationReport.read(Run(folder / "run")).splits["validation"]
    for task in numbers["tasks"]:
        for name, measured in task["metrics"].items():
            assert (
                measured["value"] == pytest.approx(result.metrics[task["task"]][name], nan_ok=True)
                or measured["value"] is None
            )
    like = numbers["tasks"][0]["metrics"]["auc"]
    assert (like["low"], like["high"]) == pytest.approx(result.intervals["like"]["auc"])
    assert numbers["training"]["model"]["losses"]["steps"] == [3, 6, 9, 12]
    assert numbers["training"]["model"]["evaluations"]["steps"] == [6, 12]
    assert numbers["verdict"]["state"] == "alone"
    assert (numbers["rows"], numbers["users"]) == (250, 25)
    card = (folder / "run" / "report" / "model_card.md").read_text()
    assert card.startswith("# run\n")
    assert "| like |" in card


def test_a_baseline_with_other_features_and_tasks_is_compared_on_the_same_rows(folder: Path, tmp_path: Path) -> None:
    report(folder / "run", "--baseline", folder / "fewer", "--output", tmp_path / "new")
    numbers = json.loads((tmp_path / "new" / "report.json").read_text())
    (like,) = numbers["tasks"]
    assert like["metrics"]["auc"]["change"]["value"] == pytest.approx(
        like["metrics"]["auc"]["value"] - like["metrics"]["auc"]["baseline"]
    )
    assert numbers["remarks"] == ["Left out, because only this model predicts it: share."]
    assert ["features.continuous.0", "age", "followers"] not in numbers["config_changes"]
    assert any(path.startswith("features.continuous") for path, *_ in numbers["config_changes"])
    report(
        folder / "fewer", "--baseline", folder / "run" / "checkpoints" / "step_00000012", "--output", tmp_path / "new"
    )
    assert json.loads((tmp_path / "new" / "report.json").read_text())["baseline"] == "step_00000012"


def test_a_model_against_itself_differs_in_nothing(folder: Path, tmp_path: Path) -> None:
    report(folder / "run", "--baseline", folder / "run", "--output", tmp_path)
    numbers = json.loads((tmp_path / "report.json").read_text())
    assert numbers["verdict"]["state"] == "unclear"
    changes = [cell["change"] for task in numbers["tasks"] for cell in task["metrics"].values() if cell["change"]]
    assert {change["value"] for change in changes} <= {0.0, None}
    assert numbers["config_changes"] == []


def test_failed_checks_are_on_the_terminal_in_the_report_and_in_the_exit_code(folder: Path, tmp_path: Path) -> None:
    command = ["report", str(folder / "run"), "--output", str(tmp_path), "--fail-on"]
    done = CliRunner().invoke(app, [*command, "warning"])
    assert isinstance(done.exception, RunError)
    failed = re.findall(r"(?:error|warning) (R\d+): ", done.output)
    assert f"--fail-on warning: {len(failed)} findings of checks: {', '.join(dict.fromkeys(failed))}" == str(
        done.exception
    )
    findings = json.loads((tmp_path / "report.json").read_text())["findings"]
    assert [item["code"] for item in findings if item["severity"] != "note"] == failed
    assert all(f"{item['severity']} {item['code']}" in (tmp_path / "model_card.md").read_text() for item in findings)
    with pytest.raises(InputError, match="--fail-on: --quick leaves the checks out; leave out one of the two"):
        report(folder / "run", "--output", tmp_path, "--quick", "--fail-on", "error")
    report(folder / "run", "--output", tmp_path, "--quick")
    assert json.loads((tmp_path / "report.json").read_text())["findings"] == []


def test_misuse_is_refused_before_anything_is_written(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
