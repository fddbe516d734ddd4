"""The optimizer, and a learning rate with its schedule for the backbone and for every tower."""

from typing import Annotated, Literal

from pydantic import Field

from recap.config.base import (
    BaseConfig,
    Check,
    DropRate,
    Epsilon,
    Name,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Problems,
)


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


class NormClippingConfig(BaseConfig):
    """Gradients are scaled down so that the norm of all of them together is at most `max_norm` (Pascanu et al., 2013).

    Their direction stays."""

    kind: Literal["norm"]
    max_norm: PositiveFloat
    """The highest L2 norm over all parameters."""


class ValueClippingConfig(BaseConfig):
    """Every single number of a gradient is brought into [−max_value, max_value]."""

    kind: Literal["value"]
    max_value: PositiveFloat
    """The highest magnitude."""


ClippingConfig = Annotated[NormClippingConfig | ValueClippingConfig, Field(discriminator="kind")]


class AdamConfig(BaseConfig):
    """Adam (arXiv:1412.6980)."""

    kind: Literal["adam"]
    beta_1: DropRate = 0.9
    """Decay of the mean of gradients."""
    beta_2: DropRate = 0.999
    """Decay of the mean of squared gradients."""
    epsilon: Epsilon = 1e-7
    """Added to the root of the mean of squares."""


class AdamWConfig(BaseConfig):
    """Adam with decoupled weight decay (arXiv:1711.05101): a step also takes rate · `weight_decay` · W from W."""

    kind: Literal["adamw"]
    beta_1: DropRate = 0.9
    """Decay of the mean of gradients."""
    beta_2: DropRate = 0.999
    """Decay of the mean of squared gradients."""
    epsilon: Epsilon = 1e-7
    """Added to the root of the mean of squares."""
    weight_decay: NonNegativeFloat = 0.01
    """By how much every weight shrinks in a step, times the rate; biases and norms too."""


class SgdConfig(BaseConfig):
    """Gradient descent: v ← momentum · v + g, and W ← W − rate · v."""

    kind: Literal["sgd"]
    momentum: DropRate = 0.0
    """How much of the last step's v stays; 0: v is the gradient, and nothing is kept of it."""
    nesterov: bool = False
    """Whether W moves by g + momentum · v instead, as if the next step were made already."""

    def checks(self) -> tuple[Check, ...]:
        """Nesterov's momentum without momentum."""
        return (self._nesterov_has_momentum,)

    def _nesterov_has_momentum(self) -> Problems:
        if self.nesterov and not self.momentum:
            yield ("nesterov",), "changes nothing without momentum; set momentum above 0, or leave it out"


class AdagradConfig(BaseConfig):
    """Adagrad (Duchi et al., JMLR 2011): G ← G + g², and W ← W − rate · g / (√G + epsilon), number by number."""

    kind: Literal["adagrad"]
    epsilon: Epsilon = 1e-10
    """Added to the root of the sum."""
    initial_accumulator_value: NonNegativeFloat = 0.0
    """What the sums of squared gradients start from."""


class RowwiseAdagradConfig(BaseConfig):
    """Adagrad with one sum a row of a table: G ← G + mean of g² over the row. One number is kept of each row,
    as in TorchRec and FBGEMM (`EXACT_ROWWISE_ADAGRAD`)."""

    kind: Literal["rowwise_adagrad"]
    epsilon: Epsilon = 1e-10
    """Added to the root of the sum."""
    initial_accumulator_value: NonNegativeFloat = 0.0
    """What the sums of squared gradients start from."""


AlgorithmConfig = Annotated[AdamConfig | AdamWConfig | SgdConfig | AdagradConfig, Field(discriminator="kind")]


TableAlgorithmConfig = Annotated[
    AdamConfig | AdamWConfig | SgdConfig | AdagradConfig | RowwiseAdagradConfig, Field(discriminator="kind")
]


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

    def checks(self) -> tuple[Check, ...]:
        """A cosine that ends before it begins."""
        return (self._ends_after_ramp,)

    def _ends_after_ramp(self) -> Problems:
        if self.final_num_steps <= self.num_ramp_steps:
            yield ("final_num_steps",), f"{self.final_num_steps} must be above num_ramp_steps ({self.num_ramp_steps})"


class PiecewiseConstantConfig(BaseConfig):
    """`learning_rate_values[i]` until step `learning_rate_boundaries[i]`; one more value than boundaries."""

    kind: Literal["piecewise_constant"]
    learning_rate_boundaries: list[NonNegativeInt]
    """Steps at which the rate changes, rising."""
    learning_rate_values: Annotated[list[NonNegativeFloat], Field(min_length=1)]
    """The rates between the boundaries."""

    def checks(self) -> tuple[Check, ...]:
        """Values that do not fit the boundaries, or boundaries that do not rise."""
        return (self._pieces_fit,)

    def _pieces_fit(self) -> Problems:
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

    def checks(self) -> tuple[Check, ...]:
        """Rows that move without being in the batch, and gradients that hold no others."""
        return (self._sparse_leaves_other_rows,)

    def _sparse_leaves_other_rows(self) -> Problems:
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
