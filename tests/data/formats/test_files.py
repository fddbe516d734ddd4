"""Finding files by globs, and in folders by hour or day."""

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recap.config.base import all_problems
from recap.config.data import DailyInputs, HourlyInputs
from recap.data.formats.files import find_files, read_bytes
from recap.errors import DataError

MARKERS = ("_SUCCESS", "_committed_1", "_started_1", "_metadata", "part.crc", ".a.parquet.crc", ".hidden.parquet")


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    """Files of the last hours of a leap day and the first of the next, one hour without a file."""
    for folder in ("2024/02/29/22", "2024/02/29/23", "2024/03/01/01", "date=2024-02-29/hour=23", "2024/03/01/empty"):
        (tmp_path / folder).mkdir(parents=True)
        if not folder.endswith("empty"):
            for name in ("b.parquet", "a.parquet", *MARKERS):
                (tmp_path / folder / name).touch()
    return tmp_path


def hourly(root: Path, **changes: Any) -> HourlyInputs:
    values = {
        "kind": "hourly",
        "data_root": str(root),
        "end_datetime": "2024/03/01/01",
        "hours": 3,
    }
    return HourlyInputs.model_validate(values | changes)


def daily(root: Path, **changes: Any) -> DailyInputs:
    values = {"kind": "daily", "data_root": str(root), "end_date": "2024/03/01", "days": 2, "files": "**/*"}
    return DailyInputs.model_validate(values | changes)


def below(root: Path, files: list[str]) -> list[str]:
    return [str(Path(file).relative_to(root)) for file in files]


def test_hours_count_back_from_the_last_across_days_and_months(logs: Path) -> None:
    found = find_files(hourly(logs, num_missing_hours_tol=1))
    assert below(logs, found) == [
        "2024/02/29/23/a.parquet",
        "2024/02/29/23/b.parquet",
        "2024/03/01/01/a.parquet",
        "2024/03/01/01/b.parquet",
    ]


def test_too_many_missing_hours_are_named(logs: Path) -> None:
    message = rf"{logs}: 1 of 3 hours have no file, 0 are tolerated \(num_missing_hours_tol\). Missing: .*/03/01/00$"
    with pytest.raises(DataError, match=message):
        find_files(hourly(logs))
    with pytest.raises(DataError, match=r"40 of 40 hours have no file, 40 are tolerated .* and 35 more"):
        find_files(hourly(logs, end_datetime="1999/01/01/00", hours=40, num_missing_hours_tol=40))


def test_a_day_has_the_files_of_its_folders(logs: Path) -> None:
    assert len(find_files(daily(logs))) == 6
    with pytest.raises(DataError, match="1 of 3 days have no file"):
        find_files(daily(logs, days=3))


def test_folders_may_be_those_of_a_partitioned_table(logs: Path) -> None:
    parts = hourly(logs, end_datetime="2024/02/29/23", hours=1, folders="date=%Y-%m-%d/hour=%H")
    assert below(logs, find_files(parts)) == ["date=2024-02-29/hour=23/a.parquet", "date=2024-02-29/hour=23/b.parquet"]


@pytest.mark.parametrize("text", ["2023/02/29/01", "2024/02/29", "2024-02-29-01", "", "2024/02/29/24", "x"])
def test_an_invalid_hour_is_a_problem(text: str, logs: Path) -> None:
    found = list(all_problems(hourly(logs).model_copy(update={"end_datetime": text})))
    assert found == [(("end_datetime",), f"expected a date YYYY/MM/DD/HH, found {text!r}")]


@given(st.integers(1, 100), st.integers(0, 50))
def test_every_hour_is_read_from_its_folder(hours: int, tolerated: int) -> None:
    with pytest.raises(DataError, match=f"{hours} of {hours} hours have no file"):
        find_files(hourly(Path("/nowhere"), hours=hours, num_missing_hours_tol=tolerated))


def test_globs_give_each_file_once_sorted_by_name(logs: Path) -> None:
    found = find_files([str(logs / "2024/02/29/*/*.parquet"), str(logs / "2024/02/29/22/a.parquet")])
    assert below(logs, found) == [f"2024/02/29/{hour}/{name}.parquet" for hour in (22, 23) for name in ("a", "b")]


def test_markers_and_hidden_files_match_only_globs_that_ask_for_them(tmp_path: Path) -> None:
    names = ["_SUCCESS", "a", "_temporary/b", "_day=1/c", "x.crc", "_x.crc"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    for pattern, expected in (
        ("**", ["_day=1/c", "a"]),
        ("_*", ["_SUCCESS"]),
        ("*.crc", ["x.crc"]),
        ("_temporary/*", ["_temporary/b"]),
        ("_SUCCESS", ["_SUCCESS"]),
    ):
        assert below(tmp_path, find_files([str(tmp_path / pattern)])) == expected
    (tmp_path / "a").unlink()
    message = r"\*: matches no data file, only markers and hidden files such as (_SUCCESS|x.crc); check the path"
    with pytest.raises(DataError, match=message):
        find_files([str(tmp_path / "*")])


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    for name, reason in (
        (str(tmp_path / "fifo"), "is a FIFO, not a regular file"),
        (str(tmp_path / "fif*"), "is a FIFO, not a regular file"),
        ("/dev/zero", "is a device, not a regular file"),
        (str(tmp_path / "loop"), "Too many levels of symbolic links"),
        (str(tmp_path / "gon*"), "No such file or directory"),
    ):
        with pytest.raises(DataError, match=rf"cannot be read \({reason}\); give the path of a file"):
            find_files([name])
        if "*" not in name:
            with pytest.raises(OSError, match=reason):
                read_bytes(name)
    (tmp_path / "caf\udce9").touch()
    with pytest.raises(DataError, match=r"caf\\udce9': its name is not UTF-8 text; rename the file"):
        find_files([str(tmp_path / "caf*")])
