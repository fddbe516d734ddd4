"""What a file in the published form may say: its sections and fields, and which of them cannot be taken over.

Names and defaults are the published ones. `Refused` marks what has no counterpart here, with the reason.
"""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from recap.config.base import BaseConfig, Disagreements, Name, PositiveInt
from recap.config.data import DataTaskConfig
from recap.config.metrics import METRIC_NAMES
from recap.config.model import AffineMapConfig, BatchNormConfig, DropoutConfig
from recap.config.optimizer import DEFAULT


@dataclass(frozen=True)
class Refused:
    """Marks a field whose every value but the default is refused, and says why."""

    why: str


def _not_built(what: str) -> Refused:
    return Refused(f"not built yet: {what}; take it out to import the rest")


Unread = Any
"""A section that is refused whole, whatever it holds."""


class _Published(BaseConfig):
    """A section of the published form."""

    one_of: ClassVar[tuple[tuple[str, ...], ...]] = ()
    """Groups of which exactly one field is set."""

    def checks(self) -> tuple[Disagreements, ...]:
        """Groups of one, what is refused, and `problems`."""
        return self._groups_of_one(), self._refusals(), self.problems()

    def problems(self) -> Disagreements:
        """What else cannot be."""
        yield from ()

    def _groups_of_one(self) -> Disagreements:
        for group in self.one_of:
            given = [name for name in group if getattr(self, name) is not None]
            if len(given) != 1:
                yield (), f"exactly one of {', '.join(group)} must be set; found {' and '.join(given) or 'none'}"

    def _refusals(self) -> Disagreements:
        for name, field in type(self).model_fields.items():
            for mark in field.metadata:
                if isinstance(mark, Refused) and getattr(self, name) not in (field.default, []):
                    yield (name,), mark.why


class MlpLayer(_Published):
    """One layer of the longer form of an MLP."""

    layer_size: int
    dropout: DropoutConfig | None = None


class Mlp(_Published):
    """An MLP, its layers by size or one by one."""

    one_of = (("layer_sizes", "layers"),)
    layer_sizes: Annotated[list[int], Field(min_length=1)] | None = None
    layers: Annotated[list[MlpLayer], Field(min_length=1)] | None = None
    batch_norm: BatchNormConfig | None = None
    dropout: DropoutConfig | None = None
    final_layer_activation: bool = False

    @property
    def sizes(self) -> list[int]:
        """Width of each layer, in either form."""
        return self.layer_sizes or [layer.layer_size for layer in self.layers or []]

    def problems(self) -> Disagreements:
        """Layers that differ in more than their width."""
        for index, layer in enumerate(self.layers or []):
            if layer.dropout is not None:
                why = _not_built("a dropout of its own for one layer; dropout beside layers is that of all").why
                yield ("layers", index, "dropout"), why


class MaskBlock(_Published):
    """A mask block."""

    one_of = (("reduction_factor", "aggregation_size"),)
    output_size: int
    reduction_factor: float | None = None
    aggregation_size: int | None = None
    input_layer_norm: bool


class MaskNet(_Published):
    """MaskNet."""

    mask_blocks: list[MaskBlock]
    mlp: Mlp | None = None
    use_parallel: bool = False


class TaskModel(_Published):
    """A tower, or the backbone."""

    one_of = (("mlp_config", "dcn_config", "dlrm_config", "mask_net_config"),)
    mlp_config: Mlp | None = None
    dcn_config: Annotated[Unread, _not_built("DCN")] = None
    dlrm_config: Annotated[Unread, _not_built("DLRM")] = None
    mask_net_config: MaskNet | None = None
    affine_map: AffineMapConfig | None = None
    pos_weight: float = 1.0

    def tower_problems(self) -> Disagreements:
        """What keeps it from ending in one logit, as a tower must."""
        net = self.mask_net_config
        path, mlp = (("mask_net_config", "mlp"), net.mlp) if net is not None else (("mlp_config",), self.mlp_config)
        last = mlp.sizes[-1] if mlp is not None and mlp.sizes else None
        if (net is not None or mlp is not None) and last != 1:
            where = (*path, "layer_sizes") if mlp is not None and mlp.layer_sizes else path
            yield where, f"a tower must end in an mlp whose last layer is 1, its logit; found {last or 'none'}"
        if mlp is not None and mlp.final_layer_activation:
            why = "means nothing here: ReLU of a logit keeps every probability at 0.5 or more; set it to false"
            yield (*path, "final_layer_activation"), why
        if net is not None and mlp is not None and mlp.batch_norm is not None and len(mlp.sizes) > 1:
            yield (*path, "batch_norm"), _not_built("BatchNorm behind the mask blocks of a tower").why

    def backbone_problems(self) -> Disagreements:
        """What only a tower has."""
        for name in ("affine_map", "pos_weight"):
            if getattr(self, name) != type(self).model_fields[name].default:
                yield (name,), "means nothing here: a backbone has no logit; state it for a task"


