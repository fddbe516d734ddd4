"""The metrics of probabilities before calibration, and other lists, in the jobs of a run."""

import json
from pathlib import Path

import pytest
import torch
from model.rankers import make_batch, make_fitted, make_ranker
from support import Recorder, feed_config, write_feed
from typer.testing import CliRunner

from recap.cli.main import app
from recap.config.recap import RecapConfig
from recap.distributed import ONE_RANK
from recap.evaluation.metrics.suite import MetricSuite
from recap.evaluation.observers.uncalibrated import PROBABILITY_METRICS, Uncalibrated
from recap.evaluation.result import EvaluationReport, TaskMetrics
from recap.model.scorer import Scorer, Scores
from recap.training.trainer import train

SAMPLED = {"like": {"neg_downsampling_rate": 0.5}, "share": {}}


def sampled(folder: Path) -> RecapConfig:
    source = {"inputs": str(folder / "train" / "*.parquet")}
    return feed_config(folder, folder / "run", train_data={"source": source, "tasks": SAMPLED})


def observe(scorer: Scorer, config: RecapConfig) -> TaskMetrics:
    observer = Uncalibrated(config, "validation", scorer, ONE_RANK)
    before, after = torch.rand(40, 2), torch.rand(40, 2)
    batch = make_batch(config)
    observer.update(batch, Scores(before, before, after, before[:, 0]))
    expected = MetricSuite(config.tasks, PROBABILITY_METRICS, intervals=False)
    assert batch.labels is not None
    assert batch.weights is not None
    expected.update(before, batch.labels, batch.weights)
    found = observer.result()
    for task, metrics in found.items():
        assert metrics == pytest.approx(expected.compute()[task], nan_ok=True)
    return found


def test_they_are_of_the_tasks_that_calibration_changes() -> None:
    config = sampled(Path("feed"))
    plain = feed_config(Path("feed"), Path("run"))
    ranker = make_ranker(config)
    assert list(observe(Scorer.of(config, ranker), config)) == ["like"]
    assert list(observe(Scorer.of(plain, ranker, make_fitted(plain)), plain)) == ["like", "share"]
    assert observe(Scorer.of(plain, ranker), plain) == {}


def test_only_chosen_metrics_are_reported() -> None:
    for chosen, found in ((["auc", "brier"], {"like": ["brier"]}), (["auc"], {})):
        config = sampled(Path("feed")).model_copy(update={"which_metrics": chosen})
        observer = Uncalibrated(config, "validation", Scorer.of(config, make_ranker(config)), ONE_RANK)
        assert {task: list(metrics) for task, metrics in observer.result().items()} == found


def evaluated(run: Path, *arguments: str) -> str:
    result = CliRunner().invoke(app, ["evaluate", str(run), *arguments])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sampled")
    train(sampled(write_feed(folder)), Recorder())
    return folder / "run"


def test_an_evaluation_shows_and_writes_them_beside_the_calibrated_ones(run: Path) -> None:
    shown = evaluated(run)
    assert "validation, probabilities before → after calibration" in shown
    file = run / "evaluation.json"
    before = json.loads(file.read_text())["uncalibrated"]["validation"]["like"]
    result = EvaluationReport.read_file(file).splits["validation"]
    assert list(before) == list(PROBABILITY_METRICS)
    assert result.uncalibrated == {"like": before}
    after = result.metrics["like"]
    assert before["calibration"] > after["calibration"]
    assert f"{before['calibration']:.4f} → {after['calibration']:.4f}" in shown


def test_a_model_trained_without_requests_is_evaluated_on_their_lists(run: Path, tmp_path: Path) -> None:
    by_request, by_user = (tmp_path / f"{name}.json" for name in ("request", "user"))
    evaluated(run, "--output", str(by_user))
    evaluated(run, "features.request=hour", "--output", str(by_request))
    one, other = (
        EvaluationReport.read_file(file).splits["validation"].metrics["like"] for file in (by_request, by_user)
    )
    assert one["auc"] == other["auc"]
    assert one["ndcg_at_10"] != other["ndcg_at_10"]
