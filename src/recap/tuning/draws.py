"""What Optuna draws for a trial: values of the space, in a combination that no trial has."""

from collections.abc import Sequence, Set
from math import inf, prod
from typing import Any

import numpy as np
from optuna import Study
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial

from recap.config.tuning import RangeConfig, TuningConfig
from recap.tuning.space import SearchSpace

Distributions = dict[str, BaseDistribution]
"""Key of the space → what is drawn for it."""
Combination = tuple[Any, ...]
"""A parameter for each key of the space, in its order."""


def distributions(space: SearchSpace) -> Distributions:
    """What Optuna draws for each key of a space."""
    drawn: Distributions = {}
    for key, values in space.values.items():
        if not isinstance(values, RangeConfig):
            drawn[key] = CategoricalDistribution(list(space.choices(key)))
            continue
        low, high = values.range
        if key in space.whole:
            drawn[key] = IntDistribution(int(low), int(high), log=values.log)
        else:
            drawn[key] = FloatDistribution(low, high, log=values.log)
    return drawn


def combinations(drawn: Distributions) -> float:
    """The number of combinations of values; infinity if a value is any number of a range."""
    return prod(inf if isinstance(one, FloatDistribution) else len(_listed(one)) for one in drawn.values())


def next_combination(drawn: Distributions, combination: Combination) -> Combination:
    """The combination behind another one: the last value changes first. Behind the last one is the first."""
    following = list(combination)
    for index, distribution in reversed(list(enumerate(drawn.values()))):
        values = _listed(distribution)
        position = (values.index(following[index]) + 1) % len(values)
        following[index] = values[position]
        if position > 0:
            break
    return tuple(following)


class Sampler(TPESampler):
    """Random values, then TPE; if a trial has the drawn combination, the next one that none has.

    In a small space both draw the same again and again, and a trial that trains with the same seed finds the same.
    """

    def __init__(self, tuning: TuningConfig, number: int, drawn: Distributions, tried: Set[Combination]) -> None:
        """Draws for trial `number`: a study that continues draws as one that never stopped."""
        seed = int(np.random.SeedSequence([tuning.seed, number]).generate_state(1)[0])
        super().__init__(n_startup_trials=tuning.random_trials, seed=seed)
        self._drawn, self._tried = drawn, tried

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> Distributions:
        """All keys: `sample_relative` draws them together."""
        return self._drawn

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: Distributions) -> dict[str, Any]:
        """A combination that no trial has, unless all are tried."""
        relative = super().sample_relative(study, trial, super().infer_relative_search_space(study, trial))
        combination = tuple(
            relative[key] if key in relative else self.sample_independent(study, trial, key, distribution)
            for key, distribution in self._drawn.items()
        )
        if len(self._tried) < combinations(self._drawn) < inf:
            while combination in self._tried:
                combination = next_combination(self._drawn, combination)
        return dict(zip(self._drawn, combination, strict=True))


def _listed(distribution: BaseDistribution) -> Sequence[Any]:
    """The values of a distribution, in order."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices
    assert isinstance(distribution, IntDistribution)
    return range(distribution.low, distribution.high + 1)
