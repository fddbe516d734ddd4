"""The parts of networks: norms, dropout, the MLP as a backbone and as a tower, and where weights start."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from recap.config.base import MAX_INT, BaseConfig, Check, DropRate, Epsilon, PositiveFloat, PositiveInt, Problems, Rate


class BatchNormConfig(BaseConfig):
    """BatchNorm over the rows of a micro-batch."""

    affine: bool = True
    """Whether to learn a scale and a shift."""
    momentum: Rate = 0.1
    """Weight of each micro-batch in the running statistics."""


class LayerNormConfig(BaseConfig):
    """LayerNorm over the features of a row."""

    epsilon: Epsilon = 1e-3
    """Added to the variance."""
    affine: bool | Literal["scale", "shift"] = True
    """Whether to learn a scale and a shift, or only one of them."""


class DropoutConfig(BaseConfig):
    """Dropout of activations in training."""

    rate: DropRate | None = None
    """Probability of dropping an activation, in every layer. Optional; default: 0.1, unless `rates` is set."""
    rates: Annotated[list[DropRate], Field(min_length=1)] | None = None
    """This probability for each layer that has dropout, in order. Optional; default: `rate` in every layer."""

    def checks(self) -> tuple[Check, ...]:
        return (self._set_once,)

    def _set_once(self) -> Problems:
        if self.rate is not None and self.rates is not None:
            yield (), "needs at most one of rate and rates, found both"


class MlpDropoutConfig(DropoutConfig):
    """Dropout in the layers of an MLP, in training."""

    position: Literal["after_activation", "before_linear"] = "after_activation"
    """Whether every activation is dropped, or the input of every layer."""


Activation = Literal["relu", "leaky_relu", "prelu", "dice", "gelu", "silu", "tanh"]


class _LayersConfig(BaseConfig):
    """The layers of an MLP; `kind` comes first."""

    kind: str
    layer_sizes: list[PositiveInt]
    """Width of each layer."""
    batch_norm: BatchNormConfig | None = None
    """BatchNorm in every layer. Optional; off by default."""
    layer_norm: LayerNormConfig | None = None
    """LayerNorm in every layer, instead of BatchNorm. Optional; off by default."""
    norm_position: Literal["before_activation", "after_activation"] = "before_activation"
    """Whether the norm follows the Linear or the activation of a layer."""
    activation: Activation = "relu"
    """The activation of every layer. `prelu` learns the slope of each unit below 0, from 0.25 on, `leaky_relu` has
    0.01; `dice` (arXiv:1706.06978) moves its bend to the mean of the rows, which it knows from a BatchNorm."""
    residual: bool = False
    """Whether every layer after the first adds its input to its output. All layers must have the same width."""
    dropout: MlpDropoutConfig | None = None
    """Dropout in every layer. Optional; off by default."""

    def checks(self) -> tuple[Check, ...]:
        return self._one_norm, self._norm_has_a_place, self._widths_are_equal, self._rates_fit

    def _one_norm(self) -> Problems:
        if self.batch_norm is not None and self.layer_norm is not None:
            yield ("layer_norm",), "batch_norm is set too, and a layer has one norm; remove one of them"

    def _norm_has_a_place(self) -> Problems:
        if self.norm_position == "after_activation" and self.batch_norm is None and self.layer_norm is None:
            yield ("norm_position",), "places a norm, but there is none; add 'batch_norm: {}' or 'layer_norm: {}'"

    def _widths_are_equal(self) -> Problems:
        if self.residual and (len(self.layer_sizes) < 2 or len(set(self.layer_sizes)) > 1):
            text = "needs at least two layers of the same width, because a layer adds its input to its output"
            yield ("residual",), f"{text}; found layer_sizes {self.layer_sizes}"

    def _rates_fit(self) -> Problems:
        if self.dropout is None or self.dropout.rates is None:
            return
        is_before = self.dropout.position == "before_linear"
        expected = len(self.layer_sizes) if is_before else self._activations()
        if len(self.dropout.rates) != expected:
            which = "" if is_before else " with an activation"
            text = f"must have one rate per layer{which}, {expected}; found {len(self.dropout.rates)}"
            yield ("dropout", "rates"), text

    def _activations(self) -> int:
        """The number of layers that have an activation."""
        return len(self.layer_sizes)


class MlpConfig(_LayersConfig):
    """Linear → norm → activation → dropout in every layer except the last, which is a Linear."""

    kind: Literal["mlp"] = "mlp"
    layer_sizes: Annotated[list[PositiveInt], Field(min_length=1)]
    """Width of each layer."""
    final_layer_activation: bool = False
    """Whether the last layer also has the activation, and dropout if set."""
    final_layer_norm: bool = False
    """Whether the last layer also has the norm."""

    @model_validator(mode="before")
    @classmethod
    def _read_earlier_name(cls, values: Any) -> Any:
        """Model directories of an earlier recap state `final_layer_batch_norm`."""
        earlier = "final_layer_batch_norm"
        if not isinstance(values, dict) or earlier not in values or "final_layer_norm" in values:
            return values
        return {"final_layer_norm" if key == earlier else key: value for key, value in values.items()}

    def checks(self) -> tuple[Check, ...]:
        return *super().checks(), self._last_norm_is_set

    def _last_norm_is_set(self) -> Problems:
        if self.final_layer_norm and self.batch_norm is None and self.layer_norm is None:
            text = "needs batch_norm or layer_norm, and neither is set; add 'batch_norm: {}' or 'layer_norm: {}'"
            yield ("final_layer_norm",), text

    def _activations(self) -> int:
        return len(self.layer_sizes) - (0 if self.final_layer_activation else 1)


class EnsembleConfig(BaseConfig):
    """Members that share most weights and learn from losses of their own (TabM, arXiv:2410.24210).

    A member has its own scales of the inputs and outputs of every layer, its own biases, and its own Linear to the
    logit. The probability of the task is the mean of theirs; the raw output of a regression is the mean of theirs."""

    members: Annotated[int, Field(ge=2, le=MAX_INT)]
    """The number of members; the cost of the network grows with it. The paper has 32."""


class MlpBackboneConfig(MlpConfig):
    """Linear → norm → activation → dropout in every layer except the last, which is a Linear."""

    ensemble: EnsembleConfig | None = None
    """An ensemble of such networks that share most weights. Every tower, an MLP, continues its members: each reads the
    output of its own, and has scales, biases and a loss of its own. Optional; off by default."""


class MlpTowerConfig(_LayersConfig):
    """An MLP tower: hidden layers, Linear → norm → activation → dropout each, then a Linear to the task's logit."""

    kind: Literal["mlp"]
    layer_sizes: list[PositiveInt] = []
    """Width of each hidden layer."""
    ensemble: EnsembleConfig | None = None
    """An ensemble of such towers that share most weights. Optional; off by default."""

    def checks(self) -> tuple[Check, ...]:
        return *super().checks(), self._members_have_layers

    def _members_have_layers(self) -> Problems:
        if self.ensemble is not None and not self.layer_sizes:
            yield ("ensemble",), "needs hidden layers, which the members share; set layer_sizes, or remove ensemble"


