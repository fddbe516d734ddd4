"""What the network is made of. Shapes use B rows, T tasks, E embedding width."""

from typing import Annotated, Literal

from pydantic import Field

from recap.config.backbones import BackboneConfig, MaskNetConfig
from recap.config.base import BaseConfig, Disagreements, Name, NonNegativeInt, PositiveFloat, PositiveInt
from recap.config.featurization import DoubleNormLogConfig, FeaturizationConfig
from recap.config.network import BatchNormConfig, DropoutConfig
from recap.config.sharing import ShareNoneConfig, SharingConfig


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


class PositionDebiasConfig(BaseConfig):
    """The position a candidate was shown at, learned from in training and hidden ever after.

    What only the position explains is then learned of the position. Its embedding is joined to the inputs; in training
    each row's position is hidden with a probability, so that the network knows what to do without one."""

    feature: Name
    """The discrete feature of integer codes, one a row, that holds the position, counted from 0. It has no other
    embedding; a position that is null, or not below the feature's `size`, is hidden."""
    max_position: PositiveInt = 256
    """Positions from here on share a bucket."""
    num_dims: PositiveInt = 64
    """Width of the embedding."""
    drop_probability: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Probability that the position of a row is hidden in training."""


class ModelConfig(BaseConfig):
    """The section `model`."""

    featurization: FeaturizationConfig = DoubleNormLogConfig()
    """What makes numbers of any magnitude fit for a network."""
    embeddings: dict[Name, NonNegativeInt] = {}
    """Embedding width of each discrete feature; `default` stands for those not named, 0 leaves one out."""
    position_debias: PositionDebiasConfig | None = None
    """What keeps the effect of a position out of the scores; none given: nothing does."""
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
