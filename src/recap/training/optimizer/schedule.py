"""Learning rate schedules: pure functions of the step, so that a resumed run needs no state for them."""

import math
from bisect import bisect_right
from typing import assert_never

from recap.config.optimizer import (
    ConstantConfig,
    LearningRateConfig,
    LinearRampToConstantConfig,
    LinearRampToCosineConfig,
    PiecewiseConstantConfig,
)


def learning_rate(config: LearningRateConfig, step: int, last_step: int) -> float:
    """The rate of the next optimizer step, after `step` finished ones.

    `last_step`: the length of the run, where a cosine without `final_num_steps` ends.
    """
    match config:
        case ConstantConfig():
            return config.learning_rate
        case LinearRampToConstantConfig():
            return config.learning_rate * min(step / config.num_ramp_steps, 1.0)
        case LinearRampToCosineConfig():
            if step < config.num_ramp_steps:
                return config.learning_rate * step / config.num_ramp_steps
            end = last_step if config.final_num_steps is None else config.final_num_steps
            decayed = (step - config.num_ramp_steps) / max(
                end - config.num_ramp_steps, 1
            )  # the run may end in the ramp
            height = config.learning_rate - config.final_learning_rate
            return config.final_learning_rate + height * 0.5 * (1 + math.cos(math.pi * min(decayed, 1.0)))
        case PiecewiseConstantConfig():
            return config.learning_rate_values[bisect_right(config.learning_rate_boundaries, step)]
        case _:
            assert_never(config)
