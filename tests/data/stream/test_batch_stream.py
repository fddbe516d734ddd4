"""The stream of batches: exact resumption, order, epochs, readers and caches."""

import re
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from data.stream_law import assert_resumes_everywhere
from hypothesis import given, settings
from hypothesis import strategies as st
from support import feed_config, write_feed

from recap.config.recap import JobMode
from recap.data.encoding.assets import load_assets
from recap.data.open import check_caches_fit, open_stream
from recap.data.stream.batch_stream import BatchStream
from recap.data.stream.shuffle import RowOrder
from recap.distributed import Ranks
from recap.errors import DataError


def open_feed(
    feed: Path, mode: JobMode, window_rows: int = 150, batch_rows: int = 64, seed: int = 0, **train_data: Any
) -> BatchStream:
    config = feed_config(
        feed,
        feed / "run",
        train_data={
            "source": {"inputs": str(feed / "train" / "*.parquet")},
            "tasks": {"like": {}, "share": {}},
            "shuffle_window_rows": window_rows,
            "global_batch_size": batch_rows,
            **train_data,
        },
        training={"seed": seed},
    )
    split = None if mode is JobMode.TRAIN else "validation"
    return open_stream(config, load_assets(config.features), mode, split)


def rows_of(stream: BatchStream, batches: int) -> torch.Tensor:
    """The rows of some batches, identified by a vector value: [rows] float32."""
    rows = [batch.vectors["vector"][:, 0] for _, batch in zip(range(batches), stream, strict=False)]
    return torch.cat(rows)


@pytest.mark.parametrize("window_rows", [0, 1, 150, 10_000])
def test_a_training_stream_resumes_exactly_at_every_batch_over_several_epochs(feed: Path, window_rows: int) -> None:
    assert_resumes_everywhere(lambda: open_feed(feed, JobMode.TRAIN, window_rows), batches=24)


def test_a_validation_stream_resumes_exactly_at_every_batch(feed: Path) -> None:
    assert_resumes_everywhere(lambda: open_feed(feed, JobMode.EVALUATE), batches=10)


SAMPLING = {"batch_multiplier": 3, "keep_positives_of": ["share"]}
OPTIONS: dict[str, dict[str, Any]] = {
    "cache": {"cache": True},
    "one reader": {"readers": {"kind": "threads", "count": 1}},
    "many readers": {"readers": {"kind": "threads", "count": 5}},
    "interleaved files": {"interleave_files": 2, "window_rows": 0},
    "two epochs": {"num_epochs": 2},
    "sampled negatives": {"downsample_negatives": SAMPLING},
    "sampled negatives of two epochs": {"downsample_negatives": SAMPLING, "num_epochs": 2, "batch_rows": 37},
}


@pytest.mark.parametrize("option", OPTIONS)
def test_a_stream_resumes_exactly_at_every_batch_with_every_option(option: str, feed: Path) -> None:
    assert_resumes_everywhere(lambda: open_feed(feed, JobMode.TRAIN, **OPTIONS[option]), batches=24)


@pytest.mark.parametrize("option", ["cache", "one reader", "many readers"])
def test_readers_and_caches_do_not_change_the_rows(option: str, feed: Path) -> None:
    assert torch.equal(
        rows_of(open_feed(feed, JobMode.TRAIN, **OPTIONS[option]), 24), rows_of(open_feed(feed, JobMode.TRAIN), 24)
    )


@pytest.mark.slow
def test_processes_read_the_same_rows_in_the_same_order(feed: Path) -> None:
    for count in (1, 3):
        readers = {"kind": "processes", "count": count}
        stream = open_feed(feed, JobMode.TRAIN, readers=readers)
        shared = stream.readers

        def make(readers: Any = readers, shared: Any = shared) -> BatchStream:
            stream = open_feed(feed, JobMode.TRAIN, readers=readers)
            stream.readers = shared  # processes are slow to start
            return stream

        assert_resumes_everywhere(make, batches=12)
        assert torch.equal(rows_of(make(), 24), rows_of(open_feed(feed, JobMode.TRAIN), 24))
        cached = open_feed(feed, JobMode.TRAIN, readers=readers, cache=True)
        assert torch.equal(rows_of(cached, 24), rows_of(open_feed(feed, JobMode.TRAIN), 24))


def test_a_cache_reads_each_chunk_once(tmp_path: Path) -> None:
    write_feed(tmp_path)
    stream = open_feed(tmp_path, JobMode.TRAIN, cache=True)
    expected = rows_of(open_feed(tmp_path, JobMode.TRAIN), 30)
    taken = rows_of(stream, 15)
    shutil.rmtree(tmp_path / "train")
    assert torch.equal(torch.cat([taken, rows_of(stream, 15)]), expected)


