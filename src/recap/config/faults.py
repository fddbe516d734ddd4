"""What a run does about a step whose losses or gradients are not finite."""

from typing import Annotated, Literal

from pydantic import Field

from recap.config.base import BaseConfig, PositiveInt


class RaiseConfig(BaseConfig):
    """The run ends with an error that names the step, what is not finite and the rows; the weights do not move."""

    kind: Literal["raise"] = "raise"


class SkipStepsConfig(BaseConfig):
    """The step counts, with its rows and in the schedule, but nothing moves: weights, moments, running statistics."""

    kind: Literal["skip"]
    budget: PositiveInt
    """How many steps a run may skip in all; one more ends it."""


class RollbackConfig(BaseConfig):
    """The run goes back to its latest checkpoint, or its initial weights, and passes over the rows of the step."""

    kind: Literal["rollback"]
    budget: PositiveInt
    """How many times a run may go back in all; one more ends it."""


NonFiniteConfig = Annotated[RaiseConfig | SkipStepsConfig | RollbackConfig, Field(discriminator="kind")]
