"""What a new run measures in its rows: quantiles and edges of bins, once, stored with the weights."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from support import Recorder, feed_config, feed_table, write_feed
from torch import Tensor, nn
from torch.testing import assert_close
from training.runs import interrupt

from recap.config.recap import RecapConfig
from recap.errors import DataError, Interrupted
from recap.model.directory import open_model
from recap.runs import Run
from recap.training.trainer import train

POINTS, EDGES = "inputs.featurization.points", "inputs.featurization.embedding.edges"
MODEL = {
    "featurization": {"kind": "quantile", "quantiles": 9, "missing": "learned"},
    "numbers": {"kind": "piecewise_linear", "bins": 3, "width": 4},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_feed(tmp_path_factory.mktemp("feed"))


def config_for(folder: Path, run: Path, model: dict[str, Any] = MODEL, **training: Any) -> RecapConfig:
    settings = {"num_train_steps": 4, "checkpoint_every_n": 2, "eval_log_every_n": None, **training}
    return feed_config(folder, run, training=settings, model=model)


def weights(run: Path, step: int) -> dict[str, Tensor]:
    return load_file(Run(run).checkpoint_path(step) / "weights.safetensors")


def values_of(folder: Path, name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The values of a column in the training files that are there."""
    values = np.concatenate([pq.read_table(file)[name].to_numpy() for file in sorted((folder / "train").iterdir())])
    return values[np.isfinite(values)].astype(np.float64)


@pytest.fixture(scope="module")
def trained(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("trained") / "run"
    train(config_for(folder, run), Recorder())
    return run


def test_a_new_run_measures_the_quantiles_of_its_rows(folder: Path, trained: Path) -> None:
    values, shares = weights(trained, 4)[POINTS]
    assert_close(shares, torch.linspace(0, 1, 9).repeat(2, 1))
    for row, name in zip(values, ("age", "followers"), strict=True):
        expected = np.quantile(values_of(folder, name), np.linspace(0, 1, 9))
        assert_close(row.double(), torch.from_numpy(expected), rtol=1e-5, atol=1e-6)


def test_the_edges_of_bins_are_quantiles_of_the_featurized_values(folder: Path, trained: Path) -> None:
    featurization = open_model(Run(trained).checkpoint_path(4)).ranker.inputs.featurization
    for column, (row, name) in enumerate(zip(weights(trained, 4)[EDGES], ("age", "followers"), strict=True)):
        values = torch.from_numpy(values_of(folder, name)).float()[:, None]
        normal = featurization.normalized(values, None, torch.tensor([column]))[:, 0]
        assert_close(row, normal.quantile(torch.linspace(0, 1, 4)), rtol=1e-3, atol=1e-3)


def test_edges_behind_a_batch_norm_are_those_of_the_sample_normalised_by_itself(folder: Path, tmp_path: Path) -> None:
    model = {
        "featurization": {"kind": "double_norm_log", "missing": "learned"},
        "numbers": {"kind": "piecewise_linear", "bins": 3, "width": 4},
    }
    train(config_for(folder, tmp_path / "run", model, num_train_steps=2), Recorder())
    edges = weights(tmp_path / "run", 2)[EDGES]
    for row, name in zip(edges, ("age", "followers"), strict=True):
        values = torch.from_numpy(np.log1p(values_of(folder, name)))
        normal = nn.BatchNorm1d(1).double()(values[:, None])[:, 0].clamp(-5, 5)
        assert_close(row.double(), normal.quantile(torch.linspace(0, 1, 4).double()), rtol=1e-3, atol=1e-3)


def test_a_resumed_run_does_not_measure_again(folder: Path, trained: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(Interrupted):
        train(config_for(folder, run), Recorder({2: interrupt}))
    train(config_for(folder, run), Recorder())
    resumed, whole = weights(run, 4), weights(trained, 4)
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def other_feed(folder: Path) -> Path:
    """The same columns, with values a thousand times as large."""
    write_feed(folder)
    for number, file in enumerate(sorted((folder / "train").iterdir())):
        table = feed_table(200, number)
        for name in ("age", "followers"):
            values = pa.array(table[name].to_numpy() * 1000, from_pandas=True)
            table = table.set_column(table.column_names.index(name), name, values)
        pq.write_table(table, file)
    return folder


def test_a_warm_start_keeps_the_quantiles_of_its_model_unless_they_start_fresh(trained: Path, tmp_path: Path) -> None:
    feed, old = other_feed(tmp_path / "feed"), weights(trained, 4)
    warm: dict[str, Any] = {"initial_checkpoint_dir": str(trained), "num_train_steps": 2}
    train(config_for(feed, tmp_path / "warm", **warm), Recorder())
    kept = weights(tmp_path / "warm", 2)
    assert torch.equal(kept[POINTS], old[POINTS])
    assert torch.equal(kept[EDGES], old[EDGES])
    fresh: dict[str, Any] = {"initial_weights": {"fresh": [POINTS]}}
    train(config_for(feed, tmp_path / "fresh", **warm, **fresh), Recorder())
    made = weights(tmp_path / "fresh", 2)
    assert_close(made[POINTS][0, :, 4], 1000 * old[POINTS][0, :, 4], rtol=0.5, atol=0)
    assert torch.equal(made[EDGES], old[EDGES])


def test_rows_that_cannot_be_read_leave_nothing_to_start_from(tmp_path: Path) -> None:
    feed = write_feed(tmp_path / "feed")
    for file in (feed / "train").iterdir():
        table = pq.read_table(file)
        bad = pa.array([3] * len(table))  # neither 0 nor 1
        pq.write_table(table.set_column(table.column_names.index("in_network"), "in_network", bad), file)
    with pytest.raises(DataError, match="no quantiles to start from"):
        train(config_for(feed, tmp_path / "run"), Recorder())
