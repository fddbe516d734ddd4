"""What tasks share: what each tower reads."""

from typing import Annotated, Literal

from pydantic import Field

from recap.config.base import MAX_INT, BaseConfig, Check, Name, NonNegativeFloat, PositiveInt, Problems


class ShareAllConfig(BaseConfig):
    """Every tower reads the backbone's output."""

    kind: Literal["share_all"]


class ShareNoneConfig(BaseConfig):
    """Every tower reads the inputs; there is no backbone."""

    kind: Literal["share_none"]


class SharePartialConfig(BaseConfig):
    """Every tower reads the inputs and the backbone's output, joined."""

    kind: Literal["share_partial"]


class MmoeConfig(BaseConfig):
    """Multi-gate mixture of experts (Ma et al., KDD 2018): a gate for each task mixes the same experts."""

    kind: Literal["mmoe"]
    num_experts: PositiveInt
    """How many networks of the backbone's form read the inputs."""


class _SharedAndOwnConfig(BaseConfig):
    """Experts that all tasks share, and experts of each task."""

    kind: str
    """Which one this is."""
    shared_experts: PositiveInt
    """How many networks of the backbone's form serve all tasks, at each level."""
    task_experts: PositiveInt
    """How many serve each task alone, at each level."""


class CgcConfig(_SharedAndOwnConfig):
    """Customized gate control (Tang et al., RecSys 2020): a task's gate mixes its own experts and the shared ones."""

    kind: Literal["cgc"]


class PleConfig(_SharedAndOwnConfig):
    """Progressive layered extraction (Tang et al., RecSys 2020): levels of `cgc`, each reading the mixtures below."""

    kind: Literal["ple"]
    levels: Annotated[int, Field(ge=2, le=MAX_INT)] = 2
    """How many levels of experts stand above each other; a single one is `cgc`."""


SharingConfig = Annotated[
    ShareAllConfig | ShareNoneConfig | SharePartialConfig | MmoeConfig | CgcConfig | PleConfig,
    Field(discriminator="kind"),
]

SHARED = "shared"
"""What `cgc` and `ple` call the part that is no task's own."""


class _ChainConfig(BaseConfig):
    """A chain of tasks."""

    kind: str
    """Which one this is."""
    chain: Annotated[list[Name], Field(min_length=1)]
    """The tasks, each a condition of the next: nobody likes what was not clicked. At least two."""

    def checks(self) -> tuple[Check, ...]:
        """A chain of one, or one that meets itself."""
        return (self._links,)

    def _links(self) -> Problems:
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
