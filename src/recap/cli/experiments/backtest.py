"""`recap backtest`: train on the past, evaluate on what comes next, window by window."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from recap.cli.options import ConfigFile, Overrides, SetFiles
from recap.errors import InputError

if TYPE_CHECKING:
    from recap.backtest.record import Measured, Record
    from recap.cli.terminal.console import Console


First = Annotated[
    int | None,
    typer.Option(
        "--first", metavar="N", help="Windows to train on before the first evaluation; default: 1.", show_default=False
    ),
]
Mode = Annotated[
    str | None,
    typer.Option(
        "--mode",
        metavar="MODE",
        help="retrain: a new model on all earlier windows (default); continue: the last model, on the new ones.",
        show_default=False,
    ),
]
Window = Annotated[
    str | None, typer.Option("--window", metavar="UNIT", help="day, hour or file; default: day.", show_default=False)
]
Gap = Annotated[
    int | None,
    typer.Option("--gap", metavar="N", help="Windows between training and evaluation; default: 0.", show_default=False),
]
Holdout = Annotated[
    int | None,
    typer.Option(
        "--holdout", metavar="K", help="Windows at the end that no fold reads; default: 0.", show_default=False
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        metavar="DIR",
        help="Folder to write to; default: training.save_dir with -backtest behind it.",
        show_default=False,
    ),
]
HoldoutFinal = Annotated[
    bool, typer.Option("--holdout-final", help="Then evaluate the last model on the hold-out, once.")
]
Again = Annotated[
    bool, typer.Option("--again", help="With --holdout-final: although it was evaluated before. This is recorded.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print backtest.json instead of a table.")]


def backtest(
    config: ConfigFile,
    overrides: Overrides = None,
    first: First = None,
    mode: Mode = None,
    window: Window = None,
    gap: Gap = None,
    holdout: Holdout = None,
    output: Output = None,
    holdout_final: HoldoutFinal = False,
    again: Again = False,
    as_json: AsJson = False,
    set_files: SetFiles = None,
) -> None:
    """Evaluate each day by a model that was trained on earlier days only.

    Trains a run per fold, prints a table of metrics by window with drift, and writes backtest.json. Run the same
    command again to continue. The options override the section backtest of the configuration.
    """
    from recap.cli.terminal.messages import print_warnings
    from recap.config.file.load import resolve

    if again and not holdout_final:
        raise InputError("--again: requires --holdout-final; add --holdout-final, or leave out --again")
    options = {"first": first, "mode": mode, "window": window, "gap": gap, "holdout": holdout}
    stated = [f"backtest.{name}={value}" for name, value in options.items() if value is not None]
    resolved = resolve(config, [*(overrides or []), *stated], set_files or [])
    loaded = resolved.config
    if holdout_final and not loaded.backtest.holdout:
        raise InputError("--holdout-final: requires a hold-out; add --holdout K, in a new folder")
    save_dir = Path(loaded.training.save_dir)
    folder = save_dir.with_name(f"{save_dir.name}-backtest") if output is None else output

    from recap.backtest.run import backtest as run
    from recap.backtest.run import evaluate_holdout
    from recap.cli.terminal.console import Console
    from recap.native.allocator import tune_process
    from recap.reporting import Reporter

    print_warnings(resolved.warnings)
    tune_process()
    console = Console()
    reporter = Reporter() if as_json else console
    record = run(loaded, folder, reporter)
    if holdout_final:
        record = evaluate_holdout(loaded, folder, record, reporter, again=again)
    if as_json:
        print(json.dumps(record.to_json(), indent=1, ensure_ascii=False))
        return
    _show(console, record, loaded.regressions, folder, holdout_final=holdout_final)


def _show(console: "Console", record: "Record", regressions: list[str], folder: Path, *, holdout_final: bool) -> None:
    from recap.backtest.record import CHART, RECORD
    from recap.cli.terminal.backtest import KINDS, backtest_table, drift_text

    measured: dict[str, Measured] = {fold.window: fold for fold in record.folds}
    if holdout_final:
        measured["hold-out"] = record.holdout_uses[-1]
    console.say("")
    for kind in KINDS:
        table = backtest_table(measured, kind, regressions, console.width)
        if table.row_count:
            console.show(table)
    for name, part in measured.items():
        console.say(f"drift of {name}: {drift_text(part)}")
    if holdout_final and len(record.holdout_uses) > 1:
        first = record.holdout_uses[0].at
        console.say(f"warning: the hold-out was evaluated {len(record.holdout_uses)} times, the first at {first}")
    elif record.holdout and not record.holdout_uses:
        console.say("the hold-out was not read; evaluate it once, at the end: --holdout-final")
    files = [str(folder / name) for name in (RECORD, CHART) if (folder / name).exists()]
    console.say(f"written: {', '.join(files)}")
    if len(files) == 1:
        console.say("no chart, because vl-convert is not installed: pip install 'recap-ranker[report]'")
