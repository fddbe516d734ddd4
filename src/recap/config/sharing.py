"""Sharing, cascades, scenarios: what towers read, and how tasks depend on each other and on the scenario of a row."""

from graphlib import CycleError, TopologicalSorter
from typing import Annotated, Literal

from pydantic import Field

from recap.config.base import MAX_INT, BaseConfig, Check, Name, NonNegativeFloat, PositiveInt, Problems, Rate

_Features = Annotated[list[Name], Field(min_length=1)]


class ShareAllConfig(BaseConfig):
    """Every tower reads the backbone's output."""

    kind: Literal["share_all"]


class ShareNoneConfig(BaseConfig):
    """Every tower reads the inputs, without a backbone."""

    kind: Literal["share_none"]


class SharePartialConfig(BaseConfig):
    """Every tower reads the inputs joined to the backbone's output."""

    kind: Literal["share_partial"]


class MmoeConfig(BaseConfig):
    """Multi-gate mixture of experts (Ma et al., KDD 2018): each task has its own gate over shared experts."""

    kind: Literal["mmoe"]
    num_experts: PositiveInt
    """Number of experts, each built like the backbone."""


class _SharedAndOwnConfig(BaseConfig):
    """Experts shared by all tasks, and experts of each task; `kind` comes first."""

    kind: str
    shared_experts: PositiveInt
    """Number of shared experts per level, each built like the backbone."""
    task_experts: PositiveInt
    """Number of experts per task and level, each built like the backbone."""


class CgcConfig(_SharedAndOwnConfig):
    """Customized gate control (Tang et al., RecSys 2020): a task's gate mixes its own and the shared experts."""

    kind: Literal["cgc"]


class PleConfig(_SharedAndOwnConfig):
    """Progressive layered extraction (Tang et al., RecSys 2020): levels of `cgc`, each reading the mixtures of the one
    before."""

    kind: Literal["ple"]
    levels: Annotated[int, Field(ge=2, le=MAX_INT)] = 2
    """Number of levels of experts; a single level is `cgc`."""


class StemConfig(_SharedAndOwnConfig):
    """STEM (Su et al., AAAI 2024, arXiv:2308.13537): every embedding has a part that all tasks share and one for each
    task, which experts of that task read. A task mixes all experts, but does not train those of other tasks."""

    kind: Literal["stem"]


class PosoConfig(BaseConfig):
    """POSO (Dai et al., arXiv:2108.04690): copies of the backbone, which a gate mixes that reads chosen features
    alone."""

    kind: Literal["poso"]
    features: _Features
    """The discrete features whose embeddings the gate reads, such as the age of an account."""
    copies: PositiveInt
    """Number of copies, each built like the backbone."""
    gate_width: PositiveInt = 64
    """Width of the hidden layer of the gate."""


class DeepEnsembleConfig(BaseConfig):
    """Members with weights of their own (Lakshminarayanan et al., NIPS 2017): each has a backbone, towers, a part of
    every embedding, and a loss. The probability of a task is the mean of theirs, as is the raw output of a
    regression."""

    kind: Literal["deep_ensemble"]
    members: Annotated[int, Field(ge=2, le=MAX_INT)]
    """The number of members; the cost of the network grows with it. Each reads its own part of every embedding, so
    widths are multiples of this number."""


SharingConfig = Annotated[
    ShareAllConfig
    | ShareNoneConfig
    | SharePartialConfig
    | MmoeConfig
    | CgcConfig
    | PleConfig
    | StemConfig
    | PosoConfig
    | DeepEnsembleConfig,
    Field(discriminator="kind"),
]

SHARED = "shared"
"""The name that `cgc`, `ple` and `stem` give to the shared experts."""


class _ChainConfig(BaseConfig):
    """A chain of tasks; `kind` comes first."""

    kind: str
    chain: Annotated[list[Name], Field(min_length=1)]
    """At least two tasks, each a condition of the next: only a clicked candidate can be liked."""

    @property
    def linked(self) -> list[str]:
        """The tasks that depend on each other."""
        return self.chain

    def checks(self) -> tuple[Check, ...]:
        return (self._links,)

    def _links(self) -> Problems:
        if len(self.chain) == 1:
            yield (
                ("chain",),
                f"needs at least two tasks, found {self.chain[0]!r}; add one, or remove cascade",
            )
        for index, task in enumerate(self.chain):
            if task in self.chain[:index]:
                yield ("chain", index), f"{task!r} is listed twice; remove one"


