"""The section `optimizer`: algorithms, learning rate schedules, balancing of tasks, clipping."""

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
    """The mean over tasks of `loss_weight` · loss."""

    kind: Literal["none"]


class UncertaintyConfig(BaseConfig):
    """Uncertainty weighting (Kendall et al., CVPR 2018): a log variance s per task, learned at the rate of
    `optimizer.backbone`.

    The loss of a binary task becomes exp(−s)·loss + s / 2, that of a regression ½·exp(−s)·loss + s / 2."""

    kind: Literal["uncertainty"]


class PcGradConfig(BaseConfig):
    """PCGrad (Yu et al., NeurIPS 2020): projects conflicting gradients of the weights that tasks share.

    Needs memory for one gradient of all shared weights per task."""

    kind: Literal["pcgrad"]


class GradNormConfig(BaseConfig):
    """GradNorm (Chen et al., ICML 2018): learned task weights that equalize the norms of the tasks' gradients.

    Norms are those over all shared weights. Needs memory for one gradient of these weights per task."""

    kind: Literal["grad_norm"]
    alpha: NonNegativeFloat = 1.5
    """Exponent that favors tasks whose losses have decreased less; 0 makes all norms equal."""
    learning_rate: PositiveFloat = 0.025
    """Learning rate of the task weights; a step is this rate times the norm of the task's gradient."""


BalancingConfig = Annotated[
    NoBalancingConfig | UncertaintyConfig | PcGradConfig | GradNormConfig, Field(discriminator="kind")
]


class NormClippingConfig(BaseConfig):
    """Scales gradients down so that their global norm is at most `max_norm` (Pascanu et al., 2013).

    Their direction does not change."""

    kind: Literal["norm"]
    max_norm: PositiveFloat
    """Maximum L2 norm over all parameters."""


class ValueClippingConfig(BaseConfig):
    """Clamps every number of a gradient to [−max_value, max_value]."""

    kind: Literal["value"]
    max_value: PositiveFloat
    """Maximum magnitude of a number."""


ClippingConfig = Annotated[NormClippingConfig | ValueClippingConfig, Field(discriminator="kind")]


class AdamConfig(BaseConfig):
    """Adam (arXiv:1412.6980)."""

    kind: Literal["adam"]
    beta_1: DropRate = 0.9
    """Decay of the running mean of gradients."""
    beta_2: DropRate = 0.999
    """Decay of the running mean of squared gradients."""
    epsilon: Epsilon = 1e-7
    """Added to the square root of the mean of squared gradients."""


class AdamWConfig(BaseConfig):
    """Adam with decoupled weight decay (arXiv:1711.05101): a step also subtracts rate · `weight_decay` · W from W."""

    kind: Literal["adamw"]
    beta_1: DropRate = 0.9
    """Decay of the running mean of gradients."""
    beta_2: DropRate = 0.999
    """Decay of the running mean of squared gradients."""
    epsilon: Epsilon = 1e-7
    """Added to the square root of the mean of squared gradients."""
    weight_decay: NonNegativeFloat = 0.01
    """Decay of all weights, including biases and norms, per step and unit of the learning rate; only the biases that
    `initial_rate` set do not decay."""


class SgdConfig(BaseConfig):
    """Stochastic gradient descent: v ← momentum · v + g, and W ← W − rate · v."""

    kind: Literal["sgd"]
    momentum: DropRate = 0.0
    """Decay of v; 0 needs no memory for v."""
    nesterov: bool = False
    """Whether to use Nesterov momentum: W moves by g + momentum · v instead of v."""

    def checks(self) -> tuple[Check, ...]:
        return (self._nesterov_has_momentum,)

    def _nesterov_has_momentum(self) -> Problems:
        if self.nesterov and not self.momentum:
            yield ("nesterov",), "has no effect without momentum; set momentum above 0, or remove it"


class AdagradConfig(BaseConfig):
    """Adagrad (Duchi et al., JMLR 2011): G ← G + g², and W ← W − rate · g / (√G + epsilon), elementwise."""

    kind: Literal["adagrad"]
    epsilon: Epsilon = 1e-10
    """Added to the square root of the sum."""
    initial_accumulator_value: NonNegativeFloat = 0.0
    """Initial value of the sums of squared gradients."""


class RowwiseAdagradConfig(BaseConfig):
    """Adagrad with one sum per row of a table: G ← G + mean of g² over the row, as in TorchRec and FBGEMM
    (`EXACT_ROWWISE_ADAGRAD`)."""

    kind: Literal["rowwise_adagrad"]
    epsilon: Epsilon = 1e-10
    """Added to the square root of the sum."""
    initial_accumulator_value: NonNegativeFloat = 0.0
    """Initial value of the sums of squared gradients."""


AlgorithmConfig = Annotated[AdamConfig | AdamWConfig | SgdConfig | AdagradConfig, Field(discriminator="kind")]


TableAlgorithmConfig = Annotated[
    AdamConfig | AdamWConfig | SgdConfig | AdagradConfig | RowwiseAdagradConfig, Field(discriminator="kind")
]


class ConstantConfig(BaseConfig):
    """The same learning rate at every step."""

    kind: Literal["constant"]
    learning_rate: NonNegativeFloat
    """The learning rate of every step."""


