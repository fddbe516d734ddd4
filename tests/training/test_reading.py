"""Runs over data that ends, is sampled, has bad rows or files, or changes."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import Recorder, feed_config, write_feed
from training.runs import assert_same_run, interrupt, records

from recap.errors import CheckpointError, DataError, Interrupted, RunError
from recap.inference.files import predict_files
from recap.inference.predictor import Predictor
from recap.model.directory import open_model
from recap.runs import Run, find_model_directory
from recap.training.trainer import train


def reading(feed: Path, **options: Any) -> dict[str, Any]:
    """`train_data` of a feed, with some reading options."""
    tasks: dict[str, Any] = {"like": {}, "share": {}}
    return {
        "source": {"inputs": str(feed / "train" / "*.parquet")},
        "tasks": tasks,
        "shuffle_window_rows": 150,
    } | options


def test_a_run_ends_after_its_epochs(feed: Path, tmp_path: Path) -> None:
    data = reading(feed, num_epochs=2, global_batch_size=64)  # 1,200 rows: 18 steps, and 48 rows that fill none
    training = {"num_train_steps": 1000, "checkpoint_every_n": 9, "train_log_every_n": 7, "eval_log_every_n": 1000}
    config = feed_config(feed, tmp_path / "run", train_data=data, training=training)
    recorder = Recorder()
    assert train(config, recorder).trained
    assert recorder.steps == list(range(1, 19))
    assert recorder.last_step == 18
    assert recorder.logged_at == [7, 14, 18]
    assert recorder.evaluated_at == [(18, "validation")]
    assert list(Run(tmp_path / "run").checkpoints) == [9, 18]
    again = Recorder()
    assert not train(config, again).trained
    assert again.steps == []
    longer = feed_config(feed, tmp_path / "run", train_data=data | {"num_epochs": 3}, training=training)
    assert train(longer, again).trained
    assert again.steps == list(range(19, 28))  # the third epoch, from its first row


WAYS_TO_READ: dict[str, dict[str, Any]] = {
    "sampled": {"downsample_negatives": {"batch_multiplier": 3, "keep_positives_of": ["share"]}},
    "cached": {"cache": True},
    "two epochs": {"num_epochs": 2},
    "in order": {"shuffle_window_rows": 0, "interleave_files": 2},
}


@pytest.mark.parametrize("way", WAYS_TO_READ)
def test_a_stopped_run_resumes_bit_for_bit_however_it_reads(way: str, feed: Path, tmp_path: Path) -> None:
    whole, stopped = (
        feed_config(feed, tmp_path / name, train_data=reading(feed, **WAYS_TO_READ[way]))
        for name in ("whole", "stopped")
    )
    train(whole, Recorder())
    for step in (3, 7):
        with pytest.raises(Interrupted):
            train(stopped, Recorder({step: interrupt}))
    train(stopped, Recorder())
    steps = list(Run(tmp_path / "whole").checkpoints)
    assert_same_run(tmp_path / "whole", tmp_path / "stopped", steps[-1])


def test_a_run_over_bad_data_continues_and_resumes_bit_for_bit(tmp_path: Path) -> None:
    feed = write_feed(tmp_path / "feed")
    (feed / "train" / "part-9.parquet").write_text("no parquet")
    data = reading(feed, on_bad_data={"kind": "skip", "budget": 1})
    whole, stopped = (feed_config(feed, tmp_path / name, train_data=data) for name in ("whole", "stopped"))
    recorder = Recorder()
    train(whole, recorder)
    reported = [text for text in recorder.messages if text.startswith("skipped (1 of at most 1): ")]
    assert len(reported) == 1
    assert "part-9.parquet: not readable as Parquet" in reported[0]
    with pytest.raises(Interrupted):
        train(stopped, Recorder({5: interrupt}))
    again = Recorder()
    train(stopped, again)
    assert not any("skipped" in text for text in again.messages)
    assert_same_run(tmp_path / "whole", tmp_path / "stopped", 12)
    assert records(tmp_path / "whole")[0]["skipped"] == 1


@pytest.mark.parametrize("split", ["train", "validation"])
def test_data_that_goes_bad_during_training_loses_no_step(split: str, tmp_path: Path) -> None:
    feed = write_feed(tmp_path / "feed")
    whole, stopped = (
        feed_config(feed, tmp_path / name, training={"num_train_steps": 30, "checkpoint_every_n": 30})
        for name in ("whole", "stopped")
    )
    train(whole, Recorder())
    with pytest.raises(
        RunError, match=rf"{split}/.*\nThe run stopped after step \d+, which is saved. Fix the data, or"
    ):
        train(stopped, Recorder({5: lambda: (feed / split).rename(feed / "away")}))
    assert list(Run(tmp_path / "stopped").checkpoints)[-1] >= 5
    (feed / "away").rename(feed / split)
    train(stopped, Recorder())
    assert_same_run(tmp_path / "whole", tmp_path / "stopped", 30)


def test_changed_data_is_refused_by_name_and_may_be_accepted(tmp_path: Path) -> None:
    feed = write_feed(tmp_path / "feed")
    config = feed_config(feed, tmp_path / "run", train_data=reading(feed))
    with pytest.raises(Interrupted):
        train(config, Recorder({5: interrupt}))
    (feed / "train" / "part-0.parquet").unlink()
    with pytest.raises(
        DataError, match=r"part-0.parquet is gone\n.* pass --accept-changed-data to continue with these"
    ):
        train(config, Recorder())
    recorder = Recorder()
    assert train(config, recorder, accept_changed_data=True).trained
    assert recorder.steps == [6, 7, 8, 9, 10, 11, 12]


def test_a_model_carries_its_mask_and_a_run_refuses_another(tmp_path: Path) -> None:
    feed = write_feed(tmp_path / "feed")
    mask = feed / "mask.npy"
    column = {"name": "vector", "length": 4, "first": 3, "mask": str(mask), "dtype": "bfloat16"}
    features = {"continuous": ["age", column], "vectors": {}}
    config = feed_config(feed, tmp_path / "run", features=features)
    train(config, Recorder())
    np.save(mask, np.array([0, 1, 1]))
    longer = feed_config(feed, tmp_path / "run", features=features, training={"num_train_steps": 20})
    with pytest.raises(CheckpointError, match="features: the mask of 'vector' selects other values"):
        train(longer, Recorder())
    mask.unlink()
    model = open_model(find_model_directory(tmp_path / "run"))
    assert model.assets["vector"].to_pylist() == [True, False, True]
    assert model.ranker.inputs.featurization.out_features == 3 + 1
    predicted = predict_files(
        Predictor.open(find_model_directory(tmp_path / "run")),
        [str(feed / "validation" / "*.parquet")],
        tmp_path / "out",
    )
    assert len(predicted.files) == 1


def test_a_run_with_too_few_good_rows_for_a_step_fails(tmp_path: Path) -> None:
    feed = write_feed(tmp_path / "feed")
    for number in (0, 1):
        (feed / "train" / f"part-{number}.parquet").write_text("no parquet")
    table = pq.read_table(feed / "train" / "part-2.parquet")
    bad = pa.array([9] * 150 + table.column("like").to_pylist()[150:])
    index = table.schema.get_field_index("like")
    pq.write_table(table.set_column(index, "like", bad), feed / "train" / "part-2.parquet")
    data = reading(feed, on_bad_data={"kind": "skip", "budget": 1000}, num_epochs=1)
    with pytest.raises(DataError, match="train_data: too few good rows are left for a single step"):
        train(feed_config(feed, tmp_path / "run", train_data=data), Recorder())
