"""The section `model`: the network and its tasks."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer

from recap.config.backbones import BackboneConfig, CrossConfig
from recap.config.base import (
    BaseConfig,
    Check,
    FreeOnResume,
    KeyPath,
    Name,
    NonNegativeInt,
    OrderMatters,
    PositiveFloat,
    PositiveInt,
    Problems,
)
from recap.config.featurization import DoubleNormLogConfig, FeaturizationConfig, NumbersConfig
from recap.config.histories import HistoryModelConfig
from recap.config.loss import (
    AuxiliaryLossConfig,
    BceConfig,
    BinaryConfig,
    BinaryLossConfig,
    DistillationConfig,
    JrcConfig,
    ListwiseConfig,
    ObjectiveConfig,
    PairwiseConfig,
    RankingLossConfig,
    RegressionConfig,
)
from recap.config.network import EnsembleConfig, InitializationConfig, MlpBackboneConfig, MlpTowerConfig
from recap.config.sharing import (
    SHARED,
    CascadeConfig,
    CgcConfig,
    DbmtlConfig,
    DeepEnsembleConfig,
    PleConfig,
    ScenarioConfig,
    ShareNoneConfig,
    SharingConfig,
    StemConfig,
)
from recap.text import suggest


class PretrainedConfig(BaseConfig):
    """Pretrained rows of a table, from which a new run starts; they are trained further."""

    path: Name
    """Parquet file, a glob of them, or a URL, with one row per value."""
    id: Name = "id"
    """Column of the values: codes, or entries of the vocabulary. Unknown values are skipped; rows of the table without
    a value are initialized as usual."""
    vector: Name = "vector"
    """Column of the vectors: lists of `width` numbers."""


class NarrowConfig(BaseConfig):
    """The rarer values of a vocabulary."""

    after: PositiveInt
    """Number of values before them, which are more frequent: a place in the vocabulary."""
    width: PositiveInt
    """Width of their rows."""


class EmbeddingConfig(BaseConfig):
    """An embedding table. In YAML, a number is its width."""

    width: NonNegativeInt
    """Width of a row; 0 removes the feature from the model's inputs."""
    pretrained: PretrainedConfig | None = None
    """Pretrained rows. Optional; default: all rows start near zero."""
    narrow: list[NarrowConfig] = []
    """Narrower rows for rare values of a vocabulary in the order of frequency, each lifted to `width` by a projection
    (arXiv:1909.11810). An entry applies up to the place of the next one. Optional; default: all rows have `width`."""

    def checks(self) -> tuple[Check, ...]:
        return self._has_rows, self._narrows

    def _has_rows(self) -> Problems:
        if self.pretrained is not None and not self.width:
            yield ("pretrained",), "needs a table, but width 0 removes it; set width above 0, or remove pretrained"

    def _narrows(self) -> Problems:
        if self.narrow and not self.width:
            yield ("narrow",), "needs a table, but width 0 removes it; set width above 0, or remove narrow"
        elif self.narrow and self.pretrained is not None:
            yield ("narrow",), "pretrained rows have one width; remove narrow, or remove pretrained"
        after, width = 0, self.width
        for index, block in enumerate(self.narrow):
            if block.after <= after:
                yield (
                    ("narrow", index, "after"),
                    f"must be above that of the entry before, {after}; found {block.after}",
                )
            if self.width and block.width >= width:
                where = "the entry before" if index else "the table"
                text = f"must be below the width of {where}, {width}; found {block.width}"
                yield ("narrow", index, "width"), text
            after, width = block.after, block.width


def _of_width(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | dict | EmbeddingConfig):
        raise ValueError("expected a width, or a mapping with 'width'")
    return {"width": value} if isinstance(value, int) else value


def _shortest(table: EmbeddingConfig) -> int | dict[str, Any]:
    is_plain = table == EmbeddingConfig(width=table.width)
    return table.width if is_plain else table.model_dump(mode="json", exclude_defaults=True)


Embedding = Annotated[
    EmbeddingConfig,
    BeforeValidator(_of_width, json_schema_input_type=NonNegativeInt | EmbeddingConfig),
    PlainSerializer(_shortest, when_used="json"),
]


TowerConfig = Annotated[MlpTowerConfig | CrossConfig, Field(discriminator="kind")]
"""Any network, followed by a Linear to the task's logit."""


class AffineMapConfig(BaseConfig):
    """logit → scale · logit + bias, with learned scale and bias."""

    scale: float = 1.0
    """Initial value of the scale."""
    bias: float = 0.0
    """Initial value of the bias. 0 leaves it to `initial_rate`; any other value is where the task starts."""


