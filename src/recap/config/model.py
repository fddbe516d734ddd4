"""What the network is made of. Shapes use B rows, T tasks, E embedding width."""

from typing import Annotated, Literal

from pydantic import Field

from recap.config.backbones import BackboneConfig, MaskNetConfig
from recap.config.base import BaseConfig, Disagreements, Name, NonNegativeInt, PositiveFloat, PositiveInt
from recap.config.featurization import DoubleNormLogConfig
from recap.config.loss import (
    BceConfig,
    BinaryConfig,
    BinaryLossConfig,
    ObjectiveConfig,
    PairwiseConfig,
    RegressionConfig,
)
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
    """One task: the tower that predicts it, what it predicts, and how its loss counts."""

    tower: TowerConfig
    """The network that gives the logit, or the raw value of a regression."""
    affine_map: AffineMapConfig | None = None
    """A learned line on the logit; none given: none."""
    objective: ObjectiveConfig = BinaryConfig(kind="binary")
    """What the task predicts: whether something happens, or how much of it."""
    loss: BinaryLossConfig = BceConfig(kind="bce")
    """What a binary task minimises; that of a regression stands in its objective."""
    pos_weight: PositiveFloat = 1.0
    """Multiplies the loss of positives."""
    loss_weight: PositiveFloat = 1.0
    """Multiplies the task's loss in the mean over tasks that training minimises."""
    pairwise: PairwiseConfig | None = None
    """A loss on the order of each user's rows, beside the task's own; none given: none."""

    def checks(self) -> tuple[Disagreements, ...]:
        """What speaks of positives, where there are none."""
        return (self._positives_are_there(),)

    def _positives_are_there(self) -> Disagreements:
        if isinstance(self.objective, RegressionConfig):
            if not isinstance(self.loss, BceConfig):
                yield (
                    ("loss",),
                    f"{self.loss.kind} is of binary tasks; that of a regression is objective.loss: mse, mae or huber",
                )
            if self.pos_weight != 1:
                yield ("pos_weight",), "a regression task has no positives; leave it out, or use loss_weight"
            if self.pairwise is not None:
                yield ("pairwise",), "a regression task has no positives and negatives to pair; leave it out"


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
