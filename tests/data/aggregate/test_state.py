"""A state gives a server the values that `recap data aggregate` writes for the same impressions."""

import json
from datetime import UTC, date, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data.aggregate.logs import DELAYS, REFRESHES, ROWS, read_back, spec_of, write_log
from hypothesis import given, settings
from hypothesis import strategies as st

from recap.data.aggregate import shuffle
from recap.data.aggregate.run import aggregate_files
from recap.data.aggregate.state import State, parse_at
from recap.errors import CheckpointError, DataError, InputError

ROW = {"time": 1200, "user": "a", "item": 1, "author": 10, "click": 1, "watched": 0.5}
IMPRESSIONS = [(user, author) for user in ("a", "b", "new", None) for author in (10, 11, 12, None)]


@settings(max_examples=25)  # each writes and syncs a state
@given(
    rows=ROWS,
    delay=DELAYS,
    refresh=REFRESHES,
    at=st.none() | st.integers(1, 30),
    later=st.integers(0, 12),
    part_rows=st.sampled_from([4, 1 << 20]),
)
def test_a_state_and_aggregate_give_equal_columns(
    rows: list[dict[str, Any]], delay: str, refresh: dict[str, Any] | None, at: int | None, later: int, part_rows: int
) -> None:
    """Impressions at one time do not see each other, so their aggregates are those of the log before the state."""
    spec = spec_of(delay, refresh)
    end = max(row["time"] for row in rows) + 1 if at is None else at * 1200
    log = [row for row in rows if row["time"] < end] or [rows[0] | {"time": end - 1}]
    now = end + later * 1200
    asked = [ROW | {"time": now, "user": user, "author": author} for user, author in IMPRESSIONS]
    ids = {"user": [user for user, _ in IMPRESSIONS], "author": [author for _, author in IMPRESSIONS]}
    with TemporaryDirectory() as name, patch.object(shuffle, "PART_ROWS", part_rows):
        folder = Path(name)
        whole = write_log(folder / "whole", log + asked)
        written = read_back(aggregate_files(spec, [whole], folder / "out").files)[-len(asked) :]
        unsorted = write_log(folder / "log", [*asked, *log] if at is not None else log, files=3)
        aggregate_files(spec, [unsorted], state=folder / "state", at=None if at is None else end * 1_000_000)
        columns = State.open(folder / "state").columns(ids, at=now)
    assert pa.table(columns).to_pylist() == [
        {name: row[name] for key in spec.keys for name in spec.names(key)} for row in written
    ]


@pytest.mark.parametrize("at", [None, 14_400_000_000])
def test_values_and_state_may_be_written_at_once(at: int | None, tmp_path: Path) -> None:
    rows = [
        ROW | {"time": 600 * step, "user": "ab"[step % 2], "click": step % 3, "watched": step / 7} for step in range(60)
    ]
    inputs, spec = [write_log(tmp_path / "log", rows)], spec_of("30m")
    aggregate_files(spec, inputs, tmp_path / "one" / "values")
    alone = aggregate_files(spec, inputs, state=tmp_path / "one" / "state", at=at)
    both = aggregate_files(spec, inputs, tmp_path / "both" / "values", state=tmp_path / "both" / "state", at=at)
    assert (both.at, both.rows) == (alone.at, alone.rows)
    files = [
        {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
        for folder in (tmp_path / "one", tmp_path / "both")
    ]
    assert len(files[0]) == 8
    assert files[0] == files[1]


def state_of(folder: Path, rows: list[dict[str, Any]], **changes: Any) -> State:
    inputs = write_log(folder / "log", rows)
    aggregate_files(spec_of(**changes), [inputs], state=folder / "state", overwrite=True)
    return State.open(folder / "state")


def test_a_state_holds_what_later_impressions_can_see(tmp_path: Path) -> None:
    """Only windows and last values need single impressions; sums need one row a key."""
    rows = [ROW | {"time": 60 * minute, "click": 0} for minute in range(1000)]
    state_of(tmp_path, rows, aggregates=[{"kind": "count", "keys": ["user", "author", "pair"], "windows": ["all"]}])
    sizes = {key: pq.read_metadata(tmp_path / "state" / "keys" / f"{key}.parquet").num_rows for key in spec_of().keys}
    assert sizes == {"user": 1, "author": 1, "pair": 1}
    aggregates = [{"kind": "count", "keys": ["user", "author", "pair"], "windows": ["2h"]}]
    state = state_of(tmp_path, rows, aggregates=aggregates)
    assert pq.read_metadata(tmp_path / "state" / "keys" / "user.parquet").num_rows == 120
    columns = state.columns({"user": ["a"]}, at=datetime.fromtimestamp(60 * 1000, UTC))
    assert {name: column.to_pylist() for name, column in columns.items()} == {"user_count_2h": [120.0]}


def test_each_impression_may_have_its_own_time(tmp_path: Path) -> None:
    state = state_of(tmp_path, [ROW])
    columns = state.columns({"user": ["a", "a"]}, at=[1201, 1200 + 3 * 3600])
    assert columns["user_count_1h"].to_pylist() == [1.0, 0.0]
    assert columns["user_recency"].to_pylist() == [1.0, 3 * 3600.0]
    assert set(columns) == set(spec_of().names("user"))


@pytest.mark.parametrize(
    "at", [np.datetime64("1970-01-02"), date(1970, 1, 2), np.array([86400]), "1970-01-02", 86400.0]
)
def test_a_time_may_have_any_type(at: Any, tmp_path: Path) -> None:
    assert state_of(tmp_path, [ROW]).columns({"user": "a"}, at)["user_recency"].to_pylist() == [86400.0 - 1200]


@pytest.mark.parametrize(
    ("text", "expected"), [("1.5", 1_500_000), ("-2", -2_000_000), ("1970-01-02", 86_400_000_000), ("0", 0)]
)
def test_the_time_of_a_state_is_a_date_or_a_number_as_in_the_log(text: str, expected: int) -> None:
    assert parse_at(text, spec_of()) == expected


@pytest.mark.parametrize(("text", "message"), [("9" * 30, "after the year 9891"), ("noon", "expected a date or time")])
def test_what_is_no_time_of_a_state_is_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=f"--at: .*{message}"):
        parse_at(text, spec_of())


