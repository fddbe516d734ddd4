"""The mean weights of experts in the report of an evaluation."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support import Recorder, feed_config, write_feed
from typer.testing import CliRunner

from recap.cli.main import app
from recap.config.recap import JobMode, RecapConfig
from recap.data.open import open_stream
from recap.evaluation.run import evaluate_run
from recap.model.directory import open_model
from recap.runs import find_model_directory
from recap.training.trainer import train

MMOE = {"kind": "mmoe", "num_experts": 3}


def trained(folder: Path, sharing: dict[str, Any]) -> RecapConfig:
    write_feed(folder)
    training = {"num_train_steps": 2, "num_eval_steps": 3}
    config = feed_config(folder, folder / "run", training=training, model={"sharing": sharing})
    train(config, Recorder())
    return config


def test_the_report_has_the_mean_weight_of_each_expert(tmp_path: Path) -> None:
    config = trained(tmp_path, MMOE)
    report = evaluate_run(config, tmp_path / "run")
    written = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert "strata" not in written
    assert written["gates"] == {"validation": report.splits["validation"].gates}
    model = open_model(find_model_directory(tmp_path / "run"))
    stream = open_stream(config, model.assets, JobMode.EVALUATE, "validation")
    batches = [batch for batch, _ in zip(stream, range(3), strict=False)]
    with torch.inference_mode():
        ranker = model.ranker.eval()
        rows = torch.cat([ranker.gate_weights(batch)["share"] for batch in batches])
    assert len(rows) == 3 * 64
    means = written["gates"]["validation"]["share"]
    assert list(means) == ["expert_1", "expert_2", "expert_3"]
    assert list(means.values()) == pytest.approx(rows.double().mean(dim=0).tolist(), rel=1e-5)


def test_the_report_of_a_model_without_gates_has_no_gates(tmp_path: Path) -> None:
    report = evaluate_run(trained(tmp_path, {"kind": "share_all"}), tmp_path / "run")
    assert "gates" not in report.to_json()
    assert report.splits["validation"].gates == {}


def test_the_command_shows_a_line_for_each_gate(tmp_path: Path) -> None:
    trained(tmp_path, {"kind": "ple", "shared_experts": 1, "task_experts": 1})
    printed = CliRunner().invoke(app, ["evaluate", str(tmp_path / "run")]).stdout
    assert "gates, validation" in printed
    lines = {line.split()[0]: line.split()[1:] for line in printed.splitlines() if line.startswith("level_")}
    assert lines.keys() == {"level_1/like", "level_1/share", "level_1/shared", "level_2/like", "level_2/share"}
    assert lines["level_2/share"][::2] == ["share_1", "shared_1"]
    assert sum(map(float, lines["level_1/shared"][1::2])) == pytest.approx(1, abs=0.002)