class XavierUniformConfig(BaseConfig):
    """Uniform within ± √(6 / (inputs + outputs)) (Glorot and Bengio, AISTATS 2010)."""

    kind: Literal["xavier_uniform"]


class XavierNormalConfig(BaseConfig):
    """Normal with deviation √(2 / (inputs + outputs)) (Glorot and Bengio, AISTATS 2010)."""

    kind: Literal["xavier_normal"]


class KaimingUniformConfig(BaseConfig):
    """Uniform within ± √(6 / inputs) (He et al., arXiv:1502.01852)."""

    kind: Literal["kaiming_uniform"]


class KaimingNormalConfig(BaseConfig):
    """Normal with deviation √(2 / inputs) (He et al., arXiv:1502.01852)."""

    kind: Literal["kaiming_normal"]


class NormalConfig(BaseConfig):
    """Normal with one deviation for all layers."""

    kind: Literal["normal"]
    std: PositiveFloat
    """The standard deviation."""


LayerInitializationConfig = Annotated[
    XavierUniformConfig | XavierNormalConfig | KaimingUniformConfig | KaimingNormalConfig | NormalConfig,
    Field(discriminator="kind"),
]


class EmbeddingInitializationConfig(BaseConfig):
    """Rows of embedding tables start normal around 0; those of unknown values start at 0."""

    std: PositiveFloat = 0.01
    """The standard deviation."""


class InitializationConfig(BaseConfig):
    """Where the weights of a new run start."""

    layers: LayerInitializationConfig = XavierUniformConfig(kind="xavier_uniform")
    """The weights of Linear layers, and of other products; their biases start at 0."""
    embeddings: EmbeddingInitializationConfig = EmbeddingInitializationConfig()
    """The rows of embedding tables, also of that of positions; `pretrained` rows replace them."""
