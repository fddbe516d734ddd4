"""The trials of a search, for the terminal."""

from collections.abc import Mapping, Sequence

from rich.markup import escape
from rich.table import Table

from recap.cli.terminal.tables import plain_table
from recap.config.evaluation.metrics import format_metric
from recap.config.file.yaml import render_inline
from recap.text import duration, plural, shorten
from recap.tuning.study import TABLE, Tried

ALL_TRIED = "every combination of the values to try has a trial"
"""Why a study cannot have more trials."""
_MAX_TRIALS = 10
"""Trials in the table: the best ones."""
_MAX_VALUE = 40
"""Characters of a value."""
_MAX_REASON = 160
"""Characters of the reason of a failure."""


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """Key → its last steps, as many as distinguish it."""
    steps = {key: key.split(".") for key in keys}
    names: dict[str, str] = {}
    for key in keys:
        ends = (".".join(steps[key][-length:]) for length in range(1, len(steps[key]) + 1))
        alone = (end for end in ends if sum(other == end or other.endswith(f".{end}") for other in keys) == 1)
        names[key] = next(alone, key)
    return names


def values_text(values: Mapping[str, object]) -> str:
    """The values of a trial on one line."""
    names = short_names(list(values))
    return ", ".join(f"{names[key]} {_shown(value)}" for key, value in values.items())


def plan_text(trials: Sequence[Tried], asked: int, possible: int) -> str:
    """What is left to do of a study that should have `asked` trials, and can have `possible` ones."""
    if len(trials) < possible or any(trial.state == "interrupted" for trial in trials):
        more = f"; --trials {asked} asks for more than there are combinations of values" if possible < asked else ""
        return f"{plural(possible, 'trial')} in all, {len(trials)} begun{more}"
    why = f"--trials {asked} asks for no more" if possible == asked else ALL_TRIED
    return f"{plural(len(trials), 'trial')} ended, and {why}: nothing is left to do"


def ended_text(trial: Tried, metric: str, *, is_best: bool) -> str:
    """How a trial ended, on one line."""
    after = f"after {trial.steps:,} steps in {duration(trial.seconds)}"
    if trial.state == "failed":
        reason = " ".join(trial.reason.split())
        more = f" (the full reason is in {TABLE})" if len(reason) > _MAX_REASON else ""
        return f"trial {trial.number} failed {after}: {shorten(reason, _MAX_REASON)}{more}"
    value = "" if trial.value is None else f"{metric} {format_metric(metric, trial.value)} at step {trial.best_step:,}"
    if trial.state == "pruned":
        return f"trial {trial.number} ended early {after}: {value}"
    return f"trial {trial.number} ended {after}: {value}{' (best so far)' if is_best else ''}"


def trial_table(trials: Sequence[Tried], metric: str, *, lower_is_better: bool) -> Table:
    """The best complete trials, the best first, with a column per key."""
    complete = [trial for trial in trials if trial.state == "complete" and trial.value is not None]
    complete.sort(key=lambda trial: (trial.value or 0.0) * (1 if lower_is_better else -1))
    keys = list(dict.fromkeys(key for trial in complete for key in trial.values))
    names = short_names(keys)
    table = plain_table("best trials")
    for title in ("trial", metric, "step", "time", *(escape(names[key]) for key in keys)):
        table.add_column(title, justify="right", no_wrap=True)
    for trial in complete[:_MAX_TRIALS]:
        assert trial.value is not None
        cells = [str(trial.number), format_metric(metric, trial.value), f"{trial.best_step:,}", duration(trial.seconds)]
        table.add_row(*cells, *(escape(_shown(trial.values[key])) for key in keys))
    return table


def counts_text(trials: Sequence[Tried]) -> str:
    """How many trials ended in which way."""
    counts = {"complete": "complete", "pruned": "ended early", "failed": "failed"}
    numbers = {words: sum(trial.state == state for trial in trials) for state, words in counts.items()}
    return ", ".join(f"{number} {words}" for words, number in numbers.items() if number)


def _shown(value: object) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else render_inline(value)
    return shorten(text, _MAX_VALUE)
