"""The tables of `recap weights`, for the terminal."""

from rich.markup import escape
from rich.table import Table

from recap.cli.terminal.tables import plain_table
from recap.evaluation.weights.pareto import Front
from recap.evaluation.weights.suggest import Suggestion


def suggestion_table(suggestion: Suggestion) -> Table:
    """The weights and expected engagements of each task, now and suggested."""
    table = plain_table("expected engagements per 1,000 impressions")
    table.add_column("task", no_wrap=True)
    for name in ("weight", "new", "expected", "new", "change"):
        table.add_column(name, justify="right", no_wrap=True)
    for task in suggestion.tasks:
        change = _change(task.new_expected, task.expected)
        numbers = (task.weight, task.new_weight, task.expected, task.new_expected)
        table.add_row(escape(task.task), *(f"{number:.4g}" for number in numbers), change)
    return table


def front_table(front: Front) -> Table:
    """The current ranking, then each ranking of the front, with the expected engagements and weights of both tasks."""
    table = plain_table("Pareto front, expected engagements per 1,000 impressions")
    table.add_column("", no_wrap=True)
    for task in front.tasks:
        table.add_column(escape(task), justify="right", no_wrap=True)
        table.add_column("to current", justify="right", no_wrap=True)
        table.add_column("weight", justify="right", no_wrap=True)
    for number, point in enumerate((front.current, *front.points)):
        cells = []
        for task in front.tasks:
            rate, now = point.expected[task], front.current.expected[task]
            cells += [f"{rate:.4g}", _change(rate, now) if number else "-", f"{point.weights.get(task, 0.0):.4g}"]
        table.add_row("" if number else "current", *cells)
    return table


def _change(rate: float, now: float) -> str:
    """In percent, without a negative zero; `-` where nothing is expected now."""
    return f"{round(rate / now - 1, 3) + 0.0:+.1%}" if now else "-"
