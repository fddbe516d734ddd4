"""The rows of a batch are known from its position in the stream alone."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data.stream.test_batch_stream import SAMPLING, open_feed
from support import write_feed

from recap.config.recap import JobMode
from recap.data.stream.batch_stream import BatchStream

OPTIONS: dict[str, dict[str, Any]] = {
    "in order": {"window_rows": 0},
    "shuffled": {"window_rows": 150},
    "one window": {"window_rows": 10_000},
    "interleaved files": {"window_rows": 0, "interleave_files": 2},
    "batches across epochs": {"batch_rows": 250},
    "cached": {"cache": True},
}


def stored(rows: list[tuple[str, int]]) -> list[float]:
    """The first value of the vector in these rows of the files; it identifies a row."""
    files = {
        file: np.stack(pq.read_table(file).column("vector").to_numpy(zero_copy_only=False))[:, 0]
        for file in {file for file, _ in rows}
    }
    return [float(files[file][row]) for file, row in rows]


def handed_out(stream: BatchStream, batches: int) -> int:
    """Compare each batch with its rows in the files; return the number of batches."""
    seen = 0
    for _, batch in zip(range(batches), stream, strict=False):
        assert batch.vectors["vector"][:, 0].tolist() == stored(stream.last_rows())
        seen += 1
    return seen


@pytest.mark.parametrize("option", OPTIONS)
def test_the_rows_of_a_batch_are_known_in_order(option: str, feed: Path) -> None:
    assert handed_out(open_feed(feed, JobMode.TRAIN, **OPTIONS[option]), 15) == 15


def test_the_rows_of_the_last_batch_of_a_split_are_known(feed: Path) -> None:
    stream = open_feed(feed, JobMode.EVALUATE)
    assert handed_out(stream, 10) == 4
    assert len(stream.last_rows()) == 250 % 64


def test_the_rows_are_known_after_a_restore(feed: Path) -> None:
    stream, restored = (open_feed(feed, JobMode.TRAIN) for _ in range(2))
    handed_out(stream, 3)
    restored.load_state_dict(stream.state_dict())
    assert handed_out(restored, 3) == 3


def test_with_sampled_negatives_all_rows_read_are_known(feed: Path) -> None:
    stream = open_feed(feed, JobMode.TRAIN, downsample_negatives=SAMPLING)
    for _, batch in zip(range(8), stream, strict=False):
        rows = stream.last_rows()
        assert len(rows) == 64 * 3
        assert set(batch.vectors["vector"][:, 0].tolist()) <= set(stored(rows))


@pytest.mark.parametrize("window_rows", [0, 150])
def test_skipped_rows_and_chunks_are_not_among_them(tmp_path: Path, window_rows: int) -> None:
    feed = write_feed(tmp_path)
    file = feed / "train" / "part-1.parquet"
    table = pq.read_table(file)
    likes = table.column("like").to_pylist()
    likes[3], likes[120] = 9, 9
    index = table.schema.get_field_index("like")
    pq.write_table(table.set_column(index, "like", pa.array(likes)), file, row_group_size=70)
    stream = open_feed(feed, JobMode.TRAIN, window_rows=window_rows, on_bad_data={"kind": "skip", "budget": 5})
    assert handed_out(stream, 20) == 20
    assert stream.skipped
