"""What tasks share: what each tower reads."""

from typing import Annotated, Literal

from pydantic import Field

from recap.config.base import MOST, BaseConfig, PositiveInt


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
    levels: Annotated[int, Field(ge=2, le=MOST)] = 2
    """How many levels of experts stand above each other; a single one is `cgc`."""


SharingConfig = Annotated[
    ShareAllConfig | ShareNoneConfig | SharePartialConfig | MmoeConfig | CgcConfig | PleConfig,
    Field(discriminator="kind"),
]

SHARED = "shared"
"""What `cgc` and `ple` call the part that is no task's own."""