def _is_rate(value: object) -> object:
    if value not in ("auto", "none") and not (isinstance(value, float) and 0 < value < 1):
        raise ValueError("expected auto, none, or a number above 0 and below 1")
    return value


InitialRate = Annotated[
    Literal["auto", "none"] | Annotated[float, Field(gt=0, lt=1)],
    BeforeValidator(_is_rate, json_schema_input_type=Literal["auto", "none"] | Annotated[float, Field(gt=0, lt=1)]),
]


class TaskConfig(BaseConfig):
    """A task: its tower, objective and loss."""

    tower: TowerConfig
    """The network that predicts the logit, or the raw value of a regression."""
    affine_map: AffineMapConfig | None = None
    """Learns a scale and a bias of the logit. Optional; off by default."""
    initial_rate: Annotated[InitialRate, FreeOnResume()] = "auto"
    """The rate at which a new tower starts: its last bias is the constant output that has the least loss for a task
    with this share of positives, ln(rate / (1 − rate)) without `pos_weight`. Weight decay leaves that bias alone.
    `auto` counts the labels of the first rows of the training data, and starts a regression at the mean of its
    transformed labels. A number is the weighted share of positives among the rows as trained on. `none` starts at
    an output of 0, a probability of ½, as published."""
    objective: ObjectiveConfig = BinaryConfig(kind="binary")
    """`binary` predicts whether something happens, `regression` predicts a number."""
    loss: BinaryLossConfig = BceConfig(kind="bce")
    """The loss of a binary task; a regression sets `objective.loss` instead."""
    pos_weight: PositiveFloat = 1.0
    """Factor on the loss of positives."""
    loss_weight: PositiveFloat = 1.0
    """Factor on the task's loss in the mean over tasks that training minimizes."""
    pairwise: PairwiseConfig | None = None
    """Adds a loss on pairs of a positive and a negative of a user or request. Optional; off by default."""
    listwise: ListwiseConfig | None = None
    """Adds a loss on the positives among the rows of a user or request. Optional; off by default."""
    jrc: JrcConfig | None = None
    """Adds a loss on the rows of each label among those of a user or request. Optional; off by default."""
    distillation: DistillationConfig | None = None
    """Adds a loss towards the predictions of a teacher. Optional; off by default."""

    @property
    def ranking_losses(self) -> dict[str, RankingLossConfig]:
        """The losses on order that are set, by the name of their field."""
        losses = {"pairwise": self.pairwise, "listwise": self.listwise, "jrc": self.jrc}
        return {name: loss for name, loss in losses.items() if loss is not None}

    def checks(self) -> tuple[Check, ...]:
        return self._regression_has_no_positives, self._has_one_start

    def _has_one_start(self) -> Problems:
        if isinstance(self.initial_rate, float) and self.affine_map is not None and self.affine_map.bias:
            yield (
                ("initial_rate",),
                f"affine_map.bias: {self.affine_map.bias:g} also sets where the task starts; remove one of them",
            )

    def _regression_has_no_positives(self) -> Problems:
        if isinstance(self.objective, RegressionConfig):
            if not isinstance(self.loss, BceConfig):
                yield (
                    ("loss",),
                    f"{self.loss.kind} is a loss of binary tasks; set objective.loss to mse, mae or huber instead",
                )
            if self.pos_weight != 1:
                yield ("pos_weight",), "a regression task has no positives; remove it, or use loss_weight"
            if isinstance(self.initial_rate, float):
                yield (
                    ("initial_rate",),
                    "a regression task has no rate; use auto, which starts it at the mean label, or none",
                )
            if self.distillation is not None and self.distillation.temperature != 1:
                yield ("distillation", "temperature"), "a regression task has no logits to divide; remove it"
            for name in self.ranking_losses:
                yield (name,), "a regression task has no positives and negatives to compare; remove it"


