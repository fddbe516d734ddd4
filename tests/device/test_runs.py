"""Whole runs on the GPU: training, exact resume, evaluation, calibration, prediction and requests."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from model.kinds import ENCODERS, HISTORY
from support import Recorder, feed_values, write_feed
from torch.testing import assert_close
from training.runs import assert_same_run, files, interrupt
from typer.testing import CliRunner

from recap.cli.main import app
from recap.config.file.load import config_of
from recap.config.recap import JobMode, RecapConfig
from recap.data.formats.location import Location
from recap.data.open import open_source
from recap.data.sample import sampled_batches
from recap.errors import Interrupted
from recap.evaluation.importance import importance, sample_of, value_importance
from recap.inference.predictor import Predictor
from recap.inference.requests import RequestScorer
from recap.model.directory import open_model
from recap.model.scorer import Scorer
from recap.runs import Run
from recap.runtime import Runtime, start_runtime
from recap.training.trainer import train

TABLES = {"learning_rate": {"kind": "constant", "learning_rate": 0.1}, "sparse": True}
KINDS: dict[str, dict[str, dict[str, Any]]] = {
    "plain": {"training": {"ema": {"decay": 0.9}, "batch_norm_rows": 128, "log_norms": True}},
    "float16_with_sparse_tables": {
        "training": {"precision": "float16", "non_finite": {"kind": "skip", "budget": 3}},
        "optimizer": {"tables": {**TABLES, "algorithm": {"kind": "rowwise_adagrad"}}, "frozen": ["towers.share"]},
    },
    "bf16_with_histories": {
        "training": {"precision": "bf16", "gradient_accumulation": 2},
        "model": {
            "histories": {"watched": {"encoder": ENCODERS["transformer"]}},
            "position_debias": {"feature": "hour", "num_dims": 3, "scored_at": "average"},
        },
        "optimizer": {"tables": {**TABLES, "algorithm": {"kind": "adam"}}, "balancing": {"kind": "uncertainty"}},
    },
    "experts_with_projected_gradients": {
        "training": {"precision": "tf32", "watch": {"metric": "auc", "split": "validation", "cut_rates": {}}},
        "model": {"sharing": {"kind": "cgc", "shared_experts": 1, "task_experts": 1}},
        "optimizer": {"balancing": {"kind": "pcgrad"}, "clip_gradients": {"kind": "norm", "max_norm": 1.0}},
    },
}


@pytest.fixture(scope="module")
def posts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_feed(tmp_path_factory.mktemp("posts"), histories=True)


def make(posts: Path, folder: Path, kind: str) -> RecapConfig:
    values = feed_values(posts, folder)
    values["strata"] = {"friends": {"feature": "in_network", "value": 1}}
    values["slices"] = "auto"
    for section, changes in KINDS[kind].items():
        values[section] |= changes
    if "histories" in values["model"]:
        attributes = {name: value for name, value in HISTORY["attributes"].items() if name != "hour"}
        values["features"]["histories"] = {"watched": {**HISTORY, "attributes": attributes}}
        values["features"]["discrete"]["post"] = {"hash": {"buckets": 30}}
    return config_of(values)


@pytest.fixture(params=KINDS)
def run(request: pytest.FixtureRequest, posts: Path, tmp_path: Path, gpu: torch.device) -> RecapConfig:
    """The configuration of a run that was stopped, resumed and finished."""
    config = make(posts, tmp_path / "run", request.param)
    with pytest.raises(Interrupted):
        train(config, Recorder({5: interrupt}))
    train(config, Recorder())
    return config


def test_a_run_resumes_to_the_bit_and_its_model_is_measured_and_scores_alike_everywhere(
    run: RecapConfig, posts: Path, tmp_path: Path
) -> None:
    whole = run.model_copy(update={"training": run.training.model_copy(update={"save_dir": str(tmp_path / "whole")})})
    train(whole, Recorder())
    assert_same_run(tmp_path / "whole", tmp_path / "run", 12)
    weights = files(tmp_path / "run", 12, "weights.safetensors")
    assert {tensor.dtype for tensor in weights.values()} <= {torch.float32, torch.int64}
    _evaluate_and_calibrate(tmp_path)
    folder = Run(tmp_path / "run").checkpoint_path(12)
    _score(folder, pq.read_table(posts / "validation"))


def _evaluate_and_calibrate(tmp_path: Path) -> None:
    """Evaluate and calibrate through the commands."""
    _recap("evaluate", tmp_path / "run", "--drift")
    evaluation = json.loads(Run(tmp_path / "run").evaluation_file.read_text())
    assert set(evaluation["splits"]["validation"]) == {"like", "share"}
    _recap("calibrate", tmp_path / "run", "--split", "validation", "--method", "isotonic", "--overwrite")


def _recap(*arguments: str | Path) -> str:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def _score(folder: Path, rows: pa.Table) -> None:
    """Scores of files and of requests, on both devices and in bf16, agree."""
    on_gpu = Predictor.open(folder)
    assert on_gpu.runtime.device.type == "cuda"
    on_cpu = Predictor(open_model(folder), Runtime(torch.device("cpu")))
    expected = on_cpu.predict(rows, Location("rows"))
    assert_close(on_gpu.predict(rows, Location("rows")), expected, atol=1e-4, rtol=1e-3)
    rounded = Predictor.open(folder, precision="bf16").predict(rows, Location("rows"))
    assert_close(rounded.probabilities, expected.probabilities, atol=0.02, rtol=0.05)
    scorer = RequestScorer(on_gpu, cache_bytes=1 << 20)
    of_user = [name for name in scorer.schema if name.startswith(("hour", "watched", "vector"))]
    others = [name for name in scorer.schema if name not in of_user]
    requests = [scorer.encode(rows.slice(row, 1).select(of_user), rows.slice(row, 3).select(others)) for row in (0, 9)]
    for row, predictions in zip((0, 9), scorer.score(requests), strict=True):
        same = expected.probabilities[row]
        assert_close(predictions.probabilities[0], same, atol=1e-4, rtol=1e-3)


def test_features_and_values_are_found_important_on_the_gpu(posts: Path, tmp_path: Path) -> None:
    config = make(posts, tmp_path / "run", "plain")
    train(config, Recorder())
    model = open_model(Run(tmp_path / "run").checkpoint_path(12))
    batches = sampled_batches(open_source(config, model.assets, JobMode.EVALUATE, "validation"))
    results = []
    for device in (start_runtime().device, torch.device("cpu")):
        scorer, rows = Scorer.of(config, model.ranker.to(device)), sample_of(batches)
        losses = {
            item.name: item.losses["like"]["auc"].value for item in importance(scorer, rows, config, model.assets)
        }
        values = {item.feature: dict(item.values) for item in value_importance(scorer, rows, config, model.assets)}
        results.append(
            [losses[name] for name in sorted(losses)] + [values["vector"][name] for name in sorted(values["vector"])]
        )
    assert_close(*results, atol=1e-3, rtol=1e-3)


def test_a_run_uses_the_gpu(gpu: torch.device) -> None:
    assert start_runtime().device.type == gpu.type == "cuda"
