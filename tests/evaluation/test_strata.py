"""Metrics of strata, the rows in which a feature has a given value."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from model.rankers import make_batch
from support import LANGUAGES, Recorder, feed_config, feed_table, feed_values, write_feed

from recap.cli.terminal.console import Console
from recap.config.file.load import config_of, load_config
from recap.config.recap import JobMode, RecapConfig
from recap.data.encoding.assets import load_assets
from recap.data.formats.location import Location
from recap.data.open import open_source
from recap.distributed import ONE_RANK
from recap.errors import ConfigError, DataError
from recap.evaluation.metrics.suite import MetricSuite
from recap.evaluation.observers.strata import Strata
from recap.evaluation.run import evaluate_run
from recap.model.scorer import Scores
from recap.training.trainer import train

STRATA = {"morning": {"feature": "hour", "value": 8}, "english": {"feature": "language", "value": "en"}}
OTHER_STRATA: dict[str, dict[str, Any]] = {
    "new": {"feature": "age", "below": 0.5},
    "older": {"feature": "age", "at_least": 0.5, "below": 4},
    "stars": {"feature": "followers", "quantiles": [0.9, 1.0]},
    "small": {"feature": "followers", "quantiles": [0, 0.25]},
    "friends": {"feature": "in_network", "value": 1},
    "first": {"before": "1970-01-01T00:01:40"},
    "later": {"since": "1970-01-01T01:01:40+01:00", "before": "1970-01-02"},
    "night": {"hours": [22, 1]},
}


def with_strata(folder: Path, strata: dict[str, Any] = STRATA) -> RecapConfig:
    values = feed_values(folder, folder / "run")
    values["strata"] = strata
    return config_of(values)


def test_a_stratum_has_the_metrics_of_its_rows_alone(tmp_path: Path) -> None:
    config = with_strata(write_feed(tmp_path))
    assets = load_assets(config.features)
    source = open_source(config, assets, JobMode.EVALUATE, "validation")
    strata, expected = Strata(config, "validation", assets, ONE_RANK, source), MetricSuite(config.tasks)
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


def test_strata_by_range_quantile_and_time_have_the_rows_that_pandas_selects(tmp_path: Path) -> None:
    config = with_strata(write_feed(tmp_path), OTHER_STRATA)
    train(config, Recorder())
    strata = evaluate_run(config, tmp_path / "run").splits["validation"].strata
    rows = pq.read_table(tmp_path / "validation").to_pandas()
    ranks = rows["followers"].rank(method="first") - 1
    hours = rows["served_at_ms"] // 3_600_000 % 24
    expected = {
        "new": rows["age"] < 0.5,
        "older": (rows["age"] >= 0.5) & (rows["age"] < 4),
        "stars": ranks >= int(0.9 * len(rows)),
        "small": ranks < int(0.25 * len(rows)),
        "friends": rows["in_network"],
        "first": rows["served_at_ms"] < 100_000,
        "later": rows["served_at_ms"] >= 100_000,
        "night": hours.isin([22, 23, 0]),
    }
    assert {name: metrics["like"]["count"] for name, metrics in strata.items()} == {
        name: selected.sum() for name, selected in expected.items()
    }


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no feature": ({"feature": "huor", "value": 1}, "feature: unknown discrete feature 'huor'."),
    "no code": ({"feature": "hour", "value": 24}, "value: 'hour' has the codes 0 to 23, found 24"),
    "a word for a code": ({"feature": "hour", "value": "8"}, "value: 'hour' has the codes 0 to 23, found '8'"),
    "a code for a word": (
        {"feature": "language", "value": 0},
        "value: 'language' has a vocabulary; quote the value, found 0",
    ),
    "many codes": ({"feature": "topics", "value": 0}, "feature: 'topics' has 2 codes per row; a stratum needs one"),
    "a value of a number": (
        {"feature": "age", "value": 3},
        "value: 'age' is continuous; select a range with at_least and below",
    ),
    "a third value": ({"feature": "in_network", "value": 2}, "value: 'in_network' is binary, with the values 0 and 1;"),
    "a range of codes": ({"feature": "hour", "at_least": 3}, "feature: 'hour' is a discrete feature, and ranges are"),
    "a range of nothing": ({"feature": "aeg", "below": 3}, "feature: unknown continuous feature 'aeg'."),
    "an empty range": ({"feature": "age", "at_least": 3, "below": 3}, "below: must be above at_least, 3; found 3"),
    "falling quantiles": ({"feature": "age", "quantiles": [1, 0.9]}, "quantiles: must be ascending, found [1"),
    "one quantile": ({"feature": "age", "quantiles": [0.9]}, "quantiles: needs two quantiles, found 1"),
    "an hour": ({"hours": [3]}, "hours: needs the first hour and the one after the last, found [3]"),
    "no date": ({"since": "May"}, "since: expected a date or a time, such as 2024-05-01 or 2024-05-01T18:30, found"),
    "an empty period": ({"since": "2024-05-02", "before": "2024-05-01"}, "before: must be after since, 2024-05-02;"),
    "the whole day": ({"hours": [0, 24]}, "hours: selects all rows or none; found [0, 24]"),
    "two kinds": ({"feature": "age", "value": 3, "below": 3}, ": needs one of value, at_least and below, quantiles,"),
}


@pytest.mark.parametrize("case", WRONG)
def test_an_impossible_stratum_is_refused(case: str) -> None:
    stratum, message = WRONG[case]
    values = feed_values(Path("feed"), Path("run"))
    values["features"]["discrete"]["topics"] = {"size": 5, "length": 2}
    values["strata"] = {"mine": stratum}
    with pytest.raises(ConfigError) as caught:
        config_of(values)
    assert f"strata.mine{'' if message.startswith(':') else '.'}{message}" in str(caught.value)


def test_strata_by_time_need_the_column_of_the_time() -> None:
    values = feed_values(Path("feed"), Path("run"))
    del values["features"]["timestamp"]
    values["strata"] = {"night": {"hours": [22, 6]}}
    with pytest.raises(ConfigError, match=r"strata\.night: selects by time, which needs features\.timestamp"):
        config_of(values)


def test_times_in_seconds_are_refused(tmp_path: Path) -> None:
    config = with_strata(write_feed(tmp_path), {"night": {"hours": [22, 6]}})
    encoder = open_source(config, load_assets(config.features), JobMode.EVALUATE, "validation").encoder
    table = feed_table(3)
    seconds = pa.array([1_714_521_600] * 3)
    table = table.set_column(table.schema.get_field_index("served_at_ms"), "served_at_ms", seconds)
    with pytest.raises(DataError, match="holds 1714521600, a time in seconds by its size; strata by time need milli"):
        encoder.encode(table, Location("rows"))


def test_another_kind_of_stratum_replaces_that_of_the_base(tmp_path: Path) -> None:
    values = feed_values(Path("feed"), Path("run")) | {"strata": OTHER_STRATA}
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(values))
    top = {"new": {"feature": "hour", "value": 3}, "older": {"below": 9.0}}
    (tmp_path / "top.yaml").write_text(yaml.safe_dump({"base": "base.yaml", "strata": top}))
    strata = load_config(tmp_path / "top.yaml").model_dump()["strata"]
    assert strata["new"] == {"feature": "hour", "value": 3}
    assert strata["older"] == {"feature": "age", "at_least": 0.5, "below": 9.0}
    assert strata["friends"] == OTHER_STRATA["friends"]


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
