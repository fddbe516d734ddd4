"""The entry point `recap COMMAND …`: commands, exit codes and signals."""

import os
import signal
import sys
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from recap import __version__
from recap.cli import (
    calibrate,
    compare,
    config,
    data,
    evaluate,
    export,
    model,
    plan,
    predict,
    report,
    serve,
    train,
    weights,
)
from recap.cli.experiments import backtest, board, tune
from recap.cli.options import in_several_processes
from recap.cli.terminal.messages import print_error
from recap.cli.terminal.streams import protect_streams
from recap.config.file.environment import hide
from recap.errors import InputError, Interrupted, RecapError
from recap.signals import Terminated, stopped_by_signals

_OVER_RANKS = ("train", "evaluate", "calibrate", "predict")
"""The commands that several processes can share."""


class _Commands(TyperGroup):
    """The commands. An unknown option that is meant as an argument gets a hint, and pydantic's words are left out."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except Exception as error:  # of typer's private copy of click
            option = getattr(error, "option_name", None)
            if isinstance(option, str) and "." in option:
                key = option.lstrip("-").partition("=")[0]
                name = (
                    f"--set {key}=…"
                    if ctx.invoked_subcommand in ("predict", "export", "serve")
                    else f"{key}=…, without dashes"
                )
                error.message += f"; to override the configuration, write {name}"  # type: ignore[attr-defined]
            elif option == "--config":
                error.message += "; the configuration is an argument: give its path alone"  # type: ignore[attr-defined]
            elif isinstance(message := getattr(error, "message", None), str):
                error.message = message.removeprefix("Value error, ")  # type: ignore[attr-defined]
            raise


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
    help="An open heavy ranker: trains, evaluates and scores from one configuration file.",
)
app.command("train")(train.train)
app.command("plan")(plan.plan)
app.command("evaluate")(evaluate.evaluate)
app.command("calibrate")(calibrate.calibrate)
app.command("compare")(compare.compare)
app.command("report")(report.report)
app.command("backtest")(backtest.backtest)
app.command("board")(board.board)
app.command("tune")(tune.tune)
app.command("predict")(predict.predict)
app.command("export")(export.export)
app.command("serve")(serve.serve)
app.add_typer(config.app, name="config")
app.add_typer(data.app, name="data")
app.add_typer(model.app, name="model")
app.add_typer(weights.app, name="weights")


def _version(value: bool) -> None:
    if value:
        print(f"recap {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    if in_several_processes() and context.invoked_subcommand not in _OVER_RANKS:
        able = ", ".join(f"'recap {name}'" for name in _OVER_RANKS[:-1])
        raise InputError(
            f"only {able} and 'recap {_OVER_RANKS[-1]}' can run in several processes; run this command without torchrun"
        )


def main() -> None:
    """Run the command line. Every `RecapError` and `OSError` becomes a message and an exit code, never a traceback.

    A command whose standard output goes away finishes its work; then its exit code is 1.
    """
    output = protect_streams()
    try:
        _run()
    except SystemExit as end:
        output.flush()
        if output.error is not None and not end.code:
            sys.exit(1)
        raise


def _run() -> NoReturn:
    try:
        with stopped_by_signals():
            app()
        sys.exit(0)
    except Interrupted as error:
        if _is_first():
            print_error(error)
        _exit_now(error.exit_code)
    except Terminated as stop:
        if _is_first():
            print(f"stopped by {signal.Signals(stop.number).name}; no partial files are left", file=sys.stderr)
        _exit_now(128 + stop.number)
    except RecapError as error:
        if not _reported_by_another_rank(error):
            print_error(error)
        sys.exit(error.exit_code)
    except OSError as error:
        print(hide(str(error)), file=sys.stderr)
        sys.exit(1)


def _is_first() -> bool:
    """Whether this rank reports signals: torchrun sends them to all, also while one imports torch and cannot ask."""
    return os.environ.get("RANK", "0") == "0"


def _reported_by_another_rank(error: RecapError) -> bool:
    if "RANK" not in os.environ:
        return False
    from recap.rendezvous import reported_by_another_rank

    return reported_by_another_rank(error)


def _exit_now(code: int) -> NoReturn:
    """Exit without waiting for threads, which may be waiting for data."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)
