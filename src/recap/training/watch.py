"""The watched metric: it decides the best checkpoint, cuts of learning rates, and early stopping."""

import math
from collections.abc import Mapping
from typing import Any

from recap.config.evaluation.metrics import LOWER_IS_BETTER
from recap.config.training import WatchConfig
from recap.evaluation.result import TaskMetrics
from recap.text import plural


def watched_value(config: WatchConfig, evaluation: TaskMetrics) -> float:
    """The watched metric of an evaluation of the watched split: its mean over the watched tasks, maybe undefined."""
    tasks = config.tasks or [task for task, metrics in evaluation.items() if config.metric in metrics]
    values = [evaluation[task][config.metric] for task in tasks]
    return sum(values) / len(values)


class Watch:
    """Follows one metric over the evaluations of a run. Without a configuration it does nothing."""

    def __init__(self, config: WatchConfig | None) -> None:
        self.config = config
        self.best: float | None = None
        """The best value so far; None until a value is defined."""
        self.waited = 0
        """Evaluations since the best one."""
        self.cuts = 0
        """How many times learning rates were cut."""
        self._value: float | None = None
        """The value of the last evaluation; None if that lacks the watched split."""

    def update(self, evaluations: Mapping[str, TaskMetrics]) -> bool:
        """Add the evaluations of a step, by split; return whether the watched value is the best so far.

        An undefined value is never the best. Nothing changes if the watched split is missing, such as after a timeout.
        """
        config, self._value = self.config, None
        if config is None or config.split not in evaluations:
            return False
        self._value = value = watched_value(config, evaluations[config.split])
        sign = -1 if config.metric in LOWER_IS_BETTER else 1
        if math.isfinite(value) and (self.best is None or sign * value > sign * self.best):
            self.best, self.waited = value, 0
            return True
        self.waited += 1
        if config.cut_rates is not None and self.waited % config.cut_rates.after == 0:
            self.cuts += 1
        return False

    def cut(self, rate: float) -> float:
        """A scheduled learning rate after all cuts so far."""
        if self.config is None or self.config.cut_rates is None:
            return rate
        cuts = self.config.cut_rates
        return min(rate, max(rate * cuts.factor**self.cuts, cuts.min_rate))

    @property
    def ended(self) -> bool:
        """Whether the metric has not improved for `stop_after` evaluations."""
        stop_after = self.config.stop_after if self.config is not None else None
        return stop_after is not None and self.waited >= stop_after

    def describe(self) -> str | None:
        """The value of the last evaluation beside the best one, as text."""
        if self.config is None or self._value is None:
            return None
        value = f"{self._value:.6g}" if math.isfinite(self._value) else "undefined"
        text = f"{self.config.split}  {self.config.metric} {value}"
        if self.best is None:
            return text
        ago = f"{self.best:.6g}, {plural(self.waited, 'evaluation')} ago"
        return f"{text} (best: {ago})" if self.waited else f"{text} (best so far)"

    def summary(self, step: int, best_step: int | None) -> list[str]:
        """The best value and its step, and why the run stopped after `step` if that is the reason; one line each."""
        if self.config is None:
            return []
        name = f"{self.config.metric} of {self.config.split}"
        if best_step is None or self.best is None:
            lines = [f"{name} was never defined"]
        else:
            lines = [f"best {name}: {self.best:.6g} at step {best_step}"]
        if self.ended:
            text = f"{plural(self.waited, 'evaluation')} without a better value (training.watch.stop_after)"
            lines.append(f"stopped after step {step}: {text}")
        return lines

    def state_dict(self) -> Mapping[str, Any]:
        return {"best": self.best, "waited": self.waited, "cuts": self.cuts}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.best, self.waited, self.cuts = state["best"], state["waited"], state["cuts"]
