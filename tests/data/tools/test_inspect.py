"""`recap data inspect` describes the columns of files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recap.data.tools import inspect
from recap.data.tools.inspect import ColumnReport, inspect_files
from recap.errors import DataError


def write(path: Path, columns: dict[str, Any]) -> str:
    pq.write_table(pa.table(columns), path, row_group_size=3)
    return str(path)


def test_every_column_is_described_over_all_rows(tmp_path: Path) -> None:
    columns = {
        "like": [0, 1, 1, 0],
        "flag": [True, False, True, True],
        "age": [1.5, None, float("nan"), float("inf")],
        "word": pa.array(["b", "a", None, "a"]).dictionary_encode(),
        "vector": pa.array([[1.0, 2.0], None, [0.5, 3.0], [1.0, 1.0]], pa.list_(pa.float32(), 2)),
        "nothing": pa.nulls(4),
        "place": [{"x": 1}] * 4,
    }
    write(tmp_path / "a.parquet", columns)
    write(tmp_path / "b.parquet", columns)
    found = inspect_files([str(tmp_path / "*.parquet")])
    assert (found.files, found.format, found.rows) == (2, "Parquet", 8)
    reports = {
        column.name: (column.missing, column.not_finite, column.low, column.high, column.distinct, column.positives)
        for column in found.columns
    }
    assert reports == {
        "like": (0, 0, 0, 1, 2, 4),
        "flag": (0, 0, 0, 1, 2, 6),
        "age": (2, 4, 1.5, 1.5, reports["age"][4], None),
        "word": (2, 0, "a", "b", 2, None),
        "vector": (2, 0, 0.5, 3.0, None, None),
        "nothing": (8, 0, None, None, 0, None),
        "place": (0, 0, None, None, None, None),
    }
    assert json.loads(json.dumps(found.as_json(), allow_nan=False))["columns"][0]["positives"] == 4


@given(st.lists(st.lists(st.none() | st.integers(-3, 3), max_size=8), min_size=1, max_size=4))
def test_reports_do_not_depend_on_chunks(pieces: list[list[int | None]]) -> None:
    report = ColumnReport("x", "int64")
    for piece in pieces:
        report.add(pa.chunked_array([pa.array(piece, pa.int64())]))
    values = [value for piece in pieces for value in piece if value is not None]
    assert report.missing == sum(map(len, pieces)) - len(values)
    assert (report.low, report.high) == ((min(values), max(values)) if values else (None, None))
    assert report.distinct == len(set(values))
    assert report.positives == (sum(values) if values and set(values) <= {0, 1} else None)


def test_distinct_values_are_unknown_beyond_the_maximum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspect, "MAX_DISTINCT", 5)
    (column,) = inspect_files([write(tmp_path / "a.parquet", {"x": np.arange(20)})]).columns
    assert (column.distinct, column.high, column.positives) == (None, 19, None)


EVERY_TYPE = {
    "ns": pa.array([1_700_000_000_123_456_789, None], pa.timestamp("ns")),
    "zone": pa.array([0, 1], pa.timestamp("us", "Nowhere/Else")),
    "late": pa.array([2**40, 1], pa.timestamp("s")),
    "time": pa.array([5, 6], pa.time64("ns")),
    "span": pa.array([5, 6], pa.duration("ns")),
    "interval": pa.array([(1, 2, 3), None], pa.month_day_nano_interval()),
    "uuid": pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"0" * 16, None], pa.binary(16))),
    "view": pa.array(["b", None], pa.string_view()),
    "decimal": pa.array([1, 2], pa.decimal32(5, 2)),
    "half": pa.array([1.5, float("nan")], pa.float16()),
    "runs": pa.RunEndEncodedArray.from_arrays([1, 2], [7, 8]),
    "map": pa.array([[("a", 1)], None], pa.map_(pa.string(), pa.int8())),
    "lists": pa.array([[["a", None], None], None], pa.list_(pa.list_(pa.string_view()))),
    "not_utf8": pa.Array.from_buffers(pa.string(), 2, pa.array([b"a\xff", b"b"]).buffers()),
    "long": ["x" * 100_000, "y"],
}


def test_every_type_is_described(tmp_path: Path) -> None:
    with pa.ipc.new_file(tmp_path / "a.arrow", (table := pa.table(EVERY_TYPE)).schema) as writer:
        writer.write_table(
            table.drop_columns(["not_utf8"]).append_column("not_utf8", pa.array(["a", "b"])).select(table.column_names)
        )
    pq.write_table(table.drop_columns(["runs", "interval", "decimal"]), tmp_path / "b.parquet")
    reports = {column.name: column for column in inspect_files([str(tmp_path / "a.arrow")]).columns}
    reports |= {column.name: column for column in inspect_files([str(tmp_path / "b.parquet")]).columns}
    ranges = {name: (report.low, report.high) for name, report in reports.items()}
    assert ranges["ns"] == ("2023-11-14 22:13:20.123456789",) * 2
    assert (ranges["view"], ranges["runs"], ranges["lists"]) == (("b", "b"), (7, 8), ("a", "a"))
    assert (ranges["not_utf8"], ranges["decimal"], ranges["half"]) == (("a\ufffd", "b"), (1.0, 2.0), (1.5, 1.5))
    assert ranges["long"] == ("x" * 60 + "…", "y")
    assert reports["uuid"].distinct == 1


def test_files_of_several_formats_are_described_together_without_those_that_hold_no_rows(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", {"x": pa.nulls(0), "word": pa.nulls(0)})
    write(tmp_path / "b.parquet", {"x": [1, 2], "word": pa.nulls(2)})
    (tmp_path / "c.csv").write_text("word,x\nno,3.5\n")
    (tmp_path / "d.jsonl").touch()
    found = inspect_files([str(tmp_path / "*")])
    assert (found.files, found.rows, found.format) == (4, 3, "Parquet, CSV and JSON lines")
    assert [(column.name, column.high, column.missing) for column in found.columns] == [
        ("x", 3.5, 0),
        ("word", "no", 2),
    ]
    with pytest.raises(DataError, match=r"d.jsonl: holds no rows$"):
        inspect_files([str(tmp_path / "d.jsonl")])
    with pytest.raises(DataError, match=r"a.parquet and 1 other file of the same inputs hold no rows$"):
        inspect_files([str(tmp_path / "a.parquet"), str(tmp_path / "d.jsonl")])


def test_files_with_unlike_types_or_a_repeated_column_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", {"x": [1]})
    write(tmp_path / "b.parquet", {"x": ["one"]})
    with pytest.raises(DataError, match=r"b.parquet: column 'x': holds string, but int64 in other files; inspect them"):
        inspect_files([str(tmp_path / "*.parquet")])
    pq.write_table(pa.Table.from_arrays([pa.array([1])] * 2, names=["x", "x"]), tmp_path / "twice.parquet")
    with pytest.raises(DataError, match=r"twice.parquet: column 'x': appears twice in the file"):
        inspect_files([str(tmp_path / "twice.parquet")])


def test_files_with_different_columns_are_refused(tmp_path: Path) -> None:
    first, second = (
        write(tmp_path / "a.parquet", {"x": [1], "y": [1]}),
        write(tmp_path / "b.parquet", {"x": [1], "z": [1]}),
    )
    with pytest.raises(DataError, match=r"b.parquet: its columns differ from those of .*a.parquet: y, z"):
        inspect_files([first, second])
