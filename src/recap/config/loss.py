"""Objectives and losses: what a task predicts, and what training minimizes."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from recap.config.base import BaseConfig, FreeOnResume, Name, NonNegativeFloat, PositiveFloat


class BceConfig(BaseConfig):
    """Binary cross entropy."""

    kind: Literal["bce"]


class FocalConfig(BaseConfig):
    """Focal loss (arXiv:1708.02002): binary cross entropy times (1 − p)^gamma, where p is the probability of the label.
    Easy examples count less. Probabilities are underconfident, so use it for ranking only."""

    kind: Literal["focal"]
    gamma: NonNegativeFloat = 2.0
    """Exponent: the higher, the less easy examples count. 0 is binary cross entropy."""


BinaryLossConfig = Annotated[BceConfig | FocalConfig, Field(discriminator="kind")]


class MseConfig(BaseConfig):
    """Squared error."""

    kind: Literal["mse"]


class MaeConfig(BaseConfig):
    """Absolute error."""

    kind: Literal["mae"]


class HuberConfig(BaseConfig):
    """Huber loss: error² / 2 for absolute errors up to `delta`, delta · (|error| − delta / 2) above."""

    kind: Literal["huber"]
    delta: PositiveFloat = 1.0
    """The error above which the loss is linear, in the unit of the transformed label."""


RegressionLossConfig = Annotated[MseConfig | MaeConfig | HuberConfig, Field(discriminator="kind")]


class BinaryConfig(BaseConfig):
    """A binary task: labels are 0 or 1, and the prediction is a probability."""

    kind: Literal["binary"]


class RegressionConfig(BaseConfig):
    """A regression task: labels are numbers, and the prediction is a value in their unit."""

    kind: Literal["regression"]
    transform: Literal["none", "log1p"] = "none"
    """The quantity that the tower predicts: the label, or log(1 + label) for labels ≥ 0."""
    loss: RegressionLossConfig = MseConfig(kind="mse")
    """The loss on the difference between the tower's output and the transformed label."""


ObjectiveConfig = Annotated[BinaryConfig | RegressionConfig, Field(discriminator="kind")]


class TriBceConfig(BaseConfig):
    """Tri-BCE (arXiv:2407.13349): each of the two networks of `dcn_v3` also has the task's loss on its own logit.

    Its weight is the amount by which this loss exceeds that of the mean of the two logits, the task's own. Needs towers
    that read both networks with one Linear: `tower: {kind: mlp}` without `layer_sizes`, or `dcn_v3` as the tower."""

    kind: Literal["tri_bce"]


class SelfEnsembleConfig(BaseConfig):
    """Self-ensemble loss (arXiv:2505.17999): every row passes twice, each time with dropout of its own.

    The task's loss is that of the mean prediction, and each pass has a loss towards this mean. A step takes about twice
    as long; evaluation has one pass, without dropout."""

    kind: Literal["self_ensemble"]


AuxiliaryLossConfig = Annotated[TriBceConfig | SelfEnsembleConfig, Field(discriminator="kind")]


class RankingLossConfig(BaseConfig):
    """A loss on the order of the rows of a group, in addition to the task's own."""

    weight: PositiveFloat
    """Weight of this loss relative to the task's own."""
    group: Literal["user", "request"] = "user"
    """The rows that are compared with each other: those of a `user` (`features.user`), or of a `request`
    (`features.request`), in a micro-batch."""


class PairwiseConfig(RankingLossConfig):
    """RankNet loss (Burges et al., ICML 2005).

    The mean of log(1 + exp(logit of the negative − logit of the positive)) over all pairs of a positive and a negative
    of the same group; 0 if there are none."""


class ListwiseConfig(RankingLossConfig):
    """Softmax cross entropy of lists (Cao et al., ICML 2007).

    The mean of −log(exp(logit of the positive) / Σ exp(logits of its group)) over all positives of groups of several
    rows; 0 if there are none."""


class JrcConfig(RankingLossConfig):
    """Joint optimization of ranking and calibration (JRC, arXiv:2208.06164).

    The tower has two outputs, a logit for each label; their difference is the logit of the task. The mean over all rows
    of −log(exp(logit for the row's label) / Σ exp(logits for that label in its group)). alpha · cross entropy +
    (1 − alpha) · ranking, as published, is a weight of (1 − alpha) / alpha."""


class _DistillationConfig(BaseConfig):
    """A loss towards the predictions of a teacher; `kind` comes first."""

    kind: str
    weight: PositiveFloat = 1.0
    """Weight of this loss relative to the task's own."""
    temperature: PositiveFloat = 1.0
    """Divides the logits of both; above 1, small differences between small probabilities count more."""


class ColumnTeacherConfig(_DistillationConfig):
    """A loss towards the predictions of a teacher, in addition to that on labels (Hinton et al., arXiv:1503.02531).

    They are in a column of the training data."""

    kind: Literal["data"] = "data"
    column: Name
    """Column of the training data with the teacher's calibrated probability, or its value for a regression; null where
    it is unknown."""


class ModelTeacherConfig(_DistillationConfig):
    """A loss towards the predictions of a teacher, in addition to that on labels (Hinton et al., arXiv:1503.02531).

    A model makes them during training, from the same rows."""

    kind: Literal["model"]
    directory: Annotated[Name, FreeOnResume()]
    """Model directory of the teacher, or a run, whose latest checkpoint is used. The training data must have the
    columns that it reads. It may move, but must not change while the run can be resumed."""
    task: Name | None = None
    """The task of the teacher. Optional; default: the one of the same name."""


def _kind(value: Any) -> str:
    """Discriminator of `DistillationConfig`: a column unless `kind` is set, or there is a directory."""
    if not isinstance(value, dict):
        return str(getattr(value, "kind", "data"))
    return str(value.get("kind", "model" if "directory" in value else "data"))


DistillationConfig = Annotated[
    Annotated[ColumnTeacherConfig, Tag("data")] | Annotated[ModelTeacherConfig, Tag("model")],
    Discriminator(_kind),
]
