"""Tasks that follow from each other, such as click → like: how a later one builds on the one before it."""

from typing import Annotated, Literal

from pydantic import Field

from recap.config.base import BaseConfig, Disagreements, Name, NonNegativeFloat, PositiveInt


class _ChainConfig(BaseConfig):
    """A chain of tasks."""

    kind: str
    """Which one this is."""
    chain: Annotated[list[Name], Field(min_length=1)]
    """The tasks, each a condition of the next: nobody likes what was not clicked. At least two."""

    def checks(self) -> tuple[Disagreements, ...]:
        """A chain of one, or one that meets itself."""
        return (self._links(),)

    def _links(self) -> Disagreements:
        if len(self.chain) == 1:
            yield (
                ("chain",),
                f"a chain needs at least two tasks, found {self.chain[0]!r} alone; add one, or drop cascade",
            )
        for index, task in enumerate(self.chain):
            if task in self.chain[:index]:
                yield ("chain", index), f"{task!r} stands in the chain twice; each task has one place"


class EsmmConfig(_ChainConfig):
    """Probabilities multiply along the chain (ESMM, Ma et al., SIGIR 2018): p(like) = p(click) · p(like | click)."""

    kind: Literal["esmm"]


class AitmConfig(_ChainConfig):
    """Adaptive information transfer (AITM, Xi et al., KDD 2021): a tower also reads what the task before it found."""

    kind: Literal["aitm"]
    width: PositiveInt
    """Width of what is transferred, and of what the towers of the chain read."""
    constraint_weight: NonNegativeFloat = 0.6
    """Weight, beside the tasks' loss, of the mean of max(p(later) − p(earlier), 0) summed over the chain's links."""


CascadeConfig = Annotated[EsmmConfig | AitmConfig, Field(discriminator="kind")]
