"""The initial rates of a new run: the share of positives of each task, at which its tower starts."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import torch

from recap.config.loss import ObjectiveConfig, RegressionConfig
from recap.config.model import TaskConfig
from recap.config.recap import RecapConfig
from recap.data.batch import Batch
from recap.data.stream.batch_stream import BatchStream
from recap.distributed import Ranks
from recap.model.directory import SavedModel
from recap.model.objective.initial_outputs import initial_outputs
from recap.reporting import Say
from recap.text import plural

_ROWS = 131_072
"""Rows that are counted at most."""
_LABELS = 1000
"""Positives, and negatives, of each task that are enough: the rate is then known to about 3%."""

_MAX_LABEL = 1e18
"""Larger labels do not count: their squared errors overflow, which stops the step that reads them."""


class InitialRates:
    """Task → its rate when the run started, or the mean transformed label of a regression.

    A checkpoint holds them, so that a resumed run treats the biases that were set as before. Empty for the tasks with
    `initial_rate: none`, for towers from a warm start, and in runs of an earlier recap.
    """

    def __init__(self) -> None:
        self.rates: dict[str, float] = {}

    def state_dict(self) -> Mapping[str, Any]:
        return dict(self.rates)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.rates = dict(state)

    def start(self, model: SavedModel, stream: BatchStream, warm: Collection[str], ranks: Ranks, say: Say) -> None:
        """Set the last bias of every tower that starts at a rate. Every rank must call it. Raises DataError.

        `warm`: the names of the weights that come from another model; they do not change, nor do frozen ones. Rank 0
        counts the labels of the first rows of `stream` for the tasks that need it.
        """
        config, ranker = model.config, model.ranker
        names = {parameter: name for name, parameter in ranker.named_parameters()}
        biases = {task: ranker.last_bias(task) for task in config.tasks}
        started = [
            task
            for task, bias in biases.items()
            if _has_rate(config.model.tasks[task]) and bias.requires_grad and names[bias] not in warm
        ]
        fields = {name: task.initial_rate for name, task in config.model.tasks.items()}
        rates = {task: rate for task, rate in fields.items() if isinstance(rate, float)}
        auto = [task for task, rate in fields.items() if rate == "auto"]
        if any(task in auto for task in started):
            rates |= ranks.broadcast_object(_counted(config, stream, auto, started, say) if ranks.is_first else None)
        self.rates = {task: rates[task] for task in started if task in rates}
        outputs = initial_outputs(config.model, rates)
        with torch.no_grad():
            for task in self.rates:
                biases[task].fill_(outputs[task])


def _has_rate(task: TaskConfig) -> bool:
    """Whether a rate sets where the tower of a task starts: not with `none`, nor with a bias in its affine map."""
    return task.initial_rate != "none" and not (task.affine_map is not None and task.affine_map.bias)


def _counted(
    config: RecapConfig, stream: BatchStream, tasks: Sequence[str], started: Sequence[str], say: Say
) -> dict[str, float]:
    """Task → its rate in the first rows of `stream`, which does not move; shows those of `started`.

    A task without labels in these rows is left out.
    """
    objectives = {task: config.model.tasks[task].objective for task in tasks}
    counts = {task: _Labels(objective, config.tasks.index(task)) for task, objective in objectives.items()}
    rows, labels = 0, stream.labels_only()
    with closing(iter(labels)) as batches:
        for batch in batches:
            rows += len(batch)
            for count in counts.values():
                count.add(batch)
            if rows >= _ROWS or all(count.is_enough for count in counts.values()):
                break
    listed = ", ".join(f"{task} {counts[task].describe()}" for task in started if task in counts)
    say(f"initial rates of {plural(rows, 'row')}: {listed}")
    return {task: count.rate for task, count in counts.items() if count.rows}


@dataclass
class _Labels:
    """Sums over the labels of a task; rows of weight 0, such as those without a label, do not count."""

    objective: ObjectiveConfig
    column: int
    """The index of the task."""
    rows: int = 0
    positives: int = 0
    weight: float = 0.0
    weighted: float = 0.0
    """Σ weight · label; of a regression, of the transformed label."""

    @property
    def is_regression(self) -> bool:
        return isinstance(self.objective, RegressionConfig)

    def add(self, batch: Batch) -> None:
        """Add the rows of `batch`."""
        assert batch.labels is not None
        assert batch.weights is not None
        labels, weights = batch.labels[:, self.column].double(), batch.weights[:, self.column].double()
        if isinstance(self.objective, RegressionConfig) and self.objective.transform == "log1p":
            labels = labels.log1p()
        weights = weights.where(labels.abs() < _MAX_LABEL, 0)
        self.rows += int((weights > 0).sum())
        self.positives += int(((weights > 0) & (labels > 0)).sum())
        self.weight += float(weights.sum())
        self.weighted += float((weights * labels).sum())

    @property
    def is_enough(self) -> bool:
        """Whether more rows would hardly change the rate."""
        if self.is_regression:
            return self.rows >= _LABELS
        return min(self.positives, self.rows - self.positives) >= _LABELS

    @property
    def rate(self) -> float:
        """The weighted mean label; of n > 0 binary labels that are all equal, (positives + ½) / (n + 1).

        Others are kept within 1e-9 of 0 and 1, which weights of any size may exceed.
        """
        if self.is_regression:
            return self.weighted / self.weight
        if self.positives in (0, self.rows):
            return (self.positives + 0.5) / (self.rows + 1)
        return min(max(self.weighted / self.weight, 1e-9), 1 - 1e-9)

    def describe(self) -> str:
        """The rate, and why it is uncertain."""
        if not self.rows:
            return "unknown (no labels)"
        if self.is_regression:
            return f"{self.rate:.4g} (mean)"
        if self.positives in (0, self.rows):
            return f"{self.rate:.2g} (no {'negatives' if self.positives else 'positives'})"
        return f"{self.rate:.3g}"
