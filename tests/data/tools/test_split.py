"""`recap data split`: one file per window of time."""

from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from recap.cli.main import app
from recap.data.formats.tables import TableFiles
from recap.data.tools.split import parse_cut, split_files
from recap.data.tools.times import microseconds_of, time_range
from recap.errors import DataError, InputError

START = datetime(2024, 5, 1, 20, tzinfo=UTC)
SECONDS = int(START.timestamp()) + np.arange(100) * 3600


def write(folder: Path, times: pa.Array) -> str:
    folder.mkdir(exist_ok=True)
    for number in range(2):
        part = slice(number * 50, number * 50 + 50)
        table = pa.table({"row": np.arange(100)[part], "time": times[part], "label": np.zeros(50)})
        pq.write_table(table, folder / f"{number}.parquet", row_group_size=30)
    return str(folder / "*.parquet")


@pytest.mark.parametrize(
    "times",
    [
        pa.array(SECONDS),
        pa.array(SECONDS * 1000),
        pa.array(SECONDS * 1_000_000),
        pa.array(SECONDS * 1_000_000_000),
        pa.array(SECONDS.astype(float)),
        pa.array(SECONDS * 1_000_000_000 + 7).cast(pa.timestamp("ns")),
        pa.array(SECONDS).cast(pa.timestamp("s", "America/New_York")),
        pa.array([datetime.fromtimestamp(second, UTC).isoformat() for second in SECONDS.tolist()]),
    ],
    ids=["seconds", "milliseconds", "microseconds", "nanoseconds", "floats", "naive", "zoned", "text"],
)
def test_rows_go_to_the_file_of_their_day_in_their_order(times: pa.Array, tmp_path: Path) -> None:
    inputs = write(tmp_path / "in", times)
    written = split_files([inputs], tmp_path / "days", "time", parse_cut(days=True, hours=False, at=[], timezone="UTC"))
    assert [file.name for file in written] == [f"2024-05-0{day}.parquet" for day in range(1, 6)]
    assert list(written.values()) == [4, 24, 24, 24, 24]
    tables = [pq.read_table(file) for file in written]
    assert pa.concat_tables(tables).column("row").to_pylist() == list(range(100))
    assert tables[0].schema == pq.read_schema(tmp_path / "in" / "0.parquet")
    ranges = [time_range(TableFiles.open([str(file)]), str(file), "time") for file in written]
    assert all(one is not None and other is not None and one[1] < other[0] for one, other in pairwise(ranges))


def test_days_end_at_midnight_of_the_time_zone(tmp_path: Path) -> None:
    inputs = write(tmp_path / "in", pa.array(SECONDS))
    cut = parse_cut(days=True, hours=False, at=[], timezone="Asia/Shanghai")
    written = split_files([inputs], tmp_path / "days", "time", cut)
    assert next(iter(written)).name == "2024-05-02.parquet"  # 20:00 in UTC is 04:00 of the next day
    assert next(iter(written.values())) == 20


def test_a_window_holds_its_first_moment_and_not_its_end(tmp_path: Path) -> None:
    inputs = write(tmp_path / "in", pa.array(SECONDS * 1000))
    ends = ["2024-05-02", "2024-05-02T01:00", str(SECONDS[10] * 1000), "20240504"]
    cut = parse_cut(days=False, hours=False, at=ends, timezone="UTC")
    written = split_files([inputs], tmp_path / "out", "time", cut)
    names = ["2024-05-01T20-00-00", "2024-05-02", "2024-05-02T01-00-00", "2024-05-02T06-00-00", "2024-05-04"]
    assert {file.stem: rows for file, rows in written.items()} == dict(zip(names, [4, 1, 5, 42, 48], strict=True))


def test_windows_of_one_name_are_an_error(tmp_path: Path) -> None:
    times = pa.array(int(datetime(2024, 10, 27, tzinfo=UTC).timestamp()) + np.arange(4) * 3600)
    pq.write_table(pa.table({"time": times}), tmp_path / "0.parquet")
    at = ["2024-10-27T02:30+02:00", "2024-10-27T02:30+01:00"]
    cut = parse_cut(days=False, hours=False, at=at, timezone="Europe/Berlin")
    with pytest.raises(InputError, match="2 windows would be named 2024-10-27T02-30-00, because the clocks of Europe/"):
        split_files([str(tmp_path / "0.parquet")], tmp_path / "out", "time", cut)


