"""`recap serve` and `recap model golden` at the command line; tests/serving has what a server does."""

from pathlib import Path

import pytest
from support import Recorder, feed_config
from typer.testing import CliRunner

import recap.cli.serve
from recap.cli.main import app
from recap.training.trainer import train


def failure(*arguments: str | Path) -> str:
    """The message of a command that fails, which exits with 2."""
    error = CliRunner().invoke(app, [str(argument) for argument in arguments]).exception
    assert getattr(error, "exit_code", None) == 2, error
    return str(error)


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recap.cli.serve, "find_spec", lambda name: None if name == "granian" else name)
    message = failure("serve", "models/feed")
    assert message == "recap serve: not installed: granian; run pip install 'recap-ranker[serve]'"


def test_mistakes_in_arguments_and_file_are_listed_together(tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text("models: {feed: {path: x}}\nbatching: {threads: 0}\n")
    lines = failure("serve", "feed=y", "--config", file, "--port", "70000", "--host", "0.0.0.0").splitlines()
    origins = {line.partition(": ")[0] for line in lines}
    assert origins == {f"{file}:2:21", "--host", "--port", "argument 'feed=y'"}


def test_a_model_that_is_missing_is_refused(tmp_path: Path) -> None:
    message = failure("serve", tmp_path / "missing", "--port", "0")
    assert message.startswith(f"{tmp_path / 'missing'}: no such folder; expected a model directory, a run")


def test_golden_predictions_are_written_once_and_replaced_with_overwrite(feed: Path, tmp_path: Path) -> None:
    train(feed_config(feed, tmp_path / "run", training={"num_train_steps": 1}), Recorder())
    arguments = ["model", "golden", str(tmp_path / "run"), str(feed / "validation" / "*.parquet")]
    assert "golden.json with 100 rows" in CliRunner().invoke(app, arguments).stdout
    assert "golden.json: already exists; add --overwrite to replace it" in failure(*arguments)
    assert "with 100 rows" in CliRunner().invoke(app, [*arguments, "--overwrite"]).stdout
    assert "missing.parquet" in failure(*arguments[:3], tmp_path / "missing.parquet", "--overwrite")
