"""What the network is made of. Shapes use B rows, T tasks, E embedding width."""

from typing import Annotated, Literal

from pydantic import Field

from recap.config.base import BaseConfig, DropRate, Name, NonNegativeInt, PositiveFloat, PositiveInt, Rate


class BatchNormConfig(BaseConfig):
    """BatchNorm over the rows of a micro-batch."""

    affine: bool = True
    momentum: Rate = 0.1


class LayerNormConfig(BaseConfig):
    """LayerNorm over the features of a row."""

    epsilon: PositiveFloat = 1e-3
    affine: bool = True


class DropoutConfig(BaseConfig):
    """Dropout of activations while training."""

    rate: DropRate = 0.1


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
    batch_norm: BatchNormConfig | None = None
    dropout: DropoutConfig | None = None
    final_layer_activation: bool = False
    """ReLU (and the dropout, if there is one) after the last layer too."""


class MaskBlockConfig(BaseConfig):
    """One instance-guided mask block (MaskNet, arXiv:2102.07619)."""

    output_size: PositiveInt
    aggregation_size: PositiveInt | None = None
    """Width of the mask's hidden layer."""
    reduction_factor: PositiveFloat | None = None
    """The same as a multiple of the width of the mask's input."""
    input_layer_norm: bool = False
    relu: bool = False
    """ReLU after the block's LayerNorm, as in the paper; the published ranker has none."""


class MaskNetConfig(BaseConfig):
    """MaskNet: mask blocks side by side or one after the other, then an optional MLP."""

    kind: Literal["mask_net"]
    mask_blocks: Annotated[list[MaskBlockConfig], Field(min_length=1)]
    use_parallel: bool = False
    """Blocks side by side on the input, outputs concatenated; otherwise each reads the one before it."""
    mlp: MlpConfig | None = None


BackboneConfig = Annotated[MlpConfig | MaskNetConfig, Field(discriminator="kind")]


class MlpTowerConfig(BaseConfig):
    """An MLP tower; a last Linear to the task's logit follows `layer_sizes`."""

    kind: Literal["mlp"]
    layer_sizes: list[PositiveInt] = []
    """Hidden layers: Linear → BatchNorm → ReLU → Dropout each."""
    batch_norm: BatchNormConfig | None = None
    dropout: DropoutConfig | None = None


TowerConfig = Annotated[MlpTowerConfig | MaskNetConfig, Field(discriminator="kind")]


class AffineMapConfig(BaseConfig):
    """logit → scale · logit + bias, both learned from these values."""

    scale: float = 1.0
    bias: float = 0.0


class TaskConfig(BaseConfig):
    """One task: the tower that predicts it and how its loss counts."""

    tower: TowerConfig
    affine_map: AffineMapConfig | None = None
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
    embeddings: dict[Name, NonNegativeInt] = {}
    """Embedding width of each discrete feature; `default` stands for those not named, 0 leaves one out."""
    backbone: BackboneConfig | None = None
    sharing: SharingConfig = ShareNoneConfig(kind="share_none")
    tasks: Annotated[dict[Name, TaskConfig], Field(min_length=1)]
    """The tasks; their order here is the order of the task axis everywhere."""