def test_a_cache_that_does_not_fit_is_refused_with_its_size(feed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = open_feed(feed, JobMode.TRAIN, cache=True)
    row = 2 * 4 + 4 + 2 * 8 + 4 * 4 + 2 * 4 + 2 * 4 + 8  # numbers, codes, vector, labels, weights, user
    assert stream.cache_bytes == 600 * row
    assert open_feed(feed, JobMode.TRAIN).cache_bytes == 0
    check_caches_fit({"train_data": stream})
    monkeypatch.setattr("recap.data.open.free_memory", lambda: 600 * row - 1)
    with pytest.raises(DataError, match=r"do not fit into free memory \(0.00 GiB\): train_data 0.00 GiB"):
        check_caches_fit({"train_data": stream})


def test_every_rank_of_a_machine_has_its_own_cache(feed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = open_feed(feed, JobMode.TRAIN, cache=True)
    monkeypatch.setattr("recap.data.open.free_memory", lambda: 2 * stream.cache_bytes - 1)
    stream.ranks = Ranks(rank=1, world_size=4, local_rank=0, local_world_size=1)
    check_caches_fit({"train_data": stream})
    stream.ranks = Ranks(rank=1, world_size=4, local_rank=1, local_world_size=2)
    with pytest.raises(DataError, match="do not fit into free memory"):
        check_caches_fit({"train_data": stream})


def test_training_epochs_end_without_a_partial_batch(feed: Path) -> None:
    stream = open_feed(feed, JobMode.TRAIN, num_epochs=2, batch_rows=350)
    assert [len(batch) for batch in stream] == [350, 350, 350]
    assert stream.ended
    assert list(stream) == []
    with pytest.raises(DataError, match="600 rows × 1 epochs are fewer than the 700 rows of one step; lower"):
        open_feed(feed, JobMode.TRAIN, num_epochs=1, batch_rows=700)


def test_files_are_interleaved_one_row_group_at_a_time(feed: Path) -> None:
    stream = open_feed(feed, JobMode.TRAIN, window_rows=0, interleave_files=2)
    chunks = [(Path(chunk.file).name, chunk.number) for chunk in stream.source.chunks]
    first = [("part-0.parquet", 0), ("part-1.parquet", 0), ("part-0.parquet", 1), ("part-1.parquet", 1)]
    assert chunks[:4] == first
    assert chunks[-3:] == [("part-2.parquet", 0), ("part-2.parquet", 1), ("part-2.parquet", 2)]
    rows = rows_of(stream, 9)
    assert not torch.equal(rows, rows_of(open_feed(feed, JobMode.TRAIN, window_rows=0), 9))


def test_num_files_to_keep_reads_the_first_files_only(feed: Path) -> None:
    source = {"inputs": str(feed / "train" / "*.parquet"), "num_files_to_keep": 2}
    assert [Path(file).name for file in open_feed(feed, JobMode.TRAIN, source=source).source.files] == [
        "part-0.parquet",
        "part-1.parquet",
    ]


def test_every_epoch_has_every_row_once_in_another_order(feed: Path) -> None:
    rows = rows_of(open_feed(feed, JobMode.TRAIN, batch_rows=60), batches=20)
    first, second = rows[:600], rows[600:]
    assert not torch.equal(first, second)
    assert torch.equal(first.sort().values, second.sort().values)
    assert len(first.unique()) == 600


def test_batches_are_full_and_span_epochs(feed: Path) -> None:
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
    assert list(stream) == []  # the stream stays at its end


def test_a_position_in_other_data_is_refused(tmp_path: Path) -> None:
    write_feed(tmp_path)
    state = open_feed(tmp_path, JobMode.TRAIN).state_dict()
    write_feed(tmp_path, train_rows=599)
    (tmp_path / "train" / "part-1.parquet").rename(tmp_path / "train" / "part-9.parquet")
    short = tmp_path / "train" / "part-2.parquet"
    pq.write_table(pq.read_table(short).slice(0, 1), short)
    with pytest.raises(DataError, match="the data files have changed since the checkpoint") as caught:
        open_feed(tmp_path, JobMode.TRAIN).load_state_dict(state)
    lines = str(caught.value).splitlines()
    assert re.fullmatch(r"  part-0.parquet was 200 rows .*, is 199 rows in 3 parts \(\w{8}\), \d+ bytes", lines[1])
    assert re.fullmatch(r"  part-2.parquet was 200 rows in 3 parts .*, is 1 row in 1 part .*", lines[2])
    assert lines[3:5] == ["  part-1.parquet is gone", "  part-9.parquet is new"]
    assert "pass --accept-changed-data to continue with these" in lines[5]


def test_with_accepted_changes_the_epoch_continues_at_the_same_row(tmp_path: Path) -> None:
    write_feed(tmp_path)
    before = open_feed(tmp_path, JobMode.TRAIN, window_rows=0)
    rows_of(before, 12)  # 768 rows: 168 of the second epoch
    shutil.copy(tmp_path / "train" / "part-2.parquet", tmp_path / "train" / "part-3.parquet")
    longer = open_feed(tmp_path, JobMode.TRAIN, window_rows=0)
    longer.load_state_dict(before.state_dict(), accept_changes=True)
    assert longer.row == 800 + 168
    assert torch.equal(rows_of(longer, 1), rows_of(before, 1))


def test_a_position_is_valid_after_moving_the_data(tmp_path: Path) -> None:
    state = open_feed(write_feed(tmp_path / "old"), JobMode.TRAIN).state_dict()
    shutil.move(tmp_path / "old", tmp_path / "new")
    moved = open_feed(tmp_path / "new", JobMode.TRAIN)
    moved.load_state_dict(state)
    assert moved.state_dict() == state


@settings(max_examples=50)
@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=20),
    st.integers(0, 100),
    st.integers(0, 5),
    st.integers(0, 5),
)
def test_windows_partition_an_epoch_into_complete_chunks(
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
