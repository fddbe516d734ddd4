"""What the network is made of. Shapes use B rows, T tasks, E embedding width."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer

from recap.config.backbones import BackboneConfig, CrossConfig
from recap.config.base import BaseConfig, Check, Name, NonNegativeInt, PositiveFloat, PositiveInt, Problems
from recap.config.featurization import DoubleNormLogConfig, FeaturizationConfig
from recap.config.histories import HistoryModelConfig
from recap.config.loss import (
    BceConfig,
    BinaryConfig,
    BinaryLossConfig,
    ObjectiveConfig,
    PairwiseConfig,
    RegressionConfig,
)
from recap.config.network import BatchNormConfig, DropoutConfig, rates_fit
from recap.config.sharing import SHARED, CascadeConfig, CgcConfig, PleConfig, ShareNoneConfig, SharingConfig
from recap.text import suggest


class PretrainedConfig(BaseConfig):
    """Rows of a table that were learned elsewhere. A new run starts from them, and learns on."""

    path: Name
    """Parquet file, or a glob of such files, with a row for each value; a URL may stand here too."""
    id: Name = "id"
    """Its column of values: codes, or what the vocabulary lists. Values that the table does not know are passed over,
    and rows of the table that are not among them start as they would without."""
    vector: Name = "vector"
    """Its column of lists of numbers, as long as the table is wide."""


class EmbeddingConfig(BaseConfig):
    """An embedding table; in YAML its width alone may stand for it."""

    width: NonNegativeInt
    """Numbers in a row; 0 leaves the feature out."""
    pretrained: PretrainedConfig | None = None
    """Rows that were learned elsewhere; none given: all rows start close to zero."""

    def checks(self) -> tuple[Check, ...]:
        """Rows for a table that is not there."""
        return (self._has_rows,)

    def _has_rows(self) -> Problems:
        if self.pretrained is not None and not self.width:
            yield ("pretrained",), "width 0 leaves the feature out, so there is no table; give it a width"


def _of_width(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | dict | EmbeddingConfig):
        raise ValueError("expected a whole number, the width, or {width: …, pretrained: …}")
    return {"width": value} if isinstance(value, int) else value


def _shortest(table: EmbeddingConfig) -> int | dict[str, Any]:
    return table.width if table.pretrained is None else table.model_dump(mode="json", exclude_defaults=True)


Embedding = Annotated[
    EmbeddingConfig,
    BeforeValidator(_of_width, json_schema_input_type=NonNegativeInt | EmbeddingConfig),
    PlainSerializer(_shortest, when_used="json"),
]


class MlpTowerConfig(BaseConfig):
    """An MLP tower; a last Linear to the task's logit follows `layer_sizes`."""

    kind: Literal["mlp"]
    layer_sizes: list[PositiveInt] = []
    """Hidden layers: Linear → BatchNorm → ReLU → Dropout each."""
    batch_norm: BatchNormConfig | None = None
    """After the Linear of every hidden layer; none given: none."""
    dropout: DropoutConfig | None = None
    """After each ReLU; none given: none."""

    def checks(self) -> tuple[Check, ...]:
        """Rates of dropout for other layers than there are."""
        return (lambda: rates_fit(self.dropout, len(self.layer_sizes)),)


TowerConfig = Annotated[MlpTowerConfig | CrossConfig, Field(discriminator="kind")]
"""Any network; a last Linear to the task's logit follows it."""


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

    def checks(self) -> tuple[Check, ...]:
        """What speaks of positives, where there are none."""
        return (self._positives_are_there,)

    def _positives_are_there(self) -> Problems:
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
    scored_at: Literal["hidden", "average"] = "hidden"
    """What stands for the position in evaluation and prediction: what the network learned to do without one, which is
    what rows like this one get where they are shown; or the mean of the embeddings of positions, each as often as
    training met it, under which rows are compared as if all were shown alike."""


class ModelConfig(BaseConfig):
    """The section `model`."""

    featurization: FeaturizationConfig = DoubleNormLogConfig()
    """What makes numbers of any magnitude fit for a network."""
    embeddings: dict[Name, Embedding] = {}
    """Embedding width, or {width, pretrained}, of each discrete feature, and of each history whose ids have a table of
    their own; `default` stands for those not named, 0 leaves a feature out."""
    histories: dict[Name, HistoryModelConfig] = {}
    """What becomes of each history; `default` stands for those not named."""
    position_debias: PositionDebiasConfig | None = None
    """What keeps the effect of a position out of the scores; none given: nothing does."""
    backbone: BackboneConfig | None = None
    """The network that tasks share; required by every sharing but share_none."""
    sharing: SharingConfig = ShareNoneConfig(kind="share_none")
    """What a tower reads."""
    cascade: CascadeConfig | None = None
    """Tasks that follow from each other, such as click → like; none given: each stands for itself."""
    tasks: Annotated[dict[Name, TaskConfig], Field(min_length=1)]
    """The tasks; their order here is the order of the task axis everywhere."""

    @property
    def widths(self) -> dict[str, int]:
        """The width of each table that `embeddings` names."""
        return {name: table.width for name, table in self.embeddings.items()}

    @property
    def regressions(self) -> list[str]:
        """The regression tasks, in the order of tasks."""
        return [name for name, task in self.tasks.items() if isinstance(task.objective, RegressionConfig)]

    def checks(self) -> tuple[Check, ...]:
        """A backbone that nothing reads, or none to read; a task called as another part is; a chain of no tasks."""
        return self._backbone_is_read, self._no_task_is_the_shared_part, self._chain_is_of_tasks

    def _backbone_is_read(self) -> Problems:
        shares_none = isinstance(self.sharing, ShareNoneConfig)
        if shares_none and self.backbone is not None:
            yield (
                ("sharing",),
                "share_none has no backbone, but model.backbone is set; "
                "use 'sharing: {kind: share_all}' (or share_partial), or leave model.backbone out",
            )
        if not shares_none and self.backbone is None:
            yield ("sharing",), f"{self.sharing.kind} needs model.backbone; add one, or use share_none"

    def _no_task_is_the_shared_part(self) -> Problems:
        if isinstance(self.sharing, CgcConfig | PleConfig) and SHARED in self.tasks:
            yield (
                ("tasks", SHARED),
                f"{SHARED!r} is what {self.sharing.kind} calls the experts of all tasks; rename the task",
            )

    def _chain_is_of_tasks(self) -> Problems:
        for index, task in enumerate(self.cascade.chain if self.cascade is not None else ()):
            if task not in self.tasks:
                yield (
                    ("cascade", "chain", index),
                    f"{task!r} is no task of this configuration. {suggest(task, list(self.tasks))}",
                )
