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


def learning_rate(config: LearningRateConfig, step: int) -> float:
    """The rate of the next optimizer step, after `step` finished ones."""
    match config:
        case ConstantConfig():
            return config.learning_rate
        case LinearRampToConstantConfig():
            return config.learning_rate * min(step / config.num_ramp_steps, 1.0)
        case LinearRampToCosineConfig():
            if step < config.num_ramp_steps:
                return config.learning_rate * step / config.num_ramp_steps
            decayed = (step - config.num_ramp_steps) / (config.final_num_steps - config.num_ramp_steps)
            height = config.learning_rate - config.final_learning_rate
            return config.final_learning_rate + height * 0.5 * (1 + math.cos(math.pi * min(decayed, 1.0)))
        case PiecewiseConstantConfig():
            return config.learning_rate_values[bisect_right(config.learning_rate_boundaries, step)]
        case _:
            assert_never(config)
