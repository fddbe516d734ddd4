"""`recap data aggregate`: its options and messages."""

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from recap.cli.main import app
from recap.errors import RecapError

SPEC = """\
time: {column: time_ms}
keys: {user: [user_id]}
aggregates:
  - {kind: count, keys: [user], windows: [1h, all]}
"""


def run(*arguments: str) -> tuple[int, str]:
    """The exit code, and the last line of the output or the message of the error."""
    done = CliRunner().invoke(app, ["data", "aggregate", *arguments])
    if isinstance(done.exception, RecapError):
        return done.exception.exit_code, str(done.exception)
    assert done.exception is None
    return done.exit_code, done.stdout.splitlines()[-1]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "log").mkdir()
    times = [1_700_000_000_000, 1_700_000_060_000, 1_700_009_000_000]
    pq.write_table(pa.table({"time_ms": times, "user_id": [1, 1, 1]}), tmp_path / "log" / "0.parquet")
    (tmp_path / "spec.yaml").write_text(SPEC)
    return tmp_path


def test_the_log_is_written_with_its_aggregates(folder: Path) -> None:
    assert run("spec.yaml", "log/*.parquet", "--output", "out") == (0, "written: 1 file in out")
    table = pq.read_table(folder / "out" / "0.parquet")
    assert table["user_count"].to_pylist() == [0, 1, 2]
    assert table["user_count_1h"].to_pylist() == [0, 1, 0]


def test_the_state_is_written_as_of_a_time(folder: Path) -> None:
    command = ["spec.yaml", "log/*.parquet", "--state", "state"]
    assert run(*command) == (0, "written: state, as of 2023-11-15 00:43:20 UTC: user 2 rows")
    refused = "--state: state already exists; add --overwrite to replace it, or choose another folder"
    assert run(*command, "--at", "2023-11-15") == (2, refused)
    replaced = run(*command, "--at", "2023-11-15", "--overwrite")
    assert replaced == (0, "written: state, as of 2023-11-15 00:00:00 UTC: user 1 row")


def test_both_are_written_at_once(folder: Path) -> None:
    done = CliRunner().invoke(app, ["data", "aggregate", "spec.yaml", "log/*.parquet", "--output", "o", "--state", "s"])
    assert done.stdout.splitlines()[-2:] == [
        "written: 1 file in o",
        "written: s, as of 2023-11-15 00:43:20 UTC: user 2 rows",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give --output DIR for the log with its aggregates, --state DIR for the state of a server, or both"),
        (["--output", "a/b", "--state", "a"], "--state: a would replace --output a/b; choose another folder"),
        (["--state", "s3://a/b"], "--state: s3:/a/b is a URL; write to a local folder"),
        (["--output", "a", "--at", "2026-01-01"], "--at: only works with --state, because with --output each"),
        (["--state", "a", "--at", "noon"], "--at: expected a date or time such as 2026-01-31"),
        (["--state", "log/0.parquet"], "--state: log/0.parquet is not a folder; choose another --state"),
        (["--output", "log/0.parquet"], "--output: log/0.parquet is not a folder; choose another --output"),
    ],
)
def test_options_that_do_not_fit_are_refused(folder: Path, arguments: list[str], message: str) -> None:
    code, text = run("spec.yaml", "log/*.parquet", *arguments)
    assert code == 2
    assert text.startswith(message)
    assert sorted(path.name for path in folder.iterdir()) == ["log", "spec.yaml"]


def test_a_broken_spec_and_a_missing_log_are_refused(folder: Path) -> None:
    (folder / "broken.yaml").write_text(SPEC.replace("windows", "window"))
    code, text = run("broken.yaml", "log/*.parquet", "--output", "out")
    assert code == 2
    assert text.startswith("broken.yaml:4:33: aggregates.0.window: 'window' is unknown. Known: keys, windows, kind.")
    code, text = run("spec.yaml", "nowhere/*.parquet", "--output", "out")
    assert code == 2
    assert text.startswith("nowhere/*.parquet: matches no file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_fails_by_name(folder: Path) -> None:
    (folder / "closed").mkdir(mode=0o500)
    code, text = run("spec.yaml", "log/*.parquet", "--output", "closed/out")
    assert code == 1
    assert "cannot be written (Permission denied)" in text
