"""A watched metric: which evaluation was the best, when rates are cut, and when a run ends."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from recap.config.metrics import LOWER_IS_BETTER
from recap.config.training import WatchConfig
from recap.evaluation.evaluate import Evaluation


@dataclass
class WatchState:
    """What a run remembers of the metric it watches."""

    best: float | None = None
    """The best value so far; none before the first that is defined."""
    waited: int = 0
    """Evaluations since the best one."""
    cuts: int = 0
    """How often rates were cut."""


class Watch:
    """Sees the evaluations of a run; without a configuration it sees nothing, cuts nothing and ends nothing."""

    def __init__(self, config: WatchConfig | None, state: WatchState) -> None:
        self.config, self.state = config, state

    def see(self, evaluations: Mapping[str, Evaluation]) -> bool:
        """Take in the evaluations, by validation set, of one step; whether the watched one is the best so far.

        An undefined value is not better than any; a set that was not evaluated to the end is not seen at all.
        """
        config, state = self.config, self.state
        if config is None or config.split not in evaluations:
            return False
        evaluation = evaluations[config.split]
        tasks = config.tasks or [task for task, metrics in evaluation.items() if config.metric in metrics]
        values = [evaluation[task][config.metric] for task in tasks]
        value = sum(values) / len(values)
        sign = -1 if config.metric in LOWER_IS_BETTER else 1
        if math.isfinite(value) and (state.best is None or sign * value > sign * state.best):
            state.best, state.waited = value, 0
            return True
        state.waited += 1
        if config.cut_rates is not None and state.waited % config.cut_rates.after == 0:
            state.cuts += 1
        return False

    def cut(self, rate: float) -> float:
        """A scheduled rate after all cuts."""
        if self.config is None or self.config.cut_rates is None:
            return rate
        cuts = self.config.cut_rates
        return min(rate, max(rate * cuts.factor**self.state.cuts, cuts.min_rate))

    @property
    def ended(self) -> bool:
        """Whether the metric has stood still for too long."""
        stop_after = self.config.stop_after if self.config is not None else None
        return stop_after is not None and self.state.waited >= stop_after

    def tell(self, best_step: int | None) -> str:
        """The best value and its step, in words."""
        assert self.config is not None
        what = f"{self.config.metric} of {self.config.split}"
        if best_step is None or self.state.best is None:
            return f"{what} was never defined"
        return f"best {what}: {self.state.best:.6g} at step {best_step}"
