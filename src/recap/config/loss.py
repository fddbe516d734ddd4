"""What a task predicts, and what its training minimises."""

from typing import Annotated, Literal

from pydantic import Field

from recap.config.base import BaseConfig, NonNegativeFloat, PositiveFloat


class BceConfig(BaseConfig):
    """Binary cross entropy."""

    kind: Literal["bce"]


class FocalConfig(BaseConfig):
    """Binary cross entropy times (1 − p)^gamma, p the probability given to the label: examples that are easy count less
    (arXiv:1708.02002). Probabilities come out less sure than the data is: use it for order."""

    kind: Literal["focal"]
    gamma: NonNegativeFloat = 2.0
    """How much less; 0 is binary cross entropy."""


BinaryLossConfig = Annotated[BceConfig | FocalConfig, Field(discriminator="kind")]


class MseConfig(BaseConfig):
    """Square of the error."""

    kind: Literal["mse"]


class MaeConfig(BaseConfig):
    """Size of the error."""

    kind: Literal["mae"]


class HuberConfig(BaseConfig):
    """Half the square of errors up to `delta`, delta · (error − delta / 2) beyond."""

    kind: Literal["huber"]
    delta: PositiveFloat = 1.0
    """The error, in the unit of the transformed label, at which the loss goes on as a line."""


RegressionLossConfig = Annotated[MseConfig | MaeConfig | HuberConfig, Field(discriminator="kind")]


class BinaryConfig(BaseConfig):
    """Whether something happens: labels are 0 or 1, the prediction is a probability."""

    kind: Literal["binary"]


class RegressionConfig(BaseConfig):
    """How much of something: labels are numbers, the prediction is a value in their unit."""

    kind: Literal["regression"]
    transform: Literal["none", "log1p"] = "none"
    """What the tower predicts of a label: itself, or log(1 + label), for labels of at least 0 and of any magnitude."""
    loss: RegressionLossConfig = MseConfig(kind="mse")
    """What is minimised, of the error between what the tower says and the transformed label."""


ObjectiveConfig = Annotated[BinaryConfig | RegressionConfig, Field(discriminator="kind")]


class PairwiseConfig(BaseConfig):
    """RankNet's loss (Burges et al., ICML 2005) beside the task's own.

    It is the mean of log(1 + exp(negative's logit − positive's)) over the pairs of a positive and a negative of one
    user in a micro-batch; 0 if there are none."""

    weight: PositiveFloat
    """What it counts beside the task's own loss."""
