"""`recap weights`: other weights of the score, tried on real lists of a validation set."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from recap.cli.options import (
    Overrides,
    Overwrite,
    Source,
    StepOption,
    check_output,
    config_file,
    load_to_evaluate,
    model_files,
    parse_step,
    run_of,
)
from recap.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from recap.evaluation.weights.lists import ListSample

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Find weights of the score, by re-ranking real lists of a validation set.",
)

_Split = Annotated[
    str | None, typer.Option(help="Validation set of the lists; default: the first.", show_default=False)
]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@app.callback()
def _group() -> None:
    pass


@app.command()
def suggest(
    source: Source,
    overrides: Overrides = None,
    at_most: Annotated[
        list[str] | None,
        typer.Option(
            "--at-most",
            metavar="TASK=RATE",
            help="Highest expected engagements of a task: per 1,000 impressions, such as 1.5, or as a factor of the "
            "current ranking, such as 0.9x. May be repeated.",
            show_default=False,
        ),
    ] = None,
    at_least: Annotated[
        list[str] | None,
        typer.Option("--at-least", metavar="TASK=RATE", help="As --at-most, the lowest.", show_default=False),
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(
            "--keep",
            metavar="TASK",
            help="Task that must not get worse: --at-least TASK=1x, or --at-most for one of negative weight. May be "
            "repeated.",
            show_default=False,
        ),
    ] = None,
    split: _Split = None,
    step: StepOption = None,
    output: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="YAML file of the weights to write, for --set-file.", show_default=False),
    ] = None,
    overwrite: Overwrite = False,
    as_json: _Json = False,
) -> None:
    """Suggest weights that reach a target at the least loss of all else.

    Only the weights of tasks with a target change. Expected engagements are what the model itself predicts for each
    row, counted by attention: 1 / log2(rank + 1) for the first 10 ranks of a list.
    """
    import json

    if output is not None:
        inputs = [config_file(source), *(model_files(source) if source.is_dir() else [])]
        check_output(output, inputs, overwrite=overwrite)

    from recap.cli.terminal.console import Console
    from recap.cli.terminal.weights import suggestion_table
    from recap.evaluation.weights.lists import TOP
    from recap.evaluation.weights.suggest import Target, keeping, suggest
    from recap.reporting import say_to_stderr
    from recap.storage import replace_text
    from recap.text import plural

    targets = [Target.parse("--at-most", text, "at most") for text in at_most or []]
    targets += [Target.parse("--at-least", text, "at least") for text in at_least or []]
    if not targets and not keep:
        raise InputError("no target; add --at-most TASK=RATE, --at-least TASK=RATE or --keep TASK")
    sample = _sample(source, overrides, split, step)
    suggestion = suggest(sample, [*targets, *(keeping(sample, task) for task in keep or [])])
    notes = suggestion.sign_changes()
    text = "".join(f"# {note}\n" for note in notes) + _yaml(suggestion.weights)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        replace_text(output, text)
    if as_json:
        for note in notes:
            say_to_stderr(f"note: {note}")
        print(json.dumps(suggestion.to_json(), indent=1, ensure_ascii=False))
        return
    Console().show(suggestion_table(suggestion))
    lists = f"{plural(suggestion.lists, 'list')} of together {plural(suggestion.rows, 'row')}"
    print(
        f"in {lists}; {suggestion.overlap:.0%} of the first {TOP} rows stay there, Kendall's tau "
        f"{suggestion.kendall:.3f}; the expected engagements are those that the model itself predicts\n"
    )
    print(text, end="")
    for note in notes:
        print(f"note: {note}")
    if suggestion.kendall == 1:
        print("\nthe current ranking reaches this already")
    if output is not None:
        print(f"written: {output}")


@app.command()
def pareto(
    source: Source,
    tasks: Annotated[str, typer.Option(metavar="A,B", help="The two tasks.", show_default=False)],
    overrides: Overrides = None,
    split: _Split = None,
    step: StepOption = None,
    as_json: _Json = False,
) -> None:
    """Show what two tasks cost each other: the rankings in which neither can gain without a loss of the other.

    Each row ranks by these two tasks alone; a task of negative weight is better when lower.
    """
    import json

    from recap.cli.terminal.console import Console
    from recap.cli.terminal.weights import front_table
    from recap.evaluation.weights.pareto import pareto

    front = pareto(_sample(source, overrides, split, step), [task.strip() for task in tasks.split(",")])
    if as_json:
        print(json.dumps(front.to_json(), indent=1, ensure_ascii=False))
    else:
        Console().show(front_table(front))


def _sample(source: Path, overrides: list[str] | None, split: str | None, step: str | None) -> "ListSample":
    """The lists; notes on the data go to standard error, so that JSON stays alone on standard output."""
    from recap.evaluation.weights.sample import sample_lists
    from recap.native.allocator import tune_process

    config = load_to_evaluate(source, overrides or [], [], is_run=source.is_dir(), chooses_weights=True)
    tune_process()
    return sample_lists(config, run_of(source, config), split, parse_step(step))


def _yaml(weights: "Mapping[str, float]") -> str:
    """The weights as a section of a configuration."""
    import yaml

    return yaml.safe_dump({"scoring": {"weights": dict(weights)}}, sort_keys=False, allow_unicode=True)