def test_one_value_is_that_of_all_candidates(tmp_path: Path) -> None:
    state = state_of(tmp_path, [ROW])
    listed = state.columns({"user": ["a", "a"], "author": [10, 11]}, at=2000)
    assert state.columns({"user": "a", "author": [10, 11]}, at=2000) == listed
    assert state.columns({"user": "a"}, at=2000)["user_count"].to_pylist() == [1.0]
    assert state.columns({"author": np.int64(10)}, at=2000)["author_count"].to_pylist() == [1.0]


def test_ids_are_the_same_as_integers_and_as_text(tmp_path: Path) -> None:
    state = state_of(tmp_path, [ROW])
    one, other = (state.columns({"author": [author]}, at=2000) for author in (10, "10"))
    assert one == other
    assert one["author_count"].to_pylist() == [1.0]


@pytest.mark.parametrize(
    ("values", "at", "message"),
    [
        ({"usr": ["a"]}, 2000, r"values: 'usr' is in no key. Known: user, author. Did you mean 'user'\?"),
        ({}, 2000, "values: holds no complete key; give all columns of one of"),
        ({"user": ["a"], "author": [1, 2]}, 2000, "values: 'author' holds 2 values, another column 1"),
        ({"user": ["a"]}, 1000, "at: 1970-01-01 00:16:40 UTC is before the state, which is of 1970-01-01 00:20:00 UTC"),
        ({"user": ["a"]}, [2000, 2000], "at: holds 2 times for 1 impressions; give one time, or one for each"),
        ({"user": ["a"]}, "soon", "at: column 'at': found 'soon', expected a time such as"),
        ({"user": [{"id": 1}]}, 2000, "column 'user': holds struct"),
        ({"user": ["a", 1]}, 2000, "give a list of one type"),
    ],
)
def test_a_lookup_that_does_not_fit_is_refused(values: dict[str, Any], at: Any, message: str, tmp_path: Path) -> None:
    state = state_of(tmp_path, [ROW])
    with pytest.raises(InputError, match=message):
        state.columns(values, at)


def test_a_state_is_refused_if_it_is_missing_damaged_or_would_be_replaced(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not a state, which `recap data aggregate --state` writes"):
        State.open(tmp_path)
    state_of(tmp_path, [ROW])
    inputs = [str(tmp_path / "log" / "*")]
    with pytest.raises(InputError, match=r"--state: .*already exists; add --overwrite to replace it"):
        aggregate_files(spec_of(), inputs, state=tmp_path / "state")
    with pytest.raises(InputError, match=r"--state: .*already exists; it is not a state, or choose another folder"):
        aggregate_files(spec_of(), inputs, state=tmp_path / "log", overwrite=True)
    with pytest.raises(DataError, match=r"--at: the log holds no row before 1970-01-01 00:00:01 UTC; choose a later"):
        aggregate_files(spec_of(), inputs, state=tmp_path / "other", at=1_000_000)
    for output in (tmp_path / "state", tmp_path / "state" / "values"):
        with pytest.raises(InputError, match=r"--state: .*state would replace --output .*; choose another folder"):
            aggregate_files(spec_of(), inputs, output, state=tmp_path / "state", overwrite=True)
    assert {path.name for path in tmp_path.iterdir()} == {"log", "state"}
    file = tmp_path / "state" / "state.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"at": 0}))
    with pytest.raises(CheckpointError, match="damaged"):
        State.open(tmp_path / "state")
