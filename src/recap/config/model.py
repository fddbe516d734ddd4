"""The section `model`: the network and its tasks."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer

from recap.config.backbones import BackboneConfig, CrossConfig
from recap.config.base import (
    BaseConfig,
    Check,
    Name,
    NonNegativeInt,
    OrderMatters,
    PositiveFloat,
    PositiveInt,
    Problems,
)
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
from recap.config.network import BatchNormConfig, DropoutConfig, dropout_problems
from recap.config.sharing import SHARED, CascadeConfig, CgcConfig, PleConfig, ShareNoneConfig, SharingConfig
from recap.text import suggest


class PretrainedConfig(BaseConfig):
    """Pretrained rows of a table. A new run starts from them and continues to train them."""

    path: Name
    """Parquet file, a glob of them, or a URL, with one row per value."""
    id: Name = "id"
    """Column of the values: codes, or entries of the vocabulary. Values unknown to the table are skipped; rows of the
    table without a value here are initialized as usual."""
    vector: Name = "vector"
    """Column of the vectors: lists of numbers, as long as the table is wide."""


class EmbeddingConfig(BaseConfig):
    """An embedding table. In YAML, a number alone is its width."""

    width: NonNegativeInt
    """Numbers per row; 0 removes the feature from the model's inputs."""
    pretrained: PretrainedConfig | None = None
    """Pretrained rows. Optional; default: all rows start near zero."""

    def checks(self) -> tuple[Check, ...]:
        return (self._has_rows,)

    def _has_rows(self) -> Problems:
        if self.pretrained is not None and not self.width:
            yield ("pretrained",), "width 0 removes the feature, so there is no table; give it a width"


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
    """An MLP tower: hidden layers, then a Linear to the task's logit."""

    kind: Literal["mlp"]
    layer_sizes: list[PositiveInt] = []
    """Width of each hidden layer: Linear → BatchNorm → ReLU → Dropout."""
    batch_norm: BatchNormConfig | None = None
    """BatchNorm after the Linear of every hidden layer. Optional; off by default."""
    dropout: DropoutConfig | None = None
    """Dropout after every ReLU. Optional; off by default."""

    def checks(self) -> tuple[Check, ...]:
        return (lambda: dropout_problems(self.dropout, len(self.layer_sizes)),)


TowerConfig = Annotated[MlpTowerConfig | CrossConfig, Field(discriminator="kind")]
"""Any network, followed by a Linear to the task's logit."""


class AffineMapConfig(BaseConfig):
    """logit → scale · logit + bias, with learned scale and bias."""

    scale: float = 1.0
    """Initial value of the scale."""
    bias: float = 0.0
    """Initial value of the bias."""


class TaskConfig(BaseConfig):
    """One task: its tower, its objective and the weight of its loss."""

    tower: TowerConfig
    """The network that predicts the logit, or the raw value of a regression."""
    affine_map: AffineMapConfig | None = None
    """A learned affine map of the logit. Optional; off by default."""
    objective: ObjectiveConfig = BinaryConfig(kind="binary")
    """`binary` predicts whether something happens, `regression` predicts a number."""
    loss: BinaryLossConfig = BceConfig(kind="bce")
    """The loss of a binary task; a regression sets `objective.loss` instead."""
    pos_weight: PositiveFloat = 1.0
    """Factor of the loss of positives."""
    loss_weight: PositiveFloat = 1.0
    """Factor of the task's loss in the mean over tasks that training minimizes."""
    pairwise: PairwiseConfig | None = None
    """An additional loss on the order of each user's rows. Optional; off by default."""

    def checks(self) -> tuple[Check, ...]:
        return (self._regression_has_no_positives,)

    def _regression_has_no_positives(self) -> Problems:
        if isinstance(self.objective, RegressionConfig):
            if not isinstance(self.loss, BceConfig):
                yield (
                    ("loss",),
                    f"{self.loss.kind} is a loss of binary tasks; a regression sets objective.loss: mse, mae or huber",
                )
            if self.pos_weight != 1:
                yield ("pos_weight",), "a regression task has no positives; remove it, or use loss_weight"
            if self.pairwise is not None:
                yield ("pairwise",), "a regression task has no positives and negatives to pair; remove it"