class EsmmConfig(_ChainConfig):
    """ESMM (Ma et al., SIGIR 2018): probabilities multiply along the chain, p(like) = p(click) · p(like | click)."""

    kind: Literal["esmm"]


class AitmConfig(_ChainConfig):
    """AITM (Xi et al., KDD 2021): each tower of the chain also reads a vector transferred from the task before it."""

    kind: Literal["aitm"]
    width: PositiveInt
    """Width of the transferred vector, and of the input of the chain's towers."""
    constraint_weight: NonNegativeFloat = 0.6
    """Weight of the penalty for probabilities that increase along the chain: the mean over rows of
    max(p(later) − p(earlier), 0), summed over neighbours."""


class DbmtlConfig(BaseConfig):
    """DBMTL (Wang et al., arXiv:1902.09154): a graph of tasks, whose towers read more of what their parents' read."""

    kind: Literal["dbmtl"]
    parents: Annotated[dict[Name, Annotated[list[Name], Field(min_length=1)]], Field(min_length=1)]
    """Task → the tasks on which it depends, such as {like: [click], share: [click, like]}."""
    width: PositiveInt
    """Width of what the towers of the graph read."""

    @property
    def linked(self) -> list[str]:
        """The tasks that depend on each other."""
        return list(dict.fromkeys(name for task, parents in self.parents.items() for name in (task, *parents)))

    def checks(self) -> tuple[Check, ...]:
        return (self._links,)

    def _links(self) -> Problems:
        for task, parents in self.parents.items():
            for index, parent in enumerate(parents):
                if parent in parents[:index]:
                    yield ("parents", task, index), f"{parent!r} is listed twice; remove one"
        try:
            TopologicalSorter(self.parents).prepare()
        except CycleError as error:
            cycle = " → ".join(error.args[1])
            yield ("parents",), f"a task must not depend on itself, but {cycle}; remove one of these parents"


CascadeConfig = Annotated[EsmmConfig | AitmConfig | DbmtlConfig, Field(discriminator="kind")]


class PepnetConfig(BaseConfig):
    """PEPNet (Chang et al., KDD 2023, arXiv:2302.01115): gates scale the inputs, and the hidden units of towers.

    A gate is 2σ(Linear(ReLU(Linear(x)))). It also reads all inputs, but sends no gradient there."""

    kind: Literal["pepnet"]
    domain: _Features | None = None
    """The discrete features that tell scenarios apart; the gate of the inputs (EPNet) reads their embeddings. Optional;
    default: inputs are not scaled."""
    personal: _Features | None = None
    """The discrete features of the user and the candidate, such as their ids; the gate of the hidden units of MLP
    towers (PPNet) reads their embeddings. Optional; default: towers are not scaled."""
    gate_width: PositiveInt = 64
    """Width of the hidden layer of each gate."""

    def checks(self) -> tuple[Check, ...]:
        return (self._has_a_gate,)

    def _has_a_gate(self) -> Problems:
        if self.domain is None and self.personal is None:
            yield (), "pepnet has no gate; set domain, personal, or both"


class StarConfig(BaseConfig):
    """STAR (Sheng et al., CIKM 2021, arXiv:2101.11427): MLPs whose weights are those of all domains times the domain's.

    The inputs are normalised by domain, and an auxiliary network that reads them adds to the output of every tower.
    Rows of an unknown domain have the weights of all domains alone."""

    kind: Literal["star"]
    domain: Name
    """The discrete feature of the domain, of a fixed number of values (`size` or `vocabulary`), with an embedding,
    which the auxiliary network reads. The weights and the cost of MLPs grow with that number."""
    auxiliary_width: PositiveInt = 64
    """Width of the hidden layer of the auxiliary network."""
    momentum: Rate = 0.1
    """Weight of each micro-batch in the running statistics of its domains."""


ScenarioConfig = Annotated[PepnetConfig | StarConfig, Field(discriminator="kind")]
