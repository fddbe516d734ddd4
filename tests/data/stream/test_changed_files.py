"""Files that change during a run are reported: its row order would be wrong."""

import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import feed_table

from recap.config.data import ArrowConfig, ParquetConfig
from recap.config.features import FeaturesConfig
from recap.data.encoding.encoder import RowEncoder
from recap.data.stream.source import Source
from recap.errors import DataError

ENCODER = RowEncoder(FeaturesConfig(continuous=["followers"]), {})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    pq.write_table(feed_table(40), tmp_path / "part.parquet", row_group_size=20)
    return tmp_path / "part.parquet"


def append(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"x")


def touch(file: Path) -> None:
    os.utime(file, (0, 1_700_000_000))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (Path.unlink, r"cannot be read \(No such file or directory\)"),
        (append, r"it holds [\d,]+ bytes instead of [\d,]+"),
        (touch, "it was written at 2023-11-1"),
    ],
)
def test_a_changed_file_is_reported_when_it_is_read(change: Callable[[Path], None], message: str, file: Path) -> None:
    source = Source(ParquetConfig(inputs=[str(file)]), ENCODER)
    assert len(source.loader.load([source.chunks[1]]).batches[0]) == 20
    change(file)
    with pytest.raises(DataError, match=rf"^{file}: changed since this job started: {message}.*; restore the old file"):
        source.loader.load([source.chunks[0]])


def test_a_chunk_with_a_different_number_of_rows_is_reported(tmp_path: Path) -> None:
    file, other = tmp_path / "part.arrow", tmp_path / "other"
    for path, rows in ((file, 3), (other, 5)):  # of the same size: columns are padded to 64 bytes
        table = pa.table({"followers": pa.array([1] * rows, pa.int8())})
        with pa.OSFile(str(path), "wb") as stream, pa.ipc.new_file(stream, table.schema) as writer:
            writer.write_table(table)
    source = Source(ArrowConfig(kind="arrow", inputs=[str(file)]), ENCODER)
    status = file.stat()
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(file)
    with pytest.raises(DataError, match="changed since this job started: its part 0 holds 5 rows instead of 3"):
        source.loader.load([source.chunks[0]])
