"""The section `model` of the published form: networks, featurization, embedding tables, strata."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from recap.config.base import KeyPath, Name, NonNegativeInt, Problems
from recap.config.checks.common import unknown
from recap.config.model import AffineMapConfig
from recap.config.network import BatchNormConfig
from recap.published.form.rates import LearningRate
from recap.published.form.section import PublishedSection, Refused


class Dropout(PublishedSection):
    """Dropout."""

    rate: float = 0.1


class MlpLayer(PublishedSection):
    """One layer of an MLP in its long form."""

    layer_size: int
    dropout: Dropout | None = None


class Mlp(PublishedSection):
    """An MLP, in its short form (`layer_sizes`) or its long one (`layers`)."""

    one_of = (("layer_sizes", "layers"),)
    layer_sizes: Annotated[list[int], Field(min_length=1)] | None = None
    layers: Annotated[list[MlpLayer], Field(min_length=1)] | None = None
    batch_norm: BatchNormConfig | None = None
    dropout: Dropout | None = None
    final_layer_activation: bool = False

    @property
    def sizes(self) -> list[int]:
        """The width of each layer."""
        return self.layer_sizes or [layer.layer_size for layer in self.layers or []]

    @property
    def has_own_rates(self) -> bool:
        """Whether a layer has its own dropout."""
        return any(layer.dropout is not None for layer in self.layers or [])

    def problems(self) -> Problems:
        """A dropout without a ReLU, or two for one layer."""
        if self.layers and self.layers[-1].dropout is not None and not self.final_layer_activation:
            text = "has no effect: dropout follows a ReLU, and the last layer has none; remove it"
            yield ("layers", len(self.layers) - 1, "dropout"), text
        if self.dropout is not None and self.has_own_rates:
            yield ("dropout",), "applies to all layers, but some have their own; set it either here or on each layer"


class MaskBlock(PublishedSection):
    """A mask block."""

    one_of = (("reduction_factor", "aggregation_size"),)
    output_size: int
    reduction_factor: float | None = None
    aggregation_size: int | None = None
    input_layer_norm: bool


class MaskNet(PublishedSection):
    """MaskNet."""

    mask_blocks: list[MaskBlock]
    mlp: Mlp | None = None
    use_parallel: bool = False


class Dcn(PublishedSection):
    """DCN-v2."""

    poly_degree: int
    projection_dim: int | None = None
    parallel_mlp: Mlp | None = None
    use_parallel: bool = True
    output_mlp: Mlp | None = None


class Dlrm(PublishedSection):
    """DLRM."""

    bottom_mlp: Mlp
    top_mlp: Mlp


class TaskModel(PublishedSection):
    """A tower, or the backbone."""

    one_of = (("mlp_config", "dcn_config", "dlrm_config", "mask_net_config"),)
    mlp_config: Mlp | None = None
    dcn_config: Dcn | None = None
    dlrm_config: Dlrm | None = None
    mask_net_config: MaskNet | None = None
    affine_map: AffineMapConfig | None = None
    pos_weight: float = 1.0

    @property
    def last_mlp(self) -> tuple[KeyPath, Mlp | None]:
        """The key path of the MLP at the end of the network, and that MLP, which may be missing."""
        if self.mask_net_config is not None:
            return ("mask_net_config", "mlp"), self.mask_net_config.mlp
        if self.dlrm_config is not None:
            return ("dlrm_config", "top_mlp"), self.dlrm_config.top_mlp
        dcn = self.dcn_config
        if dcn is not None and dcn.output_mlp is None and dcn.parallel_mlp is not None and not dcn.use_parallel:
            return ("dcn_config", "parallel_mlp"), dcn.parallel_mlp
        if dcn is not None:
            return ("dcn_config", "output_mlp"), dcn.output_mlp
        return ("mlp_config",), self.mlp_config

    def tower_problems(self) -> Problems:
        """A last layer that is not a logit, or has an activation."""
        path, mlp = self.last_mlp
        last = mlp.sizes[-1] if mlp is not None and mlp.sizes else None
        if last != 1 and any(getattr(self, name) is not None for name in self.one_of[0]):
            last_path = (*path, "layer_sizes") if mlp is not None and mlp.layer_sizes else path
            yield last_path, f"a tower must end in an MLP whose last layer is 1, its logit; found {last or 'none'}"
        if mlp is not None and mlp.final_layer_activation:
            text = "must be false for a tower: with a ReLU, no probability would be below 0.5"
            yield (*path, "final_layer_activation"), text

    def backbone_problems(self) -> Problems:
        """Settings of a logit, which a backbone lacks."""
        for name in ("affine_map", "pos_weight"):
            if getattr(self, name) != type(self).model_fields[name].default:
                yield (name,), "not applicable: a backbone has no logit; set it on a task"


class LayerNorm(PublishedSection):
    """LayerNorm."""

    epsilon: float = 1e-3
    axis: Annotated[
        int, Refused("not supported: only axis -1, the features of a row, can be normalised; leave it out")
    ] = -1
    center: bool = True
    scale: bool = True


class Log1pAbs(PublishedSection):
    """sign(x)·log1p|x|."""


class ClipLog1pAbs(PublishedSection):
    """sign(x)·log1p|x|, clamped."""

    clip_magnitude: float = 3e38


class ZScoreLog(PublishedSection):
    """sign(x)·log1p|x|, normalised by means and deviations from a file."""

    analysis_path: Name
    schema_path: str | None = None
    clip_magnitude: float = 5.0
    use_batch_norm: bool = False
    use_renorm: bool = False
    use_bq_stats: Annotated[
        bool, Refused("not supported: the statistics lie in a database of the published system; use analysis_path")
    ] = False


class DoubleNormLog(PublishedSection):
    """sign(x)·log1p|x|, BatchNorm, clamp, LayerNorm."""

    batch_norm_config: BatchNormConfig | None = None
    clip_magnitude: float = 5.0
    layer_norm_config: LayerNorm | None = None


class Featurization(PublishedSection):
    """How continuous features are normalised."""

    one_of = (("log1p_abs_config", "clip_log1p_abs_config", "z_score_log_config", "double_norm_log_config"),)
    log1p_abs_config: Log1pAbs | None = None
    clip_log1p_abs_config: ClipLog1pAbs | None = None
    z_score_log_config: ZScoreLog | None = None
    double_norm_log_config: DoubleNormLog | None = None
    feature_names_to_concat: list[str] = ["binary"]


class PositionDebias(PublishedSection):
    """An embedding of the shown position, hidden at random in training."""

    max_position: int = 256
    num_dims: int = 64
    drop_probability: float = 0.5
    position_feature_index: int


class Stratifier(PublishedSection):
    """A stratum: the rows in which a code has one value."""

    name: Name
    index: NonNegativeInt
    value: NonNegativeInt


class SmallTable(PublishedSection):
    """A small embedding table."""

    name: Name
    num_embeddings: int
    embedding_dim: int
    index: int


class SmallEmbeddings(PublishedSection):
    """Small embedding tables."""

    tables: list[SmallTable]

    def problems(self) -> Problems:
        """Two tables of one name."""
        names = [table.name for table in self.tables]
        for index, name in enumerate(names):
            if name in names[:index]:
                yield ("tables", index, "name"), f"{name!r} is used twice; give each table its own name"


class Snapshot(PublishedSection):
    """Pretrained rows of a table."""

    emb_name: Name
    embedding_snapshot_uri: Name


class LargeTable(PublishedSection):
    """A large embedding table."""

    name: Name
    num_embeddings: int
    embedding_dim: int
    pretrained: Snapshot | None = None
    vocab: Name | None = None


def _constant(value: object) -> object:
    """Read a bare number as a constant schedule."""
    return {"constant": value} if isinstance(value, int | float) and not isinstance(value, bool) else value


class LargeOptimizer(PublishedSection):
    """The SGD of the large tables."""

    learning_rate: Annotated[LearningRate | None, BeforeValidator(_constant)] = None
    init_learning_rate: float | None = None

    def problems(self) -> Problems:
        """A missing learning rate."""
        if self.learning_rate is None and self.init_learning_rate is None:
            yield (), "the tables need a learning rate; set learning_rate or init_learning_rate"


class LargeEmbeddings(PublishedSection):
    """Large embedding tables."""

    tables: Annotated[list[LargeTable], Field(min_length=1)]
    optimizer: LargeOptimizer
    tables_to_log: list[Name] | None = None

    def problems(self) -> Problems:
        """Unknown tables to log. A table may be written as the name of its weight in the published model."""
        known = [table.name for table in self.tables]
        weights = {f"model.embeddings.ebc.embedding_bags.{name}.weight" for name in known}
        for index, name in enumerate(self.tables_to_log or []):
            if name not in known and name not in weights:
                yield ("tables_to_log", index), unknown(name, "table", known)


class Model(PublishedSection):
    """The section `model`."""

    tasks: Annotated[dict[Name, TaskModel], Field(min_length=1)]
    multi_task_type: Literal["share_none", "share_all", "share_partial"] = "share_none"
    backbone: TaskModel | None = None
    featurization_config: Featurization | None = None
    small_embeddings: SmallEmbeddings | None = None
    large_embeddings: LargeEmbeddings | None = None
    position_debias_config: PositionDebias | None = None
    stratifiers: list[Stratifier] | None = None

    def problems(self) -> Problems:
        """Problems of towers and of the backbone."""
        for name, task in self.tasks.items():
            for path, text in task.tower_problems():
                yield ("tasks", name, *path), text
        if self.backbone is not None:
            for path, text in self.backbone.backbone_problems():
                yield ("backbone", *path), text
