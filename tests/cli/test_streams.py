"""Output that cannot be written does not stop a command."""

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TextIO

import pytest
from support import feed_config

from recap.cli import main as command_line
from recap.cli.terminal.console import Console
from recap.cli.terminal.streams import LastingStream
from recap.runs import Run
from recap.training.trainer import train


@pytest.fixture
def full() -> Iterator[TextIO]:
    """A file on a full disk."""
    with suppress(OSError), Path("/dev/full").open("w") as file:
        yield file


def run_main(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> object:
    """The exit code of a command."""
    monkeypatch.setattr(sys, "argv", ["recap", *arguments])
    with pytest.raises(SystemExit) as end:
        command_line.main()
    return end.value.code


def test_a_run_whose_output_is_on_a_full_disk_or_a_closed_pipe_is_trained_to_its_end(
    feed: Path, tmp_path: Path, full: TextIO, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    pipe = os.fdopen(writing, "w")
    for name, output in (("full", full), ("pipe", pipe)):
        monkeypatch.setattr(sys, "stdout", output)
        train(feed_config(feed, tmp_path / name, training={"num_train_steps": 2}), Console())
        assert list(Run(tmp_path / name).checkpoints) == [2]
    with suppress(OSError):
        pipe.close()
    message = "standard output cannot be written (No space left on device); going on without it\n"
    assert capsys.readouterr().err == message


def test_lost_output_is_exit_code_1(
    full: TextIO, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(monkeypatch, "config", "schema") == 0
    monkeypatch.setattr(sys, "stdout", full)
    assert run_main(monkeypatch, "config", "schema") == 1
    assert run_main(monkeypatch, "config", "check", "absent.yaml") == 2
    assert "No space left on device" in capsys.readouterr().err


def test_errors_are_lost_where_standard_error_is_full(full: TextIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", full)
    assert run_main(monkeypatch, "config", "check", "absent.yaml") == 2
    assert isinstance(sys.stderr, LastingStream)
