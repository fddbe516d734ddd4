"""The optimizer, and a learning rate with its schedule for the backbone and for every tower."""

from typing import Annotated, Literal

from pydantic import Field

from recap.config.algorithms import AdamConfig, AdamWConfig, AlgorithmConfig, SgdConfig, TableAlgorithmConfig
from recap.config.balancing import BalancingConfig, NoBalancingConfig
from recap.config.base import BaseConfig, Disagreements, Name, NonNegativeFloat, NonNegativeInt, PositiveInt
from recap.config.clipping import ClippingConfig

DEFAULT = "default"
"""The key that stands for everything not named beside it."""


class ConstantConfig(BaseConfig):
    """The same learning rate at every step."""

    kind: Literal["constant"]
    learning_rate: NonNegativeFloat
    """The rate of every step."""


class LinearRampToConstantConfig(BaseConfig):
    """From 0 up to `learning_rate` over `num_ramp_steps`, then constant."""

    kind: Literal["linear_ramp_to_constant"]
    learning_rate: NonNegativeFloat
    """The rate after the ramp."""
    num_ramp_steps: PositiveInt
    """Length of the ramp in steps."""


class LinearRampToCosineConfig(BaseConfig):
    """From 0 up to `learning_rate`, then down a half cosine that ends at step `final_num_steps`."""

    kind: Literal["linear_ramp_to_cosine"]
    learning_rate: NonNegativeFloat
    """The rate at the end of the ramp, the highest."""
    final_learning_rate: NonNegativeFloat
    """The rate at the end of the cosine and after it."""
    num_ramp_steps: PositiveInt
    """Length of the ramp in steps."""
    final_num_steps: PositiveInt
    """Step at which the cosine ends, counted from the first step of the run."""

    def checks(self) -> tuple[Disagreements, ...]:
        """A cosine that ends before it begins."""
        return (self._ends_after_ramp(),)

    def _ends_after_ramp(self) -> Disagreements:
        if self.final_num_steps <= self.num_ramp_steps:
            yield ("final_num_steps",), f"{self.final_num_steps} must be above num_ramp_steps ({self.num_ramp_steps})"


class PiecewiseConstantConfig(BaseConfig):
    """`learning_rate_values[i]` until step `learning_rate_boundaries[i]`; one more value than boundaries."""

    kind: Literal["piecewise_constant"]
    learning_rate_boundaries: list[NonNegativeInt]
    """Steps at which the rate changes, rising."""
    learning_rate_values: Annotated[list[NonNegativeFloat], Field(min_length=1)]
    """The rates between the boundaries."""

    def checks(self) -> tuple[Disagreements, ...]:
        """Values that do not fit the boundaries, or boundaries that do not rise."""
        return (self._pieces_fit(),)

    def _pieces_fit(self) -> Disagreements:
        boundaries, values = self.learning_rate_boundaries, self.learning_rate_values
        if len(values) != len(boundaries) + 1:
            yield (
                ("learning_rate_values",),
                f"{len(boundaries)} learning_rate_boundaries need {len(boundaries) + 1} values, found {len(values)}",
            )
        if boundaries != sorted(set(boundaries)):
            yield ("learning_rate_boundaries",), f"must rise, found {boundaries}"


LearningRateConfig = Annotated[
    ConstantConfig | LinearRampToConstantConfig | LinearRampToCosineConfig | PiecewiseConstantConfig,
    Field(discriminator="kind"),
]


class TablesConfig(BaseConfig):
    """An algorithm and a rate of their own for the embedding tables, those of histories among them."""

    algorithm: TableAlgorithmConfig
    """What turns their gradients into steps."""
    learning_rate: LearningRateConfig
    """Their rate."""
    sparse: bool = False
    """Whether a step reaches only the rows that its batch holds, so that it costs the same however large tables are.
    `sgd`, `adagrad` and `rowwise_adagrad` do the same either way; the moments of `adam` then stay as they are in steps
    that do not hold their row (lazy Adam)."""

    def checks(self) -> tuple[Disagreements, ...]:
        """Rows that move without being in the batch, and gradients that hold no others."""
        return (self._sparse_leaves_other_rows(),)

    def _sparse_leaves_other_rows(self) -> Disagreements:
        algorithm = self.algorithm
        if not self.sparse:
            return
        if isinstance(algorithm, AdamWConfig):
            yield (
                ("sparse",),
                "weight decay moves every row in every step, and sparse steps only those of a batch; take adam, or "
                "set it to false",
            )
        elif isinstance(algorithm, SgdConfig) and algorithm.momentum:
            yield (
                ("sparse",),
                "momentum moves rows after the batch that held them, and sparse steps do not reach those; set "
                "momentum to 0, or this to false",
            )


class OptimizerConfig(BaseConfig):
    """The section `optimizer`."""

    algorithm: AlgorithmConfig = AdamConfig(kind="adam")
    """What turns gradients into steps."""
    tables: TablesConfig | None = None
    """How embedding tables move; none given: as the backbone does."""
    embedding_l2: NonNegativeFloat = 0.0
    """λ of the penalty λ/2·‖W‖² on whole embedding tables: every step adds λ·W to their gradients."""
    network_l2: NonNegativeFloat = 0.0
    """The same for every other parameter, biases and norms too."""
    backbone: LearningRateConfig
    """Everything that is not a tower: featurization, vector norms, backbone, and embeddings without `tables`."""
    towers: dict[Name, LearningRateConfig]
    """Each task's tower with its affine map; `default` stands for the tasks not named."""
    balancing: BalancingConfig = NoBalancingConfig(kind="none")
    """How the losses of tasks are weighed against each other."""
    frozen: list[Name] = []
    """Modules whose weights stay as they start, such as `inputs.embeddings` or `towers.TASK`, by the paths of
    `recap model summary`."""
    clip_gradients: ClippingConfig | None = None
    """How far gradients may reach, before any penalty is added; none given: as far as they do."""
