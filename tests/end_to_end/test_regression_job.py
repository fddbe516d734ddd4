"""A regression beside a binary task: trained, evaluated, predicted, over a small feed."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from evaluation.test_binary_metrics import REPORTED
from support import Recorder, feed_config, write_feed
from typer.testing import CliRunner

from recap.cli.main import app
from recap.config.evaluation.metrics import REGRESSION_METRICS
from recap.config.recap import JobMode, RecapConfig
from recap.data.encoding.encoder import RowEncoder
from recap.data.formats.location import Location
from recap.errors import DataError
from recap.inference.files import predict_files
from recap.inference.predictor import Predictor
from recap.runs import find_model_directory
from recap.training.trainer import train


def with_times(feed: Path, change: Any = None) -> Path:
    """A feed with a column `time` in seconds, some null, which grows with a value of the vector."""
    for file in feed.glob("*/*.parquet"):
        table = pq.read_table(file)
        values = np.stack(table.column("vector").to_pylist())[:, 0]
        times: list[float | None] = np.exp(2 + values).tolist()
        times[3] = None
        if change is not None and file.stem == "part-1":
            times[5] = change
        pq.write_table(table.append_column("time", pa.array(times, pa.float64())), file, row_group_size=70)
    return feed


def timed(feed: Path, run: Path, transform: str = "log1p", **sections: Any) -> RecapConfig:
    tower = {"kind": "mlp", "layer_sizes": [8]}
    time = {"tower": tower, "objective": {"kind": "regression", "transform": transform}}
    source = {"inputs": str(feed / "train" / "*.parquet")}
    tasks: dict[str, Any] = {"time": {}, "like": {"neg_downsampling_rate": 0.5}}
    rates = {"kind": "constant", "learning_rate": 0.02}
    return feed_config(
        feed,
        run,
        model={"tasks": {"time": time, "like": {"tower": tower}}},
        train_data={"source": source, "tasks": tasks, "global_batch_size": 64, "shuffle_window_rows": 150},
        training={"num_train_steps": 60, "eval_log_every_n": 30, "num_eval_steps": -1},
        optimizer={"backbone": rates, "towers": {"default": rates}},
        **{"scoring": {"weights": {"time": 0.5}}, **sections},
    )


def test_a_regression_is_trained_evaluated_and_predicted_in_its_unit(tmp_path: Path) -> None:
    feed, run = with_times(write_feed(tmp_path / "feed")), tmp_path / "run"
    train(timed(feed, run), Recorder())
    shown = CliRunner().invoke(app, ["evaluate", str(run)]).output
    assert "mean_prediction" in shown
    assert "xauc" in shown
    assert "pr_auc" in shown
    written = json.loads((run / "evaluation.json").read_text())["splits"]["validation"]
    assert tuple(written["time"]) == REGRESSION_METRICS
    assert list(written["like"]) == REPORTED
    metrics = written["time"]
    table = pq.read_table(feed / "validation" / "part-0.parquet")
    times = table.column("time").to_numpy()
    assert metrics["count"] == len(table) - 1
    assert metrics["mean_label"] == pytest.approx(np.nanmean(times), rel=1e-5)
    assert metrics["xauc"] > 0.7
    logged = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["xauc"] for line in logged if line.get("task") == "time"][-1] == pytest.approx(metrics["xauc"])
    predictor = Predictor.open(find_model_directory(run))
    (file,) = predict_files(predictor, [str(feed / "validation" / "*.parquet")], tmp_path / "out").files
    predicted = pq.read_table(file)
    values = predicted.column("time").to_numpy()
    known = ~np.isnan(times)
    assert np.abs(values - times)[known].mean() == pytest.approx(metrics["mae"], rel=1e-4)
    assert (values >= 0).all()
    assert values.max() > 1
    assert predicted.column("score").to_numpy() == pytest.approx(0.5 * values.astype(float) + 0.001)


@pytest.mark.parametrize(
    ("transform", "label", "message"),
    [
        ("log1p", -1.0, "found -1; the label of a regression must be a finite float32, at least 0 for log1p, or null"),
        ("none", float("inf"), "found inf; the label of a regression must be a finite float32 or null"),
        ("none", 1e39, "found inf; the label of a regression must be a finite float32 or null"),
    ],
)
def test_an_invalid_label_is_refused_with_file_and_row(
    transform: str, label: float, message: str, tmp_path: Path
) -> None:
    feed = with_times(write_feed(tmp_path / "feed"), label)
    with pytest.raises(DataError, match=f"part-1.parquet: column 'time', row 5: {message}"):
        train(timed(feed, tmp_path / "run", transform), Recorder())


def test_negative_labels_are_valid_without_a_transform(tmp_path: Path) -> None:
    feed = with_times(write_feed(tmp_path / "feed"), -3.0)
    assert train(timed(feed, tmp_path / "run", "none"), Recorder()).trained


def test_sampling_weights_do_not_apply_to_regressions(tmp_path: Path) -> None:
    feed = with_times(write_feed(tmp_path / "feed"), 1e30)  # 1 − label would lose the 1
    data = {"sampling_correction": "weights"}
    config = timed(feed, tmp_path / "run")
    values = config.model_copy(update={"train_data": config.train_data.model_copy(update=data)})
    encoder = RowEncoder.for_job(values, {"language": pa.array(["en"])}, JobMode.TRAIN, values.train_data)
    batch = encoder.encode(pq.read_table(feed / "train" / "part-1.parquet"), Location("rows"))
    assert batch.weights is not None
    assert set(batch.weights[:, 0].tolist()) == {0.0, 1.0}
    assert set(batch.weights[:, 1].tolist()) == {1.0, 2.0}
