"""Learning rate schedules: a pure function of the step, so a resumed run needs no state of them."""

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
    """The rate of the optimizer step that follows `step` finished ones."""
    match config:
        case ConstantConfig():
            return config.learning_rate
        case LinearRampToConstantConfig():
            return config.learning_rate * min(step / config.num_ramp_steps, 1.0)
        case LinearRampToCosineConfig():
            if step < config.num_ramp_steps:
                return config.learning_rate * step / config.num_ramp_steps
            fall = (step - config.num_ramp_steps) / (config.final_num_steps - config.num_ramp_steps)
            above = config.learning_rate - config.final_learning_rate
            return config.final_learning_rate + above * 0.5 * (1 + math.cos(math.pi * min(fall, 1.0)))
        case PiecewiseConstantConfig():
            return config.learning_rate_values[bisect_right(config.learning_rate_boundaries, step)]
        case _:
            assert_never(config)
