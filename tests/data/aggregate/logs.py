"""Logs for tests of aggregates: random rows, and a spec with every kind of aggregate."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

from recap.config.aggregates.spec import AggregatesConfig

SCHEMA = pa.schema(
    {"time": pa.int64(), "user": pa.string(), "item": pa.int32(), "author": pa.int64()}
    | {"click": pa.int8(), "watched": pa.float64()}
)
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "time": st.integers(0, 30).map(lambda step: step * 1200),  # with many ties
            "user": st.sampled_from(["a", "b", None]),
            "item": st.integers(0, 4),
            "author": st.sampled_from([10, 11, None]),
            "click": st.sampled_from([0, 1, None]),
            "watched": st.sampled_from([0.0, 1.5, 20.0, None]),
        }
    ),
    min_size=1,
    max_size=25,
)
DELAYS = st.sampled_from(["0s", "30m", "3h"])
REFRESHES = st.sampled_from([None, {"every": "2h", "at": "30m"}, {"every": "20m"}])
ALL_KINDS: list[dict[str, Any]] = [
    {"kind": "count", "keys": ["user", "author", "pair"], "windows": ["1h", "4h", "all"]},
    {"kind": "sum", "keys": ["user", "pair"], "labels": ["watched", "click"], "windows": ["4h", "all"]},
    {
        "kind": "rate",
        "keys": ["user", "author"],
        "priors": {"click": 0.25, "watched": "running"},
        "strength": 3.0,
        "windows": ["4h", "all"],
    },
    {"kind": "recency", "keys": ["user", "pair"]},
    {"kind": "recency", "keys": ["user", "author"], "labels": ["click", "watched"]},
    {"kind": "last", "keys": ["user"], "columns": ["item"], "length": 3},
    {"kind": "last", "keys": ["user", "pair"], "columns": ["item", "author"], "length": 2, "labels": ["click"]},
]


def spec_of(delay: str = "0s", refresh: dict[str, Any] | None = None, **changes: Any) -> AggregatesConfig:
    values: dict[str, Any] = {
        "time": {"column": "time", "unit": "s"},
        "delay": delay,
        "refresh": refresh,
        "keys": {"user": ["user"], "author": ["author"], "pair": ["user", "author"]},
        "aggregates": ALL_KINDS,
    }
    return AggregatesConfig.model_validate(values | changes)


def write_log(folder: Path, rows: list[dict[str, Any]], files: int = 2) -> str:
    """Write `rows` in their order into several files, some of which may be empty; return their glob."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(files):
        part = rows[len(rows) * number // files : len(rows) * (number + 1) // files]
        pq.write_table(pa.Table.from_pylist(part, SCHEMA), folder / f"{number}.parquet", row_group_size=4)
    return str(folder / "*.parquet")


def read_back(files: list[Path]) -> list[dict[str, Any]]:
    return pa.concat_tables([pq.read_table(file) for file in files]).to_pylist()
