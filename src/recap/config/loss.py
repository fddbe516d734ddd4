"""Objectives and losses: what a task predicts, and what training minimizes."""

from typing import Annotated, Literal

from pydantic import Field

from recap.config.base import BaseConfig, NonNegativeFloat, PositiveFloat


class BceConfig(BaseConfig):
    """Binary cross entropy."""

    kind: Literal["bce"]


class FocalConfig(BaseConfig):
    """Focal loss (arXiv:1708.02002): binary cross entropy times (1 − p)^gamma, where p is the probability of the label.
    Easy examples count less. Probabilities are underconfident, so use it for ranking only."""

    kind: Literal["focal"]
    gamma: NonNegativeFloat = 2.0
    """Exponent: the higher, the less easy examples count. 0 is binary cross entropy."""


BinaryLossConfig = Annotated[BceConfig | FocalConfig, Field(discriminator="kind")]


class MseConfig(BaseConfig):
    """Squared error."""

    kind: Literal["mse"]


class MaeConfig(BaseConfig):
    """Absolute error."""

    kind: Literal["mae"]


class HuberConfig(BaseConfig):
    """Huber loss: error² / 2 for absolute errors up to `delta`, delta · (|error| − delta / 2) above."""

    kind: Literal["huber"]
    delta: PositiveFloat = 1.0
    """The error above which the loss is linear, in the unit of the transformed label."""


RegressionLossConfig = Annotated[MseConfig | MaeConfig | HuberConfig, Field(discriminator="kind")]


class BinaryConfig(BaseConfig):
    """A binary task: labels are 0 or 1, and the prediction is a probability."""

    kind: Literal["binary"]


class RegressionConfig(BaseConfig):
    """A regression task: labels are numbers, and the prediction is a value in their unit."""

    kind: Literal["regression"]
    transform: Literal["none", "log1p"] = "none"
    """The quantity that the tower predicts: the label, or log(1 + label) for labels ≥ 0."""
    loss: RegressionLossConfig = MseConfig(kind="mse")
    """The loss on the difference between the tower's output and the transformed label."""


ObjectiveConfig = Annotated[BinaryConfig | RegressionConfig, Field(discriminator="kind")]


class PairwiseConfig(BaseConfig):
    """RankNet loss (Burges et al., ICML 2005), in addition to the task's own.

    The mean of log(1 + exp(logit of the negative − logit of the positive)) over all pairs of a positive and a negative
    of the same user in a micro-batch; 0 if there are none."""

    weight: PositiveFloat
    """Weight of this loss relative to the task's own."""
