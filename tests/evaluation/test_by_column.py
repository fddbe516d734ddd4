"""Field-RCE, slices and drift, from the command line and in the files of a run."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from model.rankers import make_batch
from support import Recorder, feed_config, feed_values, write_feed
from typer.testing import CliRunner

from recap.cli.main import app
from recap.config.file.load import config_of, load_config
from recap.data.encoding.assets import load_assets
from recap.distributed import ONE_RANK
from recap.errors import ConfigError
from recap.evaluation.metrics.buckets import bucket_of
from recap.evaluation.observers.bins import Bins
from recap.evaluation.observers.columns import EPSILON, Columns, field_estimates
from recap.evaluation.result import EvaluationReport
from recap.model.scorer import Scores
from recap.runs import Run
from recap.training.trainer import train


def recap(*arguments: str | Path) -> str:
    done = CliRunner().invoke(app, [*map(str, arguments)])
    if done.exception is not None:
        raise done.exception
    return done.output


def test_the_command_shows_and_writes_what_is_asked_for(tmp_path: Path) -> None:
    folder = write_feed(tmp_path, validation_rows=3000)
    file = folder / "validation" / "part-0.parquet"
    rows = pq.read_table(file)
    like = pc.if_else(pc.equal(rows["language"], "pt"), 0, rows["like"]).cast(pa.int8())
    rows = rows.set_column(rows.schema.get_field_index("like"), "like", like)
    followers = pc.multiply(rows["followers"], pa.scalar(50, pa.float32()))
    rows = rows.set_column(rows.schema.get_field_index("followers"), "followers", followers)
    pq.write_table(rows, file)
    values = feed_values(folder, folder / "run")
    values["training"] |= {"num_train_steps": 2, "checkpoint_every_n": 2, "eval_log_every_n": None}
    values["metrics"] = {"fields": ["language", "hour", "age"]}
    (folder / "ranker.yaml").write_text(yaml.safe_dump(values))
    train(load_config(folder / "ranker.yaml"), Recorder())
    run = Run(folder / "run")

    plain = recap("evaluate", folder / "run")
    assert "Field-RCE, validation" in plain
    assert "slices" not in plain
    assert "drift" not in plain
    text = recap("evaluate", folder / "run", "--slices", "--drift")
    assert "slices of validation that do worse than its other rows" in text
    assert "language = pt" in text
    assert "drift of validation: 3,000 rows against 600 training rows" in text

    result = EvaluationReport.read_estimates(run.evaluation_file).splits["validation"]
    assert result.slices is not None
    first = result.slices.slices[0]
    assert (first.feature, first.values, first.stratum) == ("language", "pt", {"feature": "language", "value": "pt"})
    assert result.drift is not None
    assert result.drift.features[0].feature == "followers"
    low, high = result.intervals["like"]["field_rce_language"]
    assert low < result.metrics["like"]["field_rce_language"] < high
    assert len(result.estimates["like"]["field_rce_language"].replicates) > 1
    content = json.loads(run.evaluation_file.read_text())
    assert content["slices"]["validation"]["looks"] == result.slices.looks
    stratum = first.stratum
    again = config_of(values | {"strata": {"worst": stratum}, "slices": "auto"})
    assert again.strata["worst"].model_dump() == stratum
    with pytest.raises(Exception, match="--slices: --follow measures only metrics"):
        recap("evaluate", folder / "run", "--follow", "--slices")


def test_field_rce_is_that_of_pandas_with_the_value_of_each_bucket_left_out(tmp_path: Path) -> None:
    config = feed_config(write_feed(tmp_path), tmp_path / "run")
    batch = replace(make_batch(config, 2000), user=torch.arange(2000) // 5)
    bins = Bins.of(config.features, load_assets(config.features), [batch], ["hour"])
    columns = Columns(config, "validation", bins, ONE_RANK)
    torch.manual_seed(0)
    p = torch.rand(2000, 2)
    columns.update(batch, Scores(p, p, p, torch.zeros(2000)))
    estimate = field_estimates(columns, columns.result())["share"]["field_rce_hour"]
    assert batch.labels is not None
    assert batch.weights is not None
    rows = pd.DataFrame(
        torch.stack([batch.weights[:, 1], batch.labels[:, 1], p[:, 1]], 1).double().numpy(), columns=["w", "y", "p"]
    )
    rows["y"] *= rows["w"]
    rows["p"] *= rows["w"]
    rows["hour"] = batch.discrete[:, 0].numpy()
    rows["bucket"] = bucket_of(torch.arange(2000) // 5).numpy()

    def expected(part: pd.DataFrame) -> float:
        sums = part.groupby("hour")[["w", "y", "p"]].sum()
        epsilon = EPSILON * sums["y"].sum() / sums["w"].sum()
        error = (sums["p"] - sums["y"]).abs() / (sums["y"] + epsilon * sums["w"])
        return float((sums["w"] * error).sum() / sums["w"].sum())

    assert estimate.value == pytest.approx(expected(rows))
    without = [expected(rows[rows["bucket"] != bucket]) for bucket in np.unique(rows["bucket"])]
    assert estimate.replicates == pytest.approx(without)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (["huor"], "metrics.fields.0: unknown continuous, binary or discrete feature 'huor'."),
        (["hour", "hour"], "metrics.fields.1: 'hour' is listed twice; remove one"),
        (["topics"], "metrics.fields.0: 'topics' has 2 values per row; Field-RCE needs one"),
    ],
)
def test_impossible_fields_are_refused(fields: list[str], message: str) -> None:
    values = feed_values(Path("feed"), Path("run")) | {"metrics": {"fields": fields}}
    values["features"]["discrete"]["topics"] = {"size": 5, "length": 2}
    with pytest.raises(ConfigError) as caught:
        config_of(values)
    assert message in str(caught.value)