def test_dates_in_digits_are_days() -> None:
    times = microseconds_of(pa.chunked_array([[20240229, 20240301]]), "date")
    assert [str(np.datetime64(int(time), "us"))[:10] for time in times] == ["2024-02-29", "2024-03-01"]


def test_the_command_says_what_it_wrote(tmp_path: Path) -> None:
    inputs = write(tmp_path / "in", pa.array(SECONDS))
    command = ["data", "split", inputs, "--by", "time", "--hours", "--output", str(tmp_path / "out")]
    done = CliRunner().invoke(app, command)
    assert done.exception is None
    assert f"written: {tmp_path}/out/2024-05-01T20.parquet, 1 row" in done.output
    assert "100 rows split" in done.output
    again = CliRunner().invoke(app, command)
    assert isinstance(again.exception, InputError)
    assert "2024-05-01T20.parquet: already exists; add --overwrite" in str(again.exception)
    assert CliRunner().invoke(app, [*command, "--overwrite"]).exception is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"days": True, "hours": True}, "give one of --days, --hours and --at"),
        ({}, "give one of --days, --hours and --at"),
        ({"at": ["2024-05-02", "2024-05-01"]}, "--at: the times must ascend; found 2024-05-01 after 2024-05-02"),
        ({"at": ["yesterday"]}, "--at: expected a date or time such as .*, found 'yesterday'"),
        ({"days": True, "timezone": "Mars/Base"}, "--timezone: unknown time zone 'Mars/Base'"),
        ({"days": True, "timezone": "../etc"}, "--timezone: unknown time zone"),
    ],
)
def test_a_wrong_cut_is_an_error(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_cut(**{"days": False, "hours": False, "at": [], "timezone": "UTC"} | options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("column", "at", "message"),
    [
        ("when", ["2024-05-02"], r"0.parquet: has no column 'when', which --by names"),
        ("lists", ["2024-05-02"], r"0.parquet: column 'lists': holds list<.*>, expected times"),
        ("gaps", ["2024-05-02"], r"0.parquet: column 'gaps': no time in 1 row; remove it"),
        ("before", ["2024-05-02"], r"0.parquet: column 'before': holds times before the year 2 or after 9998"),
        ("unsigned", ["2024-05-02"], "all 3 rows are in one window of time"),
        ("coarse", ["2024-05-02"], r"column 'coarse': holds times before the year 2 or after 9998"),
        ("digits", ["2024-05-02"], r"column 'digits': found 20240230, which is not a date"),
        ("mixed", ["2024-05-02"], r"column 'mixed': some times have a time zone or an offset, others have none"),
        ("words", ["2024-05-02"], r"column 'words': found 'now', expected a time such as"),
        ("time", ["2020-01-01"], r"all 3 rows are in one window of time"),
        ("time", [str(1000 + n) for n in range(1001)], "windows of time are more than 1,000"),
    ],
)
def test_rows_without_windows_are_an_error(column: str, at: list[str], message: str, tmp_path: Path) -> None:
    count = 1002 if "more than" in message else 3
    time = np.arange(1000, 1000 + count) if count > 3 else SECONDS[:3]
    gaps = [None if row == 1 else int(second) for row, second in enumerate(time)]
    table = pa.table(
        {
            "time": time,
            "gaps": gaps,
            "lists": [[1]] * count,
            "before": np.full(count, -99_999_999_999),
            "unsigned": np.full(count, 2**64 - 1, np.uint64),
            "coarse": pa.array(np.full(count, 2**62), pa.timestamp("ms")),
            "digits": np.full(count, 20240230),
            "mixed": ["2024-05-01", "2024-05-03T00:00:00Z", "2024-05-01"] * (count // 3),
            "words": ["2024-05-01", "now", "2024-05-01"] * (count // 3),
        }
    )
    pq.write_table(table, tmp_path / "0.parquet")
    cut = parse_cut(days=False, hours=False, at=at, timezone="UTC")
    with pytest.raises((DataError, InputError), match=message):
        split_files([str(tmp_path / "0.parquet")], tmp_path / "out", column, cut)
    assert not (tmp_path / "out").exists()