class PositionDebiasConfig(BaseConfig):
    """Position debias: the model reads the position of a candidate in training, but not in evaluation and prediction.

    The embedding of the position is joined to the inputs and learns the effect of the position. In training it is
    hidden at random, so that the network also learns to predict without it."""

    feature: Name
    """The discrete feature of the position: an integer code per row, from 0, without an entry in `model.embeddings`.
    Null and codes outside the feature's `size` are hidden."""
    max_position: PositiveInt = 256
    """Positions from this one on share an embedding."""
    num_dims: PositiveInt = 64
    """Width of the embedding."""
    drop_probability: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Probability of hiding the position of a row in training."""
    scored_at: Literal["hidden", "average"] = "hidden"
    """Embedding that replaces the position in evaluation and prediction. `hidden`: that of hidden positions, which
    predicts the rate at the positions where such rows are usually shown. `average`: the mean over positions, weighted
    by frequency in training, which compares rows as if all were shown at the same positions."""


class ModelConfig(BaseConfig):
    """The section `model`."""

    featurization: FeaturizationConfig = DoubleNormLogConfig()
    """How continuous features are normalized."""
    numbers: NumbersConfig | None = None
    """Embedding of every continuous value, after its featurization; the networks read it like the embedding of an id.
    Binary features stay numbers. Optional; default: a continuous value is one number."""
    embeddings: dict[Name, Embedding] = {}
    """Width of the embedding of each discrete feature, and of each history whose ids have their own table, or
    {width, pretrained, narrow}. `default` applies to all others; 0 removes a feature from the inputs."""
    histories: dict[Name, HistoryModelConfig] = {}
    """The encoder of each history; `default` applies to all others."""
    position_debias: PositionDebiasConfig | None = None
    """Removes the effect of the position from the scores. Optional; off by default."""
    backbone: BackboneConfig | None = None
    """The network that tasks share, or the form of experts and members; required unless `sharing` is `share_none`."""
    sharing: SharingConfig = ShareNoneConfig(kind="share_none")
    """The input of each tower: the backbone, the inputs, both, a mixture of experts, or a backbone for each member."""
    cascade: CascadeConfig | None = None
    """Tasks that depend on each other, such as click → like. Optional; default: tasks are independent."""
    scenario: ScenarioConfig | None = None
    """How inputs and towers depend on the scenario of a row. Optional; default: they do not."""
    initialization: Annotated[InitializationConfig, FreeOnResume()] = InitializationConfig()
    """Where the weights of a new run start."""
    auxiliary_loss: AuxiliaryLossConfig | None = None
    """A loss on parts of the network, beside that of each task. Optional; off by default."""
    tasks: Annotated[dict[Name, TaskConfig], Field(min_length=1), OrderMatters()]
    """The tasks by name, in the order of the task axis."""

    @property
    def widths(self) -> dict[str, int]:
        """The width of each table in `embeddings`."""
        return {name: table.width for name, table in self.embeddings.items()}

    @property
    def embedding_parts(self) -> int:
        """The number of equal parts of every embedding that different networks read."""
        match self.sharing:
            case StemConfig():
                return len(self.tasks) + 1
            case DeepEnsembleConfig(members=members):
                return members
            case _:
                return 1

    @property
    def shared_ensemble(self) -> EnsembleConfig | DeepEnsembleConfig | None:
        """That of the backbone or the sharing, whose members every tower continues."""
        if isinstance(self.sharing, DeepEnsembleConfig):
            return self.sharing
        return self.backbone.ensemble if isinstance(self.backbone, MlpBackboneConfig) else None

    def ensemble_of(self, task: str) -> EnsembleConfig | DeepEnsembleConfig | None:
        """That of the tower of a task."""
        tower = self.tasks[task].tower
        own = tower.ensemble if isinstance(tower, MlpTowerConfig) else None
        return own or self.shared_ensemble

    @property
    def regressions(self) -> list[str]:
        """The regression tasks, in the order of tasks."""
        return [name for name, task in self.tasks.items() if isinstance(task.objective, RegressionConfig)]

    def checks(self) -> tuple[Check, ...]:
        return self._backbone_is_read, self._no_task_is_the_shared_part, self._cascade_is_of_tasks

    def _backbone_is_read(self) -> Problems:
        shares_none = isinstance(self.sharing, ShareNoneConfig)
        if shares_none and self.backbone is not None:
            yield (
                ("sharing",),
                "share_none does not use model.backbone, which is set; "
                "use 'sharing: {kind: share_all}' (or share_partial), or remove model.backbone",
            )
        if not shares_none and self.backbone is None:
            yield ("sharing",), f"{self.sharing.kind} needs model.backbone; add one, or use share_none"

    def _no_task_is_the_shared_part(self) -> Problems:
        if isinstance(self.sharing, CgcConfig | PleConfig | StemConfig) and SHARED in self.tasks:
            yield (
                ("tasks", SHARED),
                f"{SHARED!r} is reserved for the shared experts of {self.sharing.kind}; rename the task",
            )

    def _cascade_is_of_tasks(self) -> Problems:
        named: list[tuple[KeyPath, str]] = []
        if isinstance(self.cascade, DbmtlConfig):
            for task, parents in self.cascade.parents.items():
                named.append((("parents", task), task))
                named += [(("parents", task, index), parent) for index, parent in enumerate(parents)]
        elif self.cascade is not None:
            named = [(("chain", index), task) for index, task in enumerate(self.cascade.chain)]
        for path, task in named:
            if task not in self.tasks:
                yield ("cascade", *path), f"unknown task {task!r}. {suggest(task, list(self.tasks))}"
