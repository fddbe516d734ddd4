"""`recap backtest`: what its command line refuses, and how it shows the hold-out."""

from pathlib import Path

import pytest
from backtest.days import config_for, write_days
from typer.testing import CliRunner, Result

from recap.cli.main import app
from recap.config.file.load import dump_config
from recap.errors import RecapError


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("backtest")
    (folder / "days").mkdir()
    write_days(folder / "days")
    (folder / "notes").write_text("mine")
    file = folder / "ranker.yaml"
    file.write_text(dump_config(config_for(folder / "days", folder / "run")))
    return file


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["backtest", *map(str, arguments)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--first", "0"], "backtest.first: must be above 0, found 0"),
        (["--first", "9"], "5 windows of time (2024-05-01 to 2024-05-05) are too few: first 9 + gap 0 + holdout 0"),
        (["--gap", "-1"], "backtest.gap: must be at least 0, found -1"),
        (["--holdout", "-1"], "backtest.holdout: must be at least 0, found -1"),
        (["--window", "week"], "backtest.window: 'week' is unknown. Known: day, hour, file."),
        (["--mode", "both"], "backtest.mode: 'both' is unknown. Known: retrain, continue."),
        (["--again"], "--again: requires --holdout-final; add --holdout-final, or leave out --again"),
        (["--holdout-final"], "--holdout-final: requires a hold-out; add --holdout K, in a new folder"),
        (["--output", "s3://bucket/backtest"], "--output: s3:/bucket/backtest is a URL; write to a local folder"),
        (["--output", "{folder}/notes/backtest"], "notes is not a folder; choose another --output"),
        (["--output", "{folder}"], "is not empty, and holds no backtest.json; choose another --output"),
        (["backtest.inputs={folder}/none-*"], "none-*: matches no file"),
    ],
)
def test_a_mistake_is_reported_with_advice_and_nothing_is_written(
    arguments: list[str], message: str, config: Path
) -> None:
    before = sorted(config.parent.rglob("*"))
    done = run(config, *(argument.replace("{folder}", str(config.parent)) for argument in arguments))
    assert isinstance(done.exception, RecapError)
    assert done.exception.exit_code == 2
    assert message in str(done.exception)
    assert sorted(config.parent.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing argument 'CONFIG'"),
        (["ranker.yaml", "--first", "two"], "Invalid value for '--first'"),
        (["ranker.yaml", "--frist", "2"], "No such option: --frist"),
    ],
)
def test_a_command_line_that_cannot_be_read_exits_with_2(arguments: list[str], message: str) -> None:
    done = run(*arguments)
    assert done.exit_code == 2
    assert message in done.output


def test_the_hold_out_is_shown_once_asked_for_and_a_second_look_is_named(config: Path) -> None:
    arguments = (config, "--first", 3, "--holdout", 1)
    done = run(*arguments)
    assert done.exit_code == 0
    assert "the hold-out was not read; evaluate it once, at the end: --holdout-final" in done.output
    assert "drift of hold-out" not in done.output
    done = run(*arguments, "--holdout-final")
    assert done.exit_code == 0
    assert "drift of hold-out: PSI of followers" in done.output
    assert "the hold-out was " not in done.output
    assert "with 2024-05-04" in str(run(*arguments, "--holdout-final").exception)
    done = run(*arguments, "--holdout-final", "--again")
    assert done.exit_code == 0
    assert "warning: the hold-out was evaluated 2 times, the first at " in done.output
    assert f"written: {config.parent / 'run-backtest' / 'backtest.json'}" in done.output
