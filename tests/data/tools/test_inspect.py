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


def test_files_with_different_columns_are_refused(tmp_path: Path) -> None:
    first, second = (
        write(tmp_path / "a.parquet", {"x": [1], "y": [1]}),
        write(tmp_path / "b.parquet", {"x": [1], "z": [1]}),
    )
    with pytest.raises(DataError, match=r"b.parquet: its columns differ from those of .*a.parquet: y, z"):
        inspect_files([first, second])
