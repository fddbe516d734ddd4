"""Tables read ahead are the tables read one by one, errors come in order, and no thread is left behind."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recap.config.data import SourceKind
from recap.data.formats import blocks
from recap.data.formats.format import list_chunks
from recap.data.formats.tables import TableFiles
from recap.data.formats.text import lines as text_format
from recap.data.formats.tfrecord import reader
from recap.data.tools.convert import convert_files
from recap.errors import DataError

KINDS: tuple[SourceKind, ...] = get_args(SourceKind)
ROWS = [70, 0, 1, 130]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of several chunks, of none and of one, in every format."""
    folder = tmp_path_factory.mktemp("tables")
    (folder / "made").mkdir()
    for number, rows in enumerate(ROWS):
        table = pa.table({"row": pa.array(range(rows), pa.int64()), "file": pa.array([number] * rows, pa.int64())})
        pq.write_table(table, folder / "made" / f"part-{number}.parquet", row_group_size=20)
    for kind in KINDS:
        convert_files([str(folder / "made" / "*")], folder / kind, kind)
    return folder


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 200)
    text_format._index.cache_clear()
    reader._index.cache_clear()
    yield
    text_format._index.cache_clear()
    reader._index.cache_clear()


def open_files(folder: Path, kind: SourceKind) -> TableFiles:
    schema = str(folder / kind / "schema.json") if kind == "tfrecord" else None
    return TableFiles.open([str(folder / kind / "part-*")], schema, {"row": pa.int64(), "file": pa.int64()})


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("recap-tables")]


@pytest.mark.parametrize("kind", KINDS)
def test_tables_come_in_the_order_of_reading_them_one_by_one(kind: SourceKind, folder: Path) -> None:
    files = open_files(folder, kind)
    full = [file for file, rows in zip(files.files, ROWS, strict=True) if rows or kind not in ("csv", "jsonl")]
    expected = [
        (chunk, files.format.read(file, chunk.number, ["file", "row"]))
        for file in full
        for chunk in list_chunks(files.format, file)
    ]
    assert len(expected) >= 3
    assert list(files.tables(["file", "row"], [chunk for chunk, _ in expected])) == expected
    by_file = [(file, list(tables)) for file, tables in files.tables_by_file(["file", "row"], full)]
    assert [file for file, _ in by_file] == full
    assert [read for _, tables in by_file for read in tables] == expected
    assert threads() == []


@given(st.data())
def test_any_chunks_are_read_in_the_order_given(folder: Path, data: st.DataObject) -> None:
    files = open_files(folder, "parquet")
    chunks = data.draw(st.lists(st.sampled_from(files.chunks()), max_size=12))
    assert [chunk for chunk, _ in files.tables(["row"], chunks)] == chunks
    for chunk, table in files.tables(["row"], chunks):
        assert table.column("row").to_pylist() == list(range(chunk.first_row, chunk.first_row + chunk.rows))


def test_columns_default_to_all_columns_of_each_file(tmp_path: Path) -> None:
    for number, columns in enumerate(({"a": [1]}, {"b": [2], "c": [3]})):
        pq.write_table(pa.table(columns), tmp_path / f"{number}.parquet")
    files = TableFiles.open([str(tmp_path / "*.parquet")])
    assert [table.column_names for _, table in files.tables()] == [["a"], ["b", "c"]]


def damaged(folder: Path, tmp_path: Path, damage: str) -> TableFiles:
    """Four good chunks, then a chunk or a file that cannot be read, then good ones."""
    for number, file in enumerate(sorted((folder / "parquet").glob("*.parquet"))):
        (tmp_path / f"{number}.parquet").write_bytes(file.read_bytes())
    bad = tmp_path / "0.parquet" if damage == "chunk" else tmp_path / "1.parquet"
    content = bytearray(bad.read_bytes())
    if damage == "chunk":
        pq.write_table(pa.table({"row": range(70)}), bad, row_group_size=20, compression="zstd", use_dictionary=False)
        content = bytearray(bad.read_bytes())
        offset = pq.ParquetFile(bad).metadata.row_group(2).column(0).data_page_offset
        content[offset : offset + 40] = b"\xff" * 40
    else:
        content = bytearray(b"not Parquet")
    bad.write_bytes(content)
    return TableFiles.open([str(tmp_path / "*.parquet")])


@pytest.mark.parametrize(("damage", "good"), [("chunk", 2), ("file", 4)])
def test_an_error_is_raised_after_the_tables_before_it(damage: str, good: int, folder: Path, tmp_path: Path) -> None:
    files = damaged(folder, tmp_path, damage)
    if damage == "file":
        good = len(list_chunks(files.format, files.files[0]))
    tables = files.tables(["row"])
    for _ in range(good):
        next(tables)
    with pytest.raises(DataError, match="row group 2 cannot be read" if damage == "chunk" else "not readable as"):
        next(tables)
    assert threads() == []


@pytest.mark.parametrize("consumed", [0, 1, 3])
def test_an_abandoned_reader_leaves_no_thread(consumed: int, folder: Path) -> None:
    tables = open_files(folder, "parquet").tables(["row"])
    for _ in range(consumed):
        next(tables)
    assert bool(threads()) == (consumed > 0)
    del tables
    assert threads() == []


def test_reading_stays_two_chunks_ahead_at_most(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = open_files(folder, "parquet")
    started: list[int] = []
    read = files.format.read

    def counted(file: str, chunk: int, columns: list[str], skip: list[int]) -> pa.Table:
        started.append(chunk)
        return read(file, chunk, columns, skip)

    monkeypatch.setattr(files.format, "read", counted)
    chunks = files.chunks()
    for number, _ in enumerate(files.tables(["row"], chunks)):
        assert len(started) <= number + 3
    assert len(started) == len(chunks)
