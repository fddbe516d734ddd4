"""What the network is made of. Shapes use B rows, T tasks, E embedding width."""

from typing import Annotated, Literal

from pydantic import Field

from recap.config.base import (
    BaseConfig,
    Disagreements,
    DropRate,
    Epsilon,
    Name,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Rate,
)


class BatchNormConfig(BaseConfig):
    """BatchNorm over the rows of a micro-batch."""

    affine: bool = True
    """Whether a learned scale and shift follow."""
    momentum: Rate = 0.1
    """Share of a new micro-batch in the running statistics."""


class LayerNormConfig(BaseConfig):
    """LayerNorm over the features of a row."""

    epsilon: Epsilon = 1e-3
    """Added to the variance."""
    affine: bool = True
    """Whether a learned scale and shift follow."""


class DropoutConfig(BaseConfig):
    """Dropout of activations while training."""

    rate: DropRate = 0.1
    """Probability that an activation is dropped."""


class DoubleNormLogConfig(BaseConfig):
    """Non-finite → 0, sign(x)·log1p|x|, BatchNorm, clamp, join binary features, LayerNorm."""

    kind: Literal["double_norm_log"] = "double_norm_log"
    batch_norm: BatchNormConfig | None = BatchNormConfig(momentum=0.01)
    """Over continuous features."""
    clip_magnitude: PositiveFloat = 5.0
    """Continuous features are clamped to ± this after BatchNorm."""
    layer_norm: LayerNormConfig | None = LayerNormConfig()
    """Over continuous and binary features together."""


class MlpConfig(BaseConfig):
    """Linear → BatchNorm → ReLU → Dropout for every layer but the last; the last is Linear."""

    kind: Literal["mlp"] = "mlp"
    layer_sizes: Annotated[list[PositiveInt], Field(min_length=1)]
    """Width of each layer."""
    batch_norm: BatchNormConfig | None = None
    """After the Linear of every layer but the last; none given: none."""
    dropout: DropoutConfig | None = None
    """After each ReLU; none given: none."""
    final_layer_activation: bool = False
    """ReLU (and the dropout, if there is one) after the last layer too."""


class MaskBlockConfig(BaseConfig):
    """One instance-guided mask block (MaskNet, arXiv:2102.07619)."""

    output_size: PositiveInt
    """Width of what the block gives."""
    aggregation_size: PositiveInt | None = None
    """Width of the mask's hidden layer."""
    reduction_factor: PositiveFloat | None = None
    """The same as a multiple of the width of the mask's input."""
    input_layer_norm: bool = False
    """LayerNorm of what is masked, before it is."""
    relu: bool = False
    """ReLU after the block's LayerNorm, as in the paper; the published ranker has none."""

    def checks(self) -> tuple[Disagreements, ...]:
        """Two widths, or none."""
        return (self._one_width(),)

    def _one_width(self) -> Disagreements:
        if (self.aggregation_size is None) == (self.reduction_factor is None):
            found = "none" if self.aggregation_size is None else "both"
            yield (), f"exactly one of aggregation_size and reduction_factor must be set; found {found}"


class MaskNetConfig(BaseConfig):
    """MaskNet: mask blocks side by side or one after the other, then an optional MLP."""

    kind: Literal["mask_net"]
    mask_blocks: Annotated[list[MaskBlockConfig], Field(min_length=1)]
    """The blocks, in order."""
    use_parallel: bool = False
    """Blocks side by side on the input, outputs concatenated; otherwise each reads the one before it."""
    mlp: MlpConfig | None = None
    """What reads the blocks together; none given: their output is the output."""


BackboneConfig = Annotated[MlpConfig | MaskNetConfig, Field(discriminator="kind")]


class MlpTowerConfig(BaseConfig):
    """An MLP tower; a last Linear to the task's logit follows `layer_sizes`."""

    kind: Literal["mlp"]
    layer_sizes: list[PositiveInt] = []
    """Hidden layers: Linear → BatchNorm → ReLU → Dropout each."""
    batch_norm: BatchNormConfig | None = None
    """After the Linear of every hidden layer; none given: none."""
    dropout: DropoutConfig | None = None
    """After each ReLU; none given: none."""


TowerConfig = Annotated[MlpTowerConfig | MaskNetConfig, Field(discriminator="kind")]


class AffineMapConfig(BaseConfig):
    """logit → scale · logit + bias, both learned from these values."""

    scale: float = 1.0
    """First value of the scale."""
    bias: float = 0.0
    """First value of the bias."""


class TaskConfig(BaseConfig):
    """One task: the tower that predicts it and how its loss counts."""

    tower: TowerConfig
    """The network that gives the logit."""
    affine_map: AffineMapConfig | None = None
    """A learned line on the logit; none given: none."""
    pos_weight: PositiveFloat = 1.0
    """Multiplies the loss of positives."""


class ShareAllConfig(BaseConfig):
    """Every tower reads the backbone's output."""

    kind: Literal["share_all"]


class ShareNoneConfig(BaseConfig):
    """Every tower reads the inputs; there is no backbone."""

    kind: Literal["share_none"]


class SharePartialConfig(BaseConfig):
    """Every tower reads the inputs and the backbone's output, joined."""

    kind: Literal["share_partial"]


SharingConfig = Annotated[ShareAllConfig | ShareNoneConfig | SharePartialConfig, Field(discriminator="kind")]


class ModelConfig(BaseConfig):
    """The section `model`."""

    featurization: DoubleNormLogConfig = DoubleNormLogConfig()
    """What makes numbers of any magnitude fit for a network."""
    embeddings: dict[Name, NonNegativeInt] = {}
    """Embedding width of each discrete feature; `default` stands for those not named, 0 leaves one out."""
    backbone: BackboneConfig | None = None
    """The network that tasks share; required by every sharing but share_none."""
    sharing: SharingConfig = ShareNoneConfig(kind="share_none")
    """What a tower reads."""
    tasks: Annotated[dict[Name, TaskConfig], Field(min_length=1)]
    """The tasks; their order here is the order of the task axis everywhere."""

    def checks(self) -> tuple[Disagreements, ...]:
        """A backbone that nothing reads, or none to read."""
        return (self._backbone_is_read(),)

    def _backbone_is_read(self) -> Disagreements:
        shares_none = isinstance(self.sharing, ShareNoneConfig)
        if shares_none and self.backbone is not None:
            yield (
                ("sharing",),
                "share_none has no backbone, but model.backbone is set; "
                "use 'sharing: {kind: share_all}' (or share_partial), or leave model.backbone out",
            )
        if not shares_none and self.backbone is None:
            yield ("sharing",), f"{self.sharing.kind} needs model.backbone; add one, or use share_none"
