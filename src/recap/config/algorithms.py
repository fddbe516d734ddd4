"""What turns gradients into steps: algorithms for all weights, and one that only embedding tables can have."""

from typing import Annotated, Literal

from pydantic import Field

from recap.config.base import BaseConfig, Disagreements, DropRate, Epsilon, NonNegativeFloat


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

    def checks(self) -> tuple[Disagreements, ...]:
        """Nesterov's momentum without momentum."""
        return (self._nesterov_has_momentum(),)

    def _nesterov_has_momentum(self) -> Disagreements:
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
