"""Metrics of strata, the rows in which a feature has a given value."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from model.kinds import make_batch
from support import LANGUAGES, Recorder, feed_config, feed_values, write_feed

from recap.cli.console import Console
from recap.config.file.load import config_of
from recap.config.recap import RecapConfig
from recap.data.encoding.assets import load_assets
from recap.distributed import ONE_RANK
from recap.errors import ConfigError, DataError
from recap.evaluation.metrics.suite import MetricSuite
from recap.evaluation.observers.strata import Strata
from recap.evaluation.run import evaluate_run
from recap.model.scorer import Scores
from recap.training.trainer import train

STRATA = {"morning": {"feature": "hour", "value": 8}, "english": {"feature": "language", "value": "en"}}


def with_strata(folder: Path, strata: dict[str, Any] = STRATA) -> RecapConfig:
    values = feed_values(folder, folder / "run")
    values["strata"] = strata
    return config_of(values)


def test_a_stratum_has_the_metrics_of_its_rows_alone(tmp_path: Path) -> None:
    config = with_strata(write_feed(tmp_path))
    assets = load_assets(config.features)
    strata, expected = Strata(config, "validation", assets, ONE_RANK), MetricSuite(config.tasks)
    torch.manual_seed(0)
    for seed in range(3):
        batch = make_batch(config, 300, seed)
        probabilities = torch.rand(300, 2)
        strata.update(batch, Scores(probabilities, probabilities, probabilities, torch.zeros(300)))
        rows = (batch.discrete[:, 0] == 9).nonzero()[:, 0]
        part = batch.rows(rows)
        assert part.labels is not None
        assert part.weights is not None
        expected.update(probabilities[rows], part.labels, part.weights, part.user)
    results = strata.result()
    assert list(results) == ["morning", "english"]
    for task, metrics in expected.compute().items():
        assert results["morning"][task] == pytest.approx(metrics, nan_ok=True)


def test_the_job_reports_strata_of_every_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = with_strata(write_feed(tmp_path))
    train(config, Recorder())
    report = evaluate_run(config, tmp_path / "run")
    rows = pq.read_table(tmp_path / "validation")
    strata = report.splits["validation"].strata
    counts = {name: metrics["like"]["count"] for name, metrics in strata.items()}
    assert counts == {
        "morning": pc.sum(pc.equal(rows["hour"], 8)).as_py(),
        "english": pc.sum(pc.equal(rows["language"], "en")).as_py(),
    }
    written = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert "gates" not in written
    known = pc.sum(pc.is_in(rows["language"], pa.array(LANGUAGES))).as_py()
    assert written["unknown"]["validation"]["language"] == pytest.approx(1 - known / len(rows))
    assert written["strata"]["validation"]["english"]["share"]["count"] == counts["english"]
    assert "strata" not in evaluate_run(with_strata(tmp_path, {}), tmp_path / "run").to_json()
    Console().stratum("english", strata["english"])
    assert capsys.readouterr().out.startswith(f"  english:  like count {counts['english']:.0f} auc ")


WRONG = {
    "no feature": ({"feature": "huor", "value": 1}, "feature: unknown discrete feature 'huor'."),
    "no code": ({"feature": "hour", "value": 24}, "value: 'hour' has the codes 0 to 23, found 24"),
    "a word for a code": ({"feature": "hour", "value": "8"}, "value: 'hour' has the codes 0 to 23, found '8'"),
    "a code for a word": (
        {"feature": "language", "value": 0},
        "value: 'language' has a vocabulary; quote the value, found 0",
    ),
    "many codes": ({"feature": "topics", "value": 0}, "feature: 'topics' has 2 codes per row; a stratum needs one"),
}


@pytest.mark.parametrize("case", WRONG)
def test_an_impossible_stratum_is_refused(case: str) -> None:
    stratum, message = WRONG[case]
    values = feed_values(Path("feed"), Path("run"))
    values["features"]["discrete"]["topics"] = {"size": 5, "length": 2}
    values["strata"] = {"mine": stratum}
    with pytest.raises(ConfigError) as caught:
        config_of(values)
    assert f"strata.mine.{message}" in str(caught.value)


def test_an_unknown_string_is_refused_before_the_first_step(tmp_path: Path) -> None:
    config = with_strata(write_feed(tmp_path), {"mine": {"feature": "language", "value": "eng"}})
    with pytest.raises(DataError, match=r"'eng' is not in .* 'language'.*Did you mean 'en'"):
        train(config, Recorder())
    assert not list((tmp_path / "run").glob("checkpoints/*"))


def test_strata_may_use_the_position_that_the_model_does_not_read(tmp_path: Path) -> None:
    debias = {"position_debias": {"feature": "hour"}, "embeddings": {"language": 4}}
    plain = feed_config(write_feed(tmp_path), tmp_path / "run", model=debias)
    train(plain, Recorder())
    config = plain.model_copy(update={"strata": with_strata(tmp_path).strata})
    hour = pq.read_table(tmp_path / "validation")["hour"]
    strata = evaluate_run(config, tmp_path / "run").splits["validation"].strata
    assert strata["morning"]["like"]["count"] == pc.sum(pc.equal(hour, 8)).as_py() > 0