class LinearRampToConstantConfig(BaseConfig):
    """A linear ramp from 0 to `learning_rate`, then constant."""

    kind: Literal["linear_ramp_to_constant"]
    learning_rate: NonNegativeFloat
    """The rate after the ramp."""
    num_ramp_steps: PositiveInt
    """Length of the ramp, in steps."""


class LinearRampToCosineConfig(BaseConfig):
    """A linear ramp from 0 to `learning_rate`, then half a cosine down to `final_learning_rate`."""

    kind: Literal["linear_ramp_to_cosine"]
    learning_rate: NonNegativeFloat
    """The rate at the end of the ramp, the maximum."""
    final_learning_rate: NonNegativeFloat
    """The rate at the end of the cosine, and after it."""
    num_ramp_steps: PositiveInt
    """Length of the ramp, in steps."""
    final_num_steps: PositiveInt | None = None
    """The step at which the cosine ends, counted from the start of the run. Optional; default: the last step of the
    run, by `num_train_steps` or `num_epochs`, whichever comes first."""

    def checks(self) -> tuple[Check, ...]:
        return (self._ends_after_ramp,)

    def _ends_after_ramp(self) -> Problems:
        if self.final_num_steps is not None and self.final_num_steps <= self.num_ramp_steps:
            yield (
                ("final_num_steps",),
                f"must be above num_ramp_steps, {self.num_ramp_steps}; found {self.final_num_steps}",
            )


class PiecewiseConstantConfig(BaseConfig):
    """A constant rate between boundaries: `learning_rate_values[i]` until step `learning_rate_boundaries[i]`."""

    kind: Literal["piecewise_constant"]
    learning_rate_boundaries: list[NonNegativeInt]
    """Steps at which the rate changes, ascending."""
    learning_rate_values: Annotated[list[NonNegativeFloat], Field(min_length=1)]
    """The rates before, between and after the boundaries; one more than boundaries."""

    def checks(self) -> tuple[Check, ...]:
        return (self._pieces_fit,)

    def _pieces_fit(self) -> Problems:
        boundaries, values = self.learning_rate_boundaries, self.learning_rate_values
        if len(values) != len(boundaries) + 1:
            yield (
                ("learning_rate_values",),
                f"{len(boundaries)} learning_rate_boundaries need {len(boundaries) + 1} values, found {len(values)}",
            )
        if boundaries != sorted(set(boundaries)):
            yield ("learning_rate_boundaries",), f"must be ascending, found {boundaries}"


LearningRateConfig = Annotated[
    ConstantConfig | LinearRampToConstantConfig | LinearRampToCosineConfig | PiecewiseConstantConfig,
    Field(discriminator="kind"),
]


class TablesConfig(BaseConfig):
    """A separate algorithm and learning rate for the embedding tables, including those of histories."""

    algorithm: TableAlgorithmConfig
    """The optimization algorithm of the tables."""
    learning_rate: LearningRateConfig
    """The learning rate of the tables."""
    sparse: bool = False
    """Whether a step updates only the rows of its batch, so that its cost does not depend on the size of the tables.
    Results are the same for `sgd`, `adagrad` and `rowwise_adagrad`; `adam` leaves the moments of other rows unchanged
    (lazy Adam)."""

    def checks(self) -> tuple[Check, ...]:
        return (self._sparse_leaves_other_rows,)

    def _sparse_leaves_other_rows(self) -> Problems:
        algorithm = self.algorithm
        if not self.sparse:
            return
        if isinstance(algorithm, AdamWConfig):
            yield (
                ("sparse",),
                "adamw decays every row in every step, but sparse steps update only the rows of a batch; use adam, or "
                "set sparse to false",
            )
        elif isinstance(algorithm, SgdConfig) and algorithm.momentum:
            yield (
                ("sparse",),
                "momentum changes rows after their batch, but sparse steps update only the rows of a batch; set "
                "momentum to 0, or sparse to false",
            )


class OptimizerConfig(BaseConfig):
    """The section `optimizer`."""

    algorithm: AlgorithmConfig = AdamConfig(kind="adam")
    """The optimization algorithm."""
    tables: TablesConfig | None = None
    """A separate algorithm and learning rate for embedding tables. Optional; default: `algorithm` and `backbone`."""
    embedding_l2: NonNegativeFloat = 0.0
    """λ of the penalty λ/2·‖W‖² on embedding tables, which adds λ·W to their gradients."""
    embedding_l2_rows: Literal["all", "batch", "frequency"] = "all"
    """The rows that it reaches in a step: `all`; `batch`, those that the batch looks up; `frequency`, the same with λ
    divided by the lookups of the row so far (Zhou et al., KDD 2018)."""
    network_l2: NonNegativeFloat = 0.0
    """λ of the same penalty on all other weights, including biases and norms, except the biases that `initial_rate`
    set."""
    backbone: LearningRateConfig
    """Learning rate of all weights except those of towers and, if `tables` is set, of embedding tables."""
    towers: dict[Name, LearningRateConfig]
    """Learning rate of each task's tower and affine map; `default` applies to all others."""
    balancing: BalancingConfig = NoBalancingConfig(kind="none")
    """How the losses or gradients of tasks are combined."""
    frozen: list[Name] = []
    """Modules whose weights and running statistics do not change, such as `inputs.embeddings` or `towers.TASK`;
    `recap model summary` lists the paths."""
    clip_gradients: ClippingConfig | None = None
    """Clips gradients, before L2 penalties are added. Optional; off by default."""
