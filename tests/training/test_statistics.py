"""Every model directory holds the statistics of the training rows."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import Recorder, feed_config, feed_table, write_feed
from training.runs import interrupt

from recap.config.recap import JobMode
from recap.data.encoding.assets import load_assets
from recap.data.encoding.encoder import RowEncoder
from recap.data.formats.location import Location
from recap.data.statistics import FeatureSums
from recap.errors import CheckpointError, Interrupted
from recap.model.directory import read_statistics
from recap.runs import Run
from recap.storage import add_file, remove_file
from recap.training.trainer import train


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_feed(tmp_path_factory.mktemp("feed"))


def test_statistics_are_those_of_the_population(folder: Path, tmp_path: Path) -> None:
    tasks = {"like": {"neg_downsampling_rate": 0.25}, "share": {}}
    config = feed_config(
        folder, tmp_path / "run", training={"num_train_steps": 2, "eval_log_every_n": None}, train_data={"tasks": tasks}
    )
    train(config, Recorder())
    checkpoint = Run(tmp_path / "run").latest
    assert checkpoint is not None
    statistics = read_statistics(checkpoint)
    assert statistics is not None
    rows = pa.concat_tables(pq.read_table(file) for file in sorted((folder / "train").glob("*.parquet")))
    age = rows["age"].to_numpy().astype(np.float64)
    like = rows["like"].to_numpy()
    weight = np.where(like == 1, 1, 4)
    lengths = np.linalg.norm(np.stack(rows["vector"].to_pylist()), axis=1)
    assert statistics.rows == len(rows)
    assert statistics.features["age"].means == pytest.approx([np.nanmean(age)])
    assert statistics.features["age"].deviations == pytest.approx([np.nanstd(age)])
    assert statistics.features["age"].missing == pytest.approx([np.isnan(age).mean()])
    assert statistics.features["vector"].means == pytest.approx([lengths.mean()])
    assert statistics.features["language"].missing == pytest.approx([(rows["language"].to_numpy() == "xx").mean()])
    assert statistics.features["hour"].missing == (0.0,)
    mean = np.average(like, weights=weight)
    assert statistics.tasks["like"] == pytest.approx((mean, np.sqrt(mean * (1 - mean))))
    assert statistics.tasks["share"][0] == pytest.approx(rows["share"].to_numpy().mean())


def test_a_resumed_run_keeps_its_statistics(folder: Path, tmp_path: Path) -> None:
    config = feed_config(folder, tmp_path / "run", training={"num_train_steps": 4, "eval_log_every_n": None})
    with pytest.raises(Interrupted):
        train(config, Recorder({2: interrupt}))
    run = Run(tmp_path / "run")
    before = read_statistics(run.checkpoint_path(2))
    assert before is not None
    train(config, Recorder())
    assert read_statistics(run.checkpoint_path(4)) == before


def test_a_model_of_an_earlier_recap_has_none_and_a_damaged_file_is_named(folder: Path, tmp_path: Path) -> None:
    config = feed_config(folder, tmp_path / "run", training={"num_train_steps": 2, "eval_log_every_n": None})
    train(config, Recorder())
    checkpoint = Run(tmp_path / "run").checkpoint_path(2)
    add_file(checkpoint, "statistics.json", '{"rows": -1}')
    with pytest.raises(CheckpointError, match=r"statistics\.json: damaged \(features: "):
        read_statistics(checkpoint)
    remove_file(checkpoint, "statistics.json")
    assert read_statistics(checkpoint) is None


@settings(deadline=None, max_examples=25)
@given(cut=st.integers(1, 59), seed=st.integers(0, 5))
def test_sums_of_parts_are_the_sums_of_the_whole(folder: Path, cut: int, seed: int) -> None:
    config = feed_config(folder, folder / "none")
    encoder = RowEncoder.for_job(config, load_assets(config.features), JobMode.INFERENCE)
    batch = encoder.encode(feed_table(60, seed), Location("table"))
    whole, first, second = FeatureSums(encoder), FeatureSums(encoder), FeatureSums(encoder)
    whole.add(batch)
    first.add(batch.rows(slice(0, cut)))
    second.add(batch.rows(torch.arange(cut, 60)))
    first += second
    assert first.rows == whole.rows
    assert np.allclose(first.sums, whole.sums, rtol=1e-12)
    assert first.unknown.tolist() == pytest.approx(whole.unknown.tolist())