class LayerNorm(_Published):
    """LayerNorm."""

    epsilon: float = 1e-3
    axis: Annotated[int, Refused("means nothing here: only axis -1, the features of a row, can be normalised")] = -1
    center: bool = True
    scale: bool = True

    def problems(self) -> Disagreements:
        """A shift without a scale."""
        if self.center != self.scale:
            yield ("scale",), "must be what center is; a learned shift without a scale, or the reverse, is not built"


class DoubleNormLog(_Published):
    """The same, between two norms."""

    batch_norm_config: BatchNormConfig | None = None
    clip_magnitude: float = 5.0
    layer_norm_config: LayerNorm | None = None


class Featurization(_Published):
    """What is done to continuous features."""

    one_of = (("log1p_abs_config", "clip_log1p_abs_config", "z_score_log_config", "double_norm_log_config"),)
    log1p_abs_config: Annotated[Unread, _not_built("this featurization")] = None
    clip_log1p_abs_config: Annotated[Unread, _not_built("this featurization")] = None
    z_score_log_config: Annotated[Unread, _not_built("this featurization")] = None
    double_norm_log_config: DoubleNormLog | None = None
    feature_names_to_concat: Annotated[
        list[str], _not_built("joining anything but the binary features; only [binary] can be said")
    ] = ["binary"]


class Ramp(_Published):
    """Up to a rate."""

    learning_rate: float
    num_ramp_steps: int


class Cosine(_Published):
    """Up to a rate and down again."""

    learning_rate: float
    final_learning_rate: float
    num_ramp_steps: int
    final_num_steps: int


class Pieces(_Published):
    """A rate for each piece."""

    learning_rate_boundaries: list[int]
    learning_rate_values: list[float]


class LearningRate(_Published):
    """A rate and its schedule."""

    one_of = (("constant", "linear_ramp_to_constant", "linear_ramp_to_cosine", "piecewise_constant"),)
    constant: float | None = None
    linear_ramp_to_constant: Ramp | None = None
    linear_ramp_to_cosine: Cosine | None = None
    piecewise_constant: Pieces | None = None


class Model(_Published):
    """The section `model`."""

    tasks: Annotated[dict[Name, TaskModel], Field(min_length=1)]
    multi_task_type: Literal["share_none", "share_all", "share_partial"] = "share_none"
    backbone: TaskModel | None = None
    featurization_config: Featurization | None = None
    small_embeddings: Annotated[Unread, _not_built("embeddings of single positions of the discrete column")] = None
    large_embeddings: Annotated[Unread, _not_built("sharded embedding tables")] = None
    position_debias_config: Annotated[Unread, _not_built("position debias")] = None
    stratifiers: Annotated[Unread | None, _not_built("metrics of strata")] = None

    def problems(self) -> Disagreements:
        """Towers without a logit, or a backbone with one."""
        for name, task in self.tasks.items():
            yield from (((("tasks", name, *path), text)) for path, text in task.tower_problems())
        if self.backbone is not None:
            yield from ((("backbone", *path), text) for path, text in self.backbone.backbone_problems())


class Hourly(_Published):
    """Hourly folders."""

    data_root: Name
    end_datetime: Name
    hours: int
    num_missing_hours_tol: int = 0


class Daily(_Published):
    """Daily folders."""

    data_root: Name
    end_date: Name
    days: int
    num_missing_days_tol: int = 0


class SegDenseSchema(_Published):
    """How the columns of the data are called."""

    schema_path: str
    features: list[str] = []
    renamed_features: dict[str, str] = {}
    mask_mantissa_features: Annotated[dict[str, int], _not_built("masking mantissa bits")] = {}


class TruncateAndSlice(_Published):
    """Fewer values of the dense columns."""

    continuous_feature_truncation: PositiveInt | None = None
    binary_feature_truncation: PositiveInt | None = None
    continuous_feature_mask_path: Annotated[Unread, _not_built("slicing by a mask")] = None
    binary_feature_mask_path: Annotated[Unread, _not_built("slicing by a mask")] = None


class Preprocess(_Published):
    """What is done to a batch before the model sees it."""

    truncate_and_slice: TruncateAndSlice | None = None
    downcast: Annotated[Unread, _not_built("casting columns down")] = None
    rectify_labels: Annotated[Unread, _not_built("rectifying labels")] = None
    extract_features: Annotated[Unread, _not_built("extracting single features")] = None
    downsample_negatives: Annotated[Unread, _not_built("sampling while reading")] = None


