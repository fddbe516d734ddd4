import shutil
from pathlib import Path

import pytest
import torch
from data.stream_law import assert_resumes_everywhere
from hypothesis import given, settings
from hypothesis import strategies as st
from support import feed_config, write_feed

from recap.config.recap import JobMode
from recap.data.shuffle import RowOrder
from recap.data.stream import BatchStream, open_stream
from recap.data.vocabulary import load_vocabularies
from recap.errors import DataError


def open_feed(feed: Path, mode: JobMode, window_rows: int = 150, batch_rows: int = 64, seed: int = 0) -> BatchStream:
    config = feed_config(
        feed,
        feed / "run",
        train_data={
            "source": {"inputs": str(feed / "train" / "*.parquet")},
            "tasks": {"like": {}, "share": {}},
            "shuffle_window_rows": window_rows,
            "global_batch_size": batch_rows,
        },
        training={"seed": seed},
    )
    split = None if mode is JobMode.TRAIN else "validation"
    return open_stream(config, load_vocabularies(config.features), mode, split)


def rows_of(stream: BatchStream, batches: int) -> torch.Tensor:
    """Rows told apart by a vector of continuous values: [rows] float32."""
    taken = [batch.vectors["vector"][:, 0] for _, batch in zip(range(batches), stream, strict=False)]
    return torch.cat(taken)


@pytest.mark.parametrize("window_rows", [0, 1, 150, 10_000])
def test_a_training_stream_resumes_exactly_at_every_batch_over_several_epochs(feed: Path, window_rows: int) -> None:
    assert_resumes_everywhere(lambda: open_feed(feed, JobMode.TRAIN, window_rows), batches=24)


def test_a_validation_stream_resumes_exactly_at_every_batch(feed: Path) -> None:
    assert_resumes_everywhere(lambda: open_feed(feed, JobMode.EVALUATE), batches=10)


def test_every_epoch_holds_every_row_once_in_another_order(feed: Path) -> None:
    rows = rows_of(open_feed(feed, JobMode.TRAIN, batch_rows=60), batches=20)
    first, second = rows[:600], rows[600:]
    assert not torch.equal(first, second)
    assert torch.equal(first.sort().values, second.sort().values)
    assert len(first.unique()) == 600


def test_batches_are_full_and_run_on_from_one_epoch_into_the_next(feed: Path) -> None:
    stream = open_feed(feed, JobMode.TRAIN, batch_rows=64)
    assert [len(batch) for _, batch in zip(range(30), stream, strict=False)] == [64] * 30
    assert stream.epoch == 64 * 30 / 600


def test_the_order_follows_the_seed(feed: Path) -> None:
    assert torch.equal(rows_of(open_feed(feed, JobMode.TRAIN), 3), rows_of(open_feed(feed, JobMode.TRAIN), 3))
    other = rows_of(open_feed(feed, JobMode.TRAIN, seed=1), 3)
    assert not torch.equal(rows_of(open_feed(feed, JobMode.TRAIN), 3), other)


def test_a_validation_stream_keeps_file_order_and_the_last_partial_batch(feed: Path) -> None:
    stream = open_feed(feed, JobMode.EVALUATE)
    sizes = [len(batch) for batch in stream]
    assert sizes == [64, 64, 64, 58]
    assert list(stream) == []  # the stream ends where it ended


def test_a_stream_refuses_the_place_of_other_data(tmp_path: Path) -> None:
    write_feed(tmp_path)
    state = open_feed(tmp_path, JobMode.TRAIN).state_dict()
    write_feed(tmp_path, train_rows=599)
    with pytest.raises(DataError, match="not the data this run was reading"):
        open_feed(tmp_path, JobMode.TRAIN).load_state_dict(state)


def test_a_place_survives_moving_the_data(tmp_path: Path) -> None:
    state = open_feed(write_feed(tmp_path / "here"), JobMode.TRAIN).state_dict()
    shutil.move(tmp_path / "here", tmp_path / "there")
    moved = open_feed(tmp_path / "there", JobMode.TRAIN)
    moved.load_state_dict(state)
    assert moved.state_dict() == state


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=20),
    st.integers(0, 100),
    st.integers(0, 5),
    st.integers(0, 5),
)
def test_windows_part_an_epoch_into_whole_chunks(
    chunk_rows: list[int], window_rows: int, seed: int, epoch: int
) -> None:
    order = RowOrder(chunk_rows, window_rows, seed)
    windows = order.windows(epoch)
    assert sorted(chunk for window in windows for chunk in window.chunks) == list(range(len(chunk_rows)))
    next_row = 0
    for window in windows:
        assert window.first_row == next_row
        assert window.rows == sum(chunk_rows[chunk] for chunk in window.chunks)
        assert sorted(order.permutation(window).tolist()) == list(range(window.rows))
        next_row += window.rows
    assert all(window.rows >= window_rows for window in windows[:-1])
