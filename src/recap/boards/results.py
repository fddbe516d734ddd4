"""What the runs of a board reached: values over seeds, and differences from the baseline with their intervals."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, variance

from recap.boards.record import Record
from recap.config.evaluation.board import BoardConfig, folder_of
from recap.evaluation.metrics.estimate import LEVEL, Estimate, difference, mean_of, t_quantile
from recap.evaluation.result import SplitResult

MEAN = "mean"
"""The column of the mean over tasks."""


@dataclass(frozen=True)
class Finished:
    """A finished run."""

    record: Record
    result: SplitResult


@dataclass
class RowResults:
    """The runs of a row by their seeds."""

    finished: dict[int, Finished] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)
    """Seed → why its run failed."""

    @property
    def records(self) -> list[Record]:
        """The records of the finished runs."""
        return [run.record for run in self.finished.values()]

    def values(self, board: BoardConfig, metric: str) -> dict[str, list[float]]:
        """Task → its value for each finished seed; and the mean over tasks, if the board shows it, as `MEAN`."""
        values = {
            task: [run.result.metrics[task].get(metric, math.nan) for run in self.finished.values()]
            for task in board.tasks
        }
        averaged = [values[task] for task in board.averaged]
        return values | ({MEAN: [fmean(of_seed) for of_seed in zip(*averaged, strict=True)]} if averaged else {})

    def estimates(self, board: BoardConfig, metric: str) -> dict[str, list[Estimate]]:
        """As `values`, with replicates; without what has none."""
        by_task: dict[str, list[Estimate]] = {}
        for task in board.tasks:
            of_seeds = [run.result.estimates.get(task, {}).get(metric) for run in self.finished.values()]
            known = [estimate for estimate in of_seeds if estimate is not None]
            if known and len(known) == len(of_seeds):
                by_task[task] = known
        averaged = [by_task[task] for task in board.averaged if task in by_task]
        buckets = {estimate.buckets for estimates in averaged for estimate in estimates}
        if len(averaged) == len(board.averaged) and len(buckets) == 1:  # or there is no common mean without a bucket
            by_task[MEAN] = [mean_of(of_seed) for of_seed in zip(*averaged, strict=True)]
        return by_task


@dataclass(frozen=True)
class Change:
    """The difference of a row from the baseline, over seeds, with its interval of 95 %."""

    value: float
    low: float
    high: float

    @property
    def is_certain(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0


def changes(board: BoardConfig, row: RowResults, baseline: RowResults, metric: str) -> dict[str, Change] | None:
    """Task → difference of `metric`; None if both were evaluated on different rows of data.

    The interval has two parts, whose squares add up: that of `recap compare`, of the mean over seeds, for what other
    users would show; and that of Welch (Biometrika 1947) for what other seeds would show, where there are several.
    """
    if len({run.result.rows for run in (*row.finished.values(), *baseline.finished.values())}) > 1:
        return None
    ours, theirs = row.estimates(board, metric), baseline.estimates(board, metric)
    return {task: change(ours[task], theirs[task]) for task in ours if task in theirs}


def change(ours: Sequence[Estimate], theirs: Sequence[Estimate]) -> Change:
    """The difference of the means of two lists of seeds."""
    of_users = difference(mean_of(ours), mean_of(theirs))
    of_seeds = _half_width_of_seeds([estimate.value for estimate in ours], [estimate.value for estimate in theirs])
    half = math.hypot((of_users.high - of_users.low) / 2, of_seeds)
    return Change(of_users.value, of_users.value - half, of_users.value + half)


def _half_width_of_seeds(*sides: Sequence[float]) -> float:
    """Half the width of Welch's interval of a difference of means; 0 where no side has two seeds."""
    parts = [(variance(values) / len(values), len(values) - 1) for values in sides if len(values) > 1]
    total = sum(part for part, _ in parts)
    if not total:
        return 0.0
    freedom = total**2 / sum(part**2 / count for part, count in parts)
    return t_quantile((1 + LEVEL) / 2, max(1, math.floor(freedom + 1e-9))) * math.sqrt(total)


@dataclass(frozen=True)
class Results:
    """All rows of a board, as far as they ran."""

    rows: Mapping[str, RowResults]
    planned: int
    """The number of all runs."""

    @property
    def failed(self) -> int:
        """The number of runs that failed."""
        return sum(len(row.failed) for row in self.rows.values())

    @property
    def failures(self) -> dict[str, str]:
        """`ROW, seed SEED` → why it failed.

        Seeds that failed alike are together: `ROW, seeds 0, 1`, with `*` for the seed in the name of their folders.
        """
        return {
            f"{name}, {'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}": reason
            for name, row in self.rows.items()
            for reason, seeds in _alike(folder_of(name), row.failed)
        }

    @property
    def missing(self) -> int:
        """The number of runs that have neither finished nor failed."""
        return self.planned - self.failed - sum(len(row.finished) for row in self.rows.values())


def _alike(folder: str, failed: Mapping[int, str]) -> Iterator[tuple[str, list[int]]]:
    """Each reason of a row with its seeds. `folder`: that of its runs, without the seed."""
    seeds_of: dict[str, list[int]] = {}
    for seed, reason in failed.items():
        seeds_of.setdefault(reason.replace(f"{folder}-{seed}", f"{folder}-*"), []).append(seed)
    for reason, seeds in seeds_of.items():
        yield (failed[seeds[0]] if len(seeds) == 1 else reason), seeds