class PositionDebiasConfig(BaseConfig):
    """Position debias: the model reads the position of a candidate in training, and never when it scores.

    Effects that only the position explains are then attributed to the position. Its embedding is joined to the inputs;
    in training it is hidden at random, so that the network also learns to predict without it."""

    feature: Name
    """The discrete feature of the position: one integer code per row, from 0. It has no entry in `model.embeddings`. A
    position that is null or not below the feature's `size` is hidden."""
    max_position: PositiveInt = 256
    """Positions from this one on share a bucket."""
    num_dims: PositiveInt = 64
    """Width of the embedding."""
    drop_probability: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Probability with which a row's position is hidden in training."""
    scored_at: Literal["hidden", "average"] = "hidden"
    """What replaces the position in evaluation and prediction. `hidden`: the network predicts without one, which gives
    the rate of such rows where they are usually shown. `average`: the mean embedding of all positions, weighted by
    their frequency in training, which compares rows as if all were shown at the same positions."""


class ModelConfig(BaseConfig):
    """The section `model`."""

    featurization: FeaturizationConfig = DoubleNormLogConfig()
    """How continuous features are normalized."""
    embeddings: dict[Name, Embedding] = {}
    """Embedding width, or {width, pretrained}, of each discrete feature, and of each history whose ids have their own
    table. `default` applies to those not listed; 0 removes a feature from the inputs."""
    histories: dict[Name, HistoryModelConfig] = {}
    """The encoder of each history; `default` applies to those not listed."""
    position_debias: PositionDebiasConfig | None = None
    """Keeps the effect of the position out of the scores. Optional; off by default."""
    backbone: BackboneConfig | None = None
    """The network that tasks share; required unless `sharing` is `share_none`."""
    sharing: SharingConfig = ShareNoneConfig(kind="share_none")
    """What each tower reads: the backbone, the inputs, or a mixture of experts."""
    cascade: CascadeConfig | None = None
    """A chain of tasks that depend on each other, such as click → like. Optional; default: tasks are independent."""
    tasks: Annotated[dict[Name, TaskConfig], Field(min_length=1), OrderMatters()]
    """The tasks; their order here is the order of the task axis everywhere."""

    @property
    def widths(self) -> dict[str, int]:
        """The width of each table in `embeddings`."""
        return {name: table.width for name, table in self.embeddings.items()}

    @property
    def regressions(self) -> list[str]:
        """The regression tasks, in the order of tasks."""
        return [name for name, task in self.tasks.items() if isinstance(task.objective, RegressionConfig)]

    def checks(self) -> tuple[Check, ...]:
        return self._backbone_is_read, self._no_task_is_the_shared_part, self._chain_is_of_tasks

    def _backbone_is_read(self) -> Problems:
        shares_none = isinstance(self.sharing, ShareNoneConfig)
        if shares_none and self.backbone is not None:
            yield (
                ("sharing",),
                "share_none has no backbone, but model.backbone is set; "
                "use 'sharing: {kind: share_all}' (or share_partial), or remove model.backbone",
            )
        if not shares_none and self.backbone is None:
            yield ("sharing",), f"{self.sharing.kind} needs model.backbone; add one, or use share_none"

    def _no_task_is_the_shared_part(self) -> Problems:
        if isinstance(self.sharing, CgcConfig | PleConfig) and SHARED in self.tasks:
            yield (
                ("tasks", SHARED),
                f"{SHARED!r} is the name of the shared experts of {self.sharing.kind}; rename the task",
            )

    def _chain_is_of_tasks(self) -> Problems:
        for index, task in enumerate(self.cascade.chain if self.cascade is not None else ()):
            if task not in self.tasks:
                yield ("cascade", "chain", index), f"unknown task {task!r}. {suggest(task, list(self.tasks))}"