class Data(_Published):
    """A data set."""

    one_of = (("inputs", "explicit_datetime_inputs", "explicit_date_inputs"),)
    inputs: Name | None = None
    explicit_datetime_inputs: Hourly | None = None
    explicit_date_inputs: Daily | None = None
    global_batch_size: int
    num_files_to_keep: Annotated[PositiveInt | None, _not_built("reading some of the files")] = None
    repeat_files: bool = True
    file_batch_size: PositiveInt = 16
    cache: Annotated[bool, _not_built("holding the data in memory")] = False
    data_service_dispatcher: Annotated[str | None, _not_built("reading by other processes or hosts")] = None
    dataset_service_compression: Literal["AUTO"] | None = None
    ignore_data_errors: Annotated[bool, _not_built("reading on past bad data")] = False
    examples_shuffle_buffer_size: int = 1024
    map_num_parallel_calls: PositiveInt | None = None
    interleave_num_parallel_calls: PositiveInt | None = None
    seg_dense_schema: SegDenseSchema
    tasks: dict[Name, DataTaskConfig]
    evaluation_tasks: list[str] = []
    preprocess: Preprocess | None = None
    sampler: Annotated[Unread, Refused("deprecated; sample when the data is made")] = None

    @property
    def truncation(self) -> dict[str, int | None]:
        """How many values of each dense column are kept."""
        said = (self.preprocess or Preprocess()).truncate_and_slice or TruncateAndSlice()
        return {"continuous": said.continuous_feature_truncation, "binary": said.binary_feature_truncation}

    def problems(self) -> Disagreements:
        """Tasks to evaluate that it does not have."""
        for task in self.evaluation_tasks:
            if task not in self.tasks:
                yield ("evaluation_tasks",), f"{task!r} is no task of it. Known: {', '.join(self.tasks)}"


class Adam(_Published):
    """Adam."""

    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-7


class MultiTaskRates(_Published):
    """A rate for each tower, and one for the rest."""

    tower_learning_rates: dict[Name, LearningRate]
    backbone_learning_rate: LearningRate | None = None


class Optimizer(_Published):
    """The section `optimizer`."""

    one_of = (("single_task_learning_rate", "multi_task_learning_rates"),)
    adam: Adam = Adam()
    single_task_learning_rate: LearningRate | None = None
    multi_task_learning_rates: MultiTaskRates | None = None


METRIC_ALIASES = {"roc_auc": "auc", "auroc": "auc", **{name: name for name in METRIC_NAMES}}
"""Published names of metrics, in lower case with underscores → ours."""


def metric_names(text: str) -> list[str]:
    """The names in `which_metrics`, in lower case with underscores."""
    return [name.strip().lower().replace(" ", "_") for name in text.split(",")]


class Training(_Published):
    """The section `training`, of the names and defaults that are ours too."""

    save_dir: Name = "/tmp/model"
    num_train_steps: int = 1_000_000
    initial_checkpoint_dir: Name | None = None
    checkpoint_every_n: int = 1000
    checkpoint_max_to_keep: int | None = None
    train_log_every_n: int = 1000
    num_eval_steps: int = 16384
    eval_log_every_n: int = 5000
    eval_timeout_in_s: float = 3600
    gradient_accumulation: int | None = None


class PublishedConfig(_Published):
    """A file in the published form."""

    training: Training = Training()
    model: Model
    train_data: Data
    validation_data: dict[Name, Data] = {}
    optimizer: Optimizer
    which_metrics: str | None = None

    def checks(self) -> tuple[Disagreements, ...]:
        """And what data sets and heads do not agree about."""
        return *super().checks(), self._metrics(), self._schemas(), self._rates(), self._reading()

    def _metrics(self) -> Disagreements:
        for name in metric_names(self.which_metrics) if self.which_metrics is not None else []:
            if name not in METRIC_ALIASES:
                yield ("which_metrics",), f"{name!r} is not built yet, or no metric. Known: {', '.join(METRIC_ALIASES)}"

    def _schemas(self) -> Disagreements:
        for name, data in self.validation_data.items():
            if data.seg_dense_schema != self.train_data.seg_dense_schema:
                why = _not_built("a layout of its own for a validation set; it must be that of train_data").why
                yield ("validation_data", name, "seg_dense_schema"), why
            if data.truncation != self.train_data.truncation:
                why = _not_built("a truncation of its own for a validation set; it must be that of train_data").why
                yield ("validation_data", name, "preprocess", "truncate_and_slice"), why

    def _rates(self) -> Disagreements:
        rates = self.optimizer.multi_task_learning_rates
        if rates is not None and rates.backbone_learning_rate is None and self.model.backbone is not None:
            yield (
                ("optimizer", "multi_task_learning_rates"),
                "no backbone_learning_rate, but there is a backbone; add one",
            )
        if rates is not None and DEFAULT in rates.tower_learning_rates:
            path = ("optimizer", "multi_task_learning_rates", "tower_learning_rates", DEFAULT)
            yield path, f"{DEFAULT!r} is no task. Known: {', '.join(self.model.tasks)}"

    def _reading(self) -> Disagreements:
        if not self.train_data.repeat_files:
            yield ("train_data", "repeat_files"), _not_built("training on each row once").why
