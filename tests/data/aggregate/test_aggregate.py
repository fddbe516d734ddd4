"""`recap data aggregate` equals a slow, obvious version, and refuses what it cannot do."""

import math
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from data.aggregate.logs import DELAYS, REFRESHES, ROWS, SCHEMA, read_back, spec_of, write_log
from data.aggregate.slow import slow_columns
from hypothesis import given
from hypothesis import strategies as st

from recap.config.aggregates.spec import AggregatesConfig
from recap.data.aggregate import shuffle
from recap.data.aggregate.run import aggregate_files, scratch_folder
from recap.errors import DataError, InputError


def aggregate(spec: AggregatesConfig, rows: list[dict[str, Any]], files: int = 2) -> list[dict[str, Any]]:
    """The rows of the output."""
    with TemporaryDirectory() as folder:
        inputs = write_log(Path(folder) / "log", rows, files)
        return read_back(aggregate_files(spec, [inputs], Path(folder) / "out").files)


def expected(spec: AggregatesConfig, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        row | {name: value for key in spec.keys for name, value in slow_columns(spec, key, rows, row).items()}
        for row in rows
    ]


def as_float32(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows, with every number rounded as a column of float32 is."""
    return [
        {
            name: pa.scalar(value, pa.float32()).as_py() if isinstance(value, int | float) else value
            for name, value in row.items()
        }
        for row in rows
    ]


@given(rows=ROWS, delay=DELAYS, refresh=REFRESHES, files=st.integers(1, 3), part_rows=st.sampled_from([4, 1 << 20]))
def test_every_aggregate_equals_its_definition(
    rows: list[dict[str, Any]], delay: str, refresh: dict[str, Any] | None, files: int, part_rows: int
) -> None:
    spec = spec_of(delay, refresh)
    with patch.object(shuffle, "PART_ROWS", part_rows):
        written = aggregate(spec, rows, files)
    assert as_float32(written) == as_float32(expected(spec, rows))


@given(rows=ROWS, delay=DELAYS, refresh=REFRESHES, changed=st.integers(0, 1000))
def test_no_value_depends_on_its_own_time_or_later(
    rows: list[dict[str, Any]], delay: str, refresh: dict[str, Any] | None, changed: int
) -> None:
    spec = spec_of(delay, refresh)
    time = rows[changed % len(rows)]["time"]
    others = [
        row if row["time"] < time else row | {"click": 1 - (row["click"] or 0), "watched": 7.0, "item": 9}
        for row in rows
    ]
    names = [name for key in spec.keys for name in spec.names(key)]
    one, other = aggregate(spec, rows), aggregate(spec, others)
    for row, before, after in zip(rows, one, other, strict=True):
        if row["time"] <= time:
            assert {name: before[name] for name in names} == {name: after[name] for name in names}


def sums_of(rows: list[dict[str, Any]]) -> list[tuple[float, float]]:
    """The sums of `watched` of a user in the hour before each row, and in all time before it."""
    aggregates = [{"kind": "sum", "keys": ["user"], "labels": ["watched"], "windows": ["1h", "all"]}]
    written = aggregate(spec_of(keys={"user": ["user"]}, aggregates=aggregates), rows)
    return [(row["user_watched_sum_1h"], row["user_watched_sum"]) for row in written]


def test_a_large_value_does_not_change_sums_of_other_keys_or_later_windows() -> None:
    watched = [("a", 0, 1e18), ("a", 1, -3.5), ("b", 2, 0.1), ("b", 3, 0.1), ("b", 4, 0.1), ("a", 9000, 0.1)]
    rows = [ROW | {"time": time, "user": user, "watched": value} for user, time, value in [*watched, ("a", 9001, 0.0)]]
    tenth, fifth, large = (float(np.float32(value)) for value in (0.1, 0.2, 1e18))
    of_a = [(0.0, 0.0), (large, large)], [(0.0, large), (tenth, large)]
    assert sums_of(rows) == [*of_a[0], (0.0, 0.0), (tenth, tenth), (fifth, fifth), *of_a[1]]


@given(st.lists(st.tuples(st.sampled_from("ab"), st.floats(-1e30, 1e30)), min_size=1, max_size=30))
def test_sums_are_rounded_once(watched: list[tuple[str, float]]) -> None:
    rows = [ROW | {"time": time, "user": user, "watched": value} for time, (user, value) in enumerate(watched)]
    exact = [math.fsum(value for of, value in watched[:row] if of == user) for row, (user, _) in enumerate(watched)]
    assert [total for _, total in sums_of(rows)] == pytest.approx(exact, rel=1e-7, abs=1e-6)


def test_labels_beyond_float32_count_as_missing_and_sums_beyond_it_are_infinite() -> None:
    rows = [ROW | {"time": time, "watched": value} for time, value in enumerate([1e300, 3e38, 3e38, 0.0])]
    assert [total for _, total in sums_of(rows)] == [0.0, 0.0, float(np.float32(3e38)), math.inf]


def test_files_keep_their_folders_rows_and_columns(tmp_path: Path) -> None:
    row = {"time": 0, "user": "a", "item": 1, "author": 10, "click": 1, "watched": None}
    for day in ("day=1", "day=2"):
        write_log(tmp_path / "log" / day, [row, row | {"time": 60}], files=2)
    written = aggregate_files(spec_of(), [str(tmp_path / "log" / "*" / "*.parquet")], tmp_path / "out").files
    assert [str(file.relative_to(tmp_path / "out")) for file in written] == [
        "day=1/0.parquet",
        "day=1/1.parquet",
        "day=2/0.parquet",
        "day=2/1.parquet",
    ]
    schema = pq.read_schema(written[0])
    assert schema.names[: len(SCHEMA)] == SCHEMA.names
    assert [schema.field(name).type for name in SCHEMA.names] == SCHEMA.types
    assert (schema.field("user_count_1h").type, schema.field("user_last_item").type) == (
        pa.float32(),
        pa.large_list(pa.int32()),
    )
    assert [row["user_count"] for row in read_back(written)] == [0, 2, 0, 2]
    assert {path.name for path in tmp_path.iterdir()} == {"log", "out"}


def test_a_log_of_text_files_and_times_reads_as_well(tmp_path: Path) -> None:
    table = pa.table({"when": ["2026-01-01 00:00:00", "2026-01-01 00:00:30"], "user": [7, 7], "liked": [True, False]})
    pa.csv.write_csv(table, tmp_path / "log.csv")
    spec = AggregatesConfig.model_validate(
        {
            "time": {"column": "when"},
            "keys": {"user": ["user"]},
            "aggregates": [{"kind": "recency", "keys": ["user"], "labels": ["liked"]}],
        }
    )
    (file,) = aggregate_files(spec, [str(tmp_path / "log.csv")], tmp_path / "out").files
    assert pq.read_table(file)["user_liked_recency"].to_pylist() == [None, 30.0]


def test_files_without_rows_get_the_columns_too(tmp_path: Path) -> None:
    row = {"time": 0, "user": "a", "item": 1, "author": 10, "click": 1, "watched": None}
    files = aggregate_files(spec_of(), [write_log(tmp_path / "log", [row], files=2)], tmp_path / "out").files
    assert [pq.read_metadata(file).num_rows for file in files] == [0, 1]
    assert pq.read_schema(files[0]).names == pq.read_schema(files[1]).names


ROW = {"time": 0, "user": "a", "item": 1, "author": 10, "click": 1, "watched": 0.5}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"clik": [1], "click": None}, r"0.parquet: has no column 'click', named in .* Known: .*Did you mean 'clik'\?"),
        ({"user_count_1h": [1.0]}, "has a column 'user_count_1h' already; rename or remove it, or rename the key"),
        ({"click": ["yes"]}, "column 'click': holds string, expected a label: numbers or booleans"),
        ({"user": [0.5]}, "column 'user', row 0: found 0.5, expected"),
        ({"item": [[1]]}, "column 'item': holds lists, expected one value in each row"),
        ({"time": pa.array([None], pa.int64())}, "column 'time': no time in 1 row"),
        ({"time": [date(2026, 1, 1)]}, r"column 'time': holds date32\[day\], but time.unit is for numbers; remove"),
        ({"time": [10**15]}, "column 'time': holds times after the year 9891 in s; check time.unit"),
    ],
)
def test_a_log_that_does_not_fit_is_refused(columns: dict[str, Any], message: str, tmp_path: Path) -> None:
    table = pa.Table.from_pylist([ROW], SCHEMA)
    for name, values in columns.items():
        if name in table.column_names:
            table = table.drop_columns([name])
        if values is not None:
            table = table.append_column(name, pa.array(values))
    pq.write_table(table, tmp_path / "0.parquet")
    with pytest.raises(DataError, match=message):
        aggregate_files(spec_of(), [str(tmp_path / "0.parquet")], tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["0.parquet"]


def test_all_columns_that_a_log_lacks_are_reported_with_their_fields(tmp_path: Path) -> None:
    table = pa.Table.from_pylist([ROW], SCHEMA).rename_columns({"time": "times", "author": "writer"})
    pq.write_table(table.drop_columns(["click"]), tmp_path / "0.parquet")
    with pytest.raises(DataError) as error:
        aggregate_files(spec_of(), [str(tmp_path / "0.parquet")], tmp_path / "out")
    lines = str(error.value).splitlines()
    file, known = tmp_path / "0.parquet", "Known: times, user, item, writer, watched."
    assert lines == [
        f"{file}: has no column 'time', named in time.column. {known} Did you mean 'times'?",
        f"{file}: has no column 'author', named in keys.author.0, keys.pair.1, aggregates.6.columns.1. {known}",
        f"{file}: has no column 'click', named in aggregates.1.labels.1, aggregates.2.priors.click, "
        f"aggregates.4.labels.0, aggregates.6.labels.0. {known}",
    ]


def test_times_as_text_are_numbers_in_the_unit(tmp_path: Path) -> None:
    table = pa.Table.from_pylist([ROW, ROW | {"time": 60}], SCHEMA)
    numbers = table.set_column(0, "time", pa.array(["0", "60"]))
    for name, rows in (("numbers", table), ("texts", numbers)):
        pq.write_table(rows, tmp_path / f"{name}.parquet")
    (one,), (other,) = (
        aggregate_files(spec_of(), [str(tmp_path / f"{name}.parquet")], tmp_path / "out").files
        for name in ("numbers", "texts")
    )
    assert pq.read_table(one).drop_columns(["time"]) == pq.read_table(other).drop_columns(["time"])


def test_a_time_that_is_no_number_is_named_with_its_line(tmp_path: Path) -> None:
    rows = "user,item,author,click,watched,time\n" + "".join(f"a,1,10,1,0.5,{time}\n" for time in ("12", "noon", "x"))
    (tmp_path / "log.csv").write_text(rows)
    message = "log.csv:3: column 'time', row 1: found the text 'noon', expected a number, because time.unit is set"
    with pytest.raises(DataError, match=message):
        aggregate_files(spec_of(), [str(tmp_path / "log.csv")], tmp_path / "out")


def test_numbers_that_are_dates_in_one_place_and_seconds_in_another_are_refused(tmp_path: Path) -> None:
    table = pa.Table.from_pylist([ROW], SCHEMA)
    for name, time in (("0", 18_999_999), ("1", 19_000_110)):
        times = pa.array([time], pa.int64())
        pq.write_table(table.set_column(0, "time", times), tmp_path / f"{name}.parquet")
    message = (
        r"1.parquet: column 'time': some rows look like dates in digits, such as 20260131, and others like a count "
        r"since 1970; set time.unit, or write all as dates"
    )
    with pytest.raises(DataError, match=message):
        aggregate_files(spec_of(time={"column": "time"}), [str(tmp_path / "*.parquet")], tmp_path / "out")
    assert aggregate_files(spec_of(), [str(tmp_path / "*.parquet")], tmp_path / "out").files


def test_existing_files_and_inputs_are_not_replaced(tmp_path: Path) -> None:
    inputs = write_log(tmp_path / "log", [ROW])
    with pytest.raises(InputError, match="would be overwritten by its own output"):
        aggregate_files(spec_of(), [inputs], tmp_path / "log", overwrite=True)
    files = aggregate_files(spec_of(), [inputs], tmp_path / "out")
    with pytest.raises(InputError, match="already exists; add --overwrite to replace it, or choose another --output"):
        aggregate_files(spec_of(), [inputs], tmp_path / "out")
    assert aggregate_files(spec_of(), [inputs], tmp_path / "out", overwrite=True) == files


def test_a_failed_command_leaves_nothing_and_a_killed_one_is_cleared(tmp_path: Path) -> None:
    inputs = write_log(tmp_path / "log", [ROW] * 4)
    (tmp_path / ".out.shuffle").mkdir()
    (tmp_path / ".out.shuffle" / "user-0.arrows").write_text("of a killed command")
    pq.write_table(pa.table({"time": [0]}), tmp_path / "log" / "2.parquet")
    with pytest.raises(DataError, match="has no column 'user'"):
        aggregate_files(spec_of(), [inputs], tmp_path / "out")
    (tmp_path / "log" / "2.parquet").unlink()
    aggregate_files(spec_of(), [inputs], tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"log", "out"}


def test_a_failed_command_deletes_the_folders_that_it_made(tmp_path: Path) -> None:
    table = pa.Table.from_pylist([ROW], SCHEMA).append_column(
        "months", pa.array([(1, 0, 0)], pa.month_day_nano_interval())
    )
    (tmp_path / "log" / "day").mkdir(parents=True)
    for name in ("0", "day/1"):
        with pa.ipc.new_file(tmp_path / "log" / f"{name}.arrow", table.schema) as file:
            file.write_table(table)
    before = set(tmp_path.rglob("*"))
    for at, message in ((0, "the log holds no row before"), (None, "cannot be written as Parquet")):
        with pytest.raises(DataError, match=message):
            aggregate_files(
                spec_of(),
                [str(tmp_path / "log" / "**" / "*.arrow")],
                tmp_path / "a" / "b" / "out",
                state=tmp_path / "c" / "state",
                at=at,
            )
        assert set(tmp_path.rglob("*")) == before


def test_two_processes_do_not_write_into_a_folder_at_once(tmp_path: Path) -> None:
    inputs = write_log(tmp_path / "log", [ROW])
    with (
        scratch_folder(tmp_path / "out"),
        pytest.raises(InputError, match=r"another process writes .*out; wait for it, or choose another folder"),
    ):
        aggregate_files(spec_of(), [inputs], tmp_path / "out")
    assert aggregate_files(spec_of(), [inputs], tmp_path / "out").files
