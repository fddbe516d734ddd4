"""How the losses of tasks are weighed against each other while training."""

from typing import Annotated, Literal

from pydantic import Field

from recap.config.base import BaseConfig, NonNegativeFloat, PositiveFloat


class NoBalancingConfig(BaseConfig):
    """The mean over tasks of `loss_weight` times loss."""

    kind: Literal["none"]


class UncertaintyConfig(BaseConfig):
    """Learned log variances s, one for each task, moved at the backbone's rate (Kendall et al., CVPR 2018).

    A binary task's loss becomes exp(−s)·loss + s / 2, that of a regression ½·exp(−s)·loss + s / 2."""

    kind: Literal["uncertainty"]


class PcGradConfig(BaseConfig):
    """Gradients that point against each other are projected, for what tasks share (Yu et al., NeurIPS 2020).

    Takes the memory of a gradient of all shared weights for each task."""

    kind: Literal["pcgrad"]


class GradNormConfig(BaseConfig):
    """Weights of tasks that bring the norms of their gradients together (Chen et al., ICML 2018).

    The norms are those of all weights that tasks share. Takes the memory of a gradient of these for each task."""

    kind: Literal["grad_norm"]
    alpha: NonNegativeFloat = 1.5
    """How much more a task counts that has learned less than the others; 0: all norms are to be alike."""
    learning_rate: PositiveFloat = 0.025
    """By how much a task's weight moves in a step, times the norm of its gradient."""


BalancingConfig = Annotated[
    NoBalancingConfig | UncertaintyConfig | PcGradConfig | GradNormConfig, Field(discriminator="kind")
]
