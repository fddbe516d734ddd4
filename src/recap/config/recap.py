"""`RecapConfig`, the whole of what a run is, and the checks that cross its sections."""

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any

from pydantic import Field, PrivateAttr

from recap.config.backbones import DlrmConfig
from recap.config.balancing import GradNormConfig, PcGradConfig
from recap.config.base import BaseConfig, Disagreements, Name, WholeConfig
from recap.config.cascade import AitmConfig, EsmmConfig
from recap.config.data import DataConfig, TrainDataConfig, ValidationDataConfig
from recap.config.discrete import HashSpace, IntegerCodes, IntegerSpace, SharedTable, VocabularySpace
from recap.config.features import FeaturesConfig
from recap.config.featurization import BINARY, DoubleNormLogConfig
from recap.config.histories import HistoryColumns, PoolingConfig
from recap.config.keys import suggest
from recap.config.loss import RegressionConfig
from recap.config.metrics import BINARY_METRICS, REGRESSION_METRICS, MetricName, StratumConfig
from recap.config.model import ModelConfig
from recap.config.network import BatchNormConfig
from recap.config.node import Path
from recap.config.optimizer import DEFAULT, OptimizerConfig
from recap.config.scoring import ScoringConfig
from recap.config.sharing import PleConfig, ShareNoneConfig
from recap.config.training import TrainingConfig


class JobMode(StrEnum):
    """What a job does with its data."""

    TRAIN = "train"
    """Rows with labels, shuffled, again and again."""
    EVALUATE = "evaluate"
    """Rows with labels, in order, once."""
    INFERENCE = "inference"
    """Rows without labels, in order, once."""


class RecapConfig(WholeConfig):
    """Everything a run is, from one file."""

    training: TrainingConfig = TrainingConfig()
    """How long the run is, and when it logs, evaluates and saves."""
    features: FeaturesConfig
    """What the columns of the data are."""
    model: ModelConfig
    """The network and its tasks."""
    train_data: TrainDataConfig
    """What to train on."""
    validation_data: dict[Name, ValidationDataConfig] = {}
    """Data sets to evaluate on, by name; each states only what differs from `train_data`."""
    optimizer: OptimizerConfig
    """How weights move."""
    scoring: ScoringConfig = ScoringConfig()
    """How much each probability counts."""
    which_metrics: list[MetricName] | None = Field(default=None, min_length=1)
    """Metrics to report; none given: all."""
    strata: dict[Name, StratumConfig] = {}
    """Rows of which `recap evaluate` reports every metric by themselves, too, by a name for them."""

    def checks(self) -> tuple[Disagreements, ...]:
        """What sections do not agree about."""
        return (
            _column_problems(self),
            _embedding_problems(self),
            _join_problems(self),
            _position_problems(self),
            _history_problems(self),
            _product_problems(self),
            _task_problems(self),
            _chain_problems(self),
            _metric_problems(self),
            _watch_problems(self),
            _stratum_problems(self),
            _weight_problems(self),
            _rate_problems(self),
            _batch_problems(self),
            _regression_problems(self),
            _pair_problems(self),
            _balancing_problems(self),
        )

    _secrets: dict[Path, str] = PrivateAttr(default_factory=dict)

    @property
    def secrets(self) -> Mapping[Path, str]:
        """The values that secrets made, as what may be stored of them."""
        return self._secrets

    def remember_secrets(self, found: Mapping[Path, str]) -> None:
        """Have the values at these paths stored as their references."""
        self._secrets = dict(found)

    @property
    def tasks(self) -> list[str]:
        """The one order of the task axis."""
        return list(self.model.tasks)

    @property
    def regressions(self) -> list[str]:
        """The tasks that predict how much of something, in the order of tasks."""
        return [name for name, task in self.model.tasks.items() if isinstance(task.objective, RegressionConfig)]

    def data_sets(self) -> Iterator[tuple[Path, DataConfig]]:
        """Every data set, with its path: the one to train on, then those to validate on."""
        yield ("train_data",), self.train_data
        yield from ((("validation_data", name), data) for name, data in self.validation_data.items())


def _column_problems(config: RecapConfig) -> Disagreements:
    features = config.features
    seen: set[str] = set()
    for path, name in _input_columns(features):
        if name in seen:
            yield path, f"column {name!r} is declared twice; each column has one role"
        if name in config.model.tasks:
            yield path, f"{name!r} is a task, so its column is a label and cannot be a feature"
        seen.add(name)
    if not seen:
        yield ("features",), "no column feeds the model; name some under continuous, binary, discrete or vectors"
    for role in ("discrete", "histories"):
        if DEFAULT in getattr(features, role):
            yield ("features", role, DEFAULT), "'default' is a reserved name; rename the column"
    for name, history in features.histories.items():
        for column in history.columns:
            if column in config.model.tasks:
                yield ("features", "histories", name), f"{column!r} is a task, so its column is a label and no history"


def _embedding_problems(config: RecapConfig) -> Disagreements:
    features, widths = config.features, config.model.embeddings
    owners = {name: "discrete feature" for name, each in features.discrete.items() if not isinstance(each, SharedTable)}
    owners |= {name: "history" for name, each in features.histories.items() if not isinstance(each.ids, SharedTable)}
    sharing = {name: each.table for name, each in features.discrete.items() if isinstance(each, SharedTable)}
    sharing |= {name: each.ids.table for name, each in features.histories.items() if isinstance(each.ids, SharedTable)}
    for name, what in owners.items():
        if _is_position(config, name):
            continue
        if name not in widths and DEFAULT not in widths:
            yield (
                ("model", "embeddings"),
                f"no width for {what} {name!r}; add '{name}: WIDTH' or 'default: WIDTH'",
            )
    for name in widths:
        if name in sharing:
            why = f"{name!r} uses the table of {sharing[name]!r}, and has its width; leave this one out"
            yield ("model", "embeddings", name), why
        elif name not in owners and name != DEFAULT:
            yield ("model", "embeddings", name), _unknown(name, "discrete feature", list(owners))


def _history_problems(config: RecapConfig) -> Disagreements:
    features, models = config.features, config.model.histories
    for name in models:
        if name not in features.histories and name != DEFAULT:
            yield ("model", "histories", name), _unknown(name, "history", list(features.histories))
    for name, history in features.histories.items():
        if name not in models and DEFAULT not in models:
            advice = f"add '{name}: {{encoder: {{kind: …}}}}' or 'default: {{…}}'"
            yield ("model", "histories"), f"no encoder for history {name!r}; {advice}"
            continue
        place: Path = ("model", "histories", name if name in models else DEFAULT, "encoder")
        encoder = models[name if name in models else DEFAULT].encoder
        if not isinstance(encoder, PoolingConfig):
            yield from (((*place, "target"), text) for text in _target_problems(config, name, history, encoder.target))
        for table in _tables_of(history, name):
            if config.model.embeddings.get(table, config.model.embeddings.get(DEFAULT)) == 0:
                where = table if table in config.model.embeddings else DEFAULT
                text = f"width 0 leaves out the table of {table!r}, which history {name!r} reads; give it a width"
                yield ("model", "embeddings", where), text


def _tables_of(history: HistoryColumns, name: str) -> list[str]:
    """Whose tables the events of a history are rows of, by the names that have widths."""
    ids = [history.ids.table if isinstance(history.ids, SharedTable) else name]
    return list(dict.fromkeys([*ids, *(each.table for each in _shared(history))]))


def _shared(history: HistoryColumns) -> list[SharedTable]:
    return [each for each in history.attributes.values() if isinstance(each, SharedTable)]


def _target_problems(config: RecapConfig, name: str, history: HistoryColumns, target: str) -> Iterator[str]:
    discrete = config.features.discrete
    if not isinstance(history.ids, SharedTable):
        yield (
            f"the ids of history {name!r} have a table of their own, so no candidate can be compared to them; say "
            f"'ids: {{column: …, table: {target}}}'"
        )
    elif target not in discrete:
        yield _unknown(target, "discrete feature", list(discrete))
    else:
        found = discrete[target]
        table = found.table if isinstance(found, SharedTable) else target
        if table != history.ids.table:
            ids = history.ids.table
            yield f"{target!r} uses the table of {table!r}, but the ids of history {name!r} use that of {ids!r}"
        if found.length > 1:
            yield f"{target!r} holds {found.length} values a row; the candidate must be one"


def _product_problems(config: RecapConfig) -> Disagreements:
    """DLRM where there are no embeddings to take products of, or where widths differ."""
    features, sharing = config.features, config.model.sharing
    widths = _embedding_widths(config)
    networks = [each for each in _networks(config) if isinstance(each[1], DlrmConfig)]
    if len(set(widths.values())) > 1 and any(reads_inputs for _, _, reads_inputs in networks):
        found = ", ".join(f"{name}: {width}" for name, width in widths.items())
        yield ("model", "embeddings"), f"dlrm takes products of embeddings, so all need one width; found {found}"
    for path, network, reads_inputs in networks:
        last = network.bottom_mlp.layer_sizes[-1]
        if not reads_inputs:
            under = "aitm" if isinstance(config.model.cascade, AitmConfig) and path[1] == "tasks" else sharing.kind
            advice = "cgc" if path[1] == "backbone" else "share_none"
            why = f"dlrm takes products of embeddings, which it does not read with {under}; use {advice}"
            yield path, why
            continue
        if not widths:
            yield path, "dlrm takes products of embeddings, but there are none; name columns under features.discrete"
        elif set(widths.values()).isdisjoint([last]):
            found = " or ".join(str(width) for width in dict.fromkeys(widths.values()))
            at = (*path, "bottom_mlp", "layer_sizes")
            yield at, f"the last layer must be as wide as the embeddings, {found}; found {last}"
        if not (features.continuous or features.binary or features.vectors):
            said = "has nothing to read; name columns under features.continuous, binary or vectors"
            yield (*path, "bottom_mlp"), said


def _networks(config: RecapConfig) -> Iterator[tuple[Path, Any, bool]]:
    """Backbone and towers, each with its path, and whether it, all copies of it, read the inputs themselves."""
    model = config.model
    if model.backbone is not None:
        yield ("model", "backbone"), model.backbone, not isinstance(model.sharing, PleConfig)
    transferred = model.cascade.chain if isinstance(model.cascade, AitmConfig) else []
    for name, task in model.tasks.items():
        reads_inputs = isinstance(model.sharing, ShareNoneConfig) and name not in transferred
        yield ("model", "tasks", name, "tower"), task.tower, reads_inputs


def _is_position(config: RecapConfig, name: str) -> bool:
    debias = config.model.position_debias
    return debias is not None and debias.feature == name


def _embedding_widths(config: RecapConfig) -> dict[str, int]:
    """Of each discrete feature that has an embedding."""
    said = config.model.embeddings
    owners = {
        name: discrete.table if isinstance(discrete, SharedTable) else name
        for name, discrete in config.features.discrete.items()
        if not _is_position(config, name)
    }
    widths = {name: said.get(owner, said.get(DEFAULT, 0)) for name, owner in owners.items()}
    return {name: width for name, width in widths.items() if width}


def _position_problems(config: RecapConfig) -> Disagreements:
    debias, path = config.model.position_debias, ("model", "position_debias", "feature")
    if debias is None:
        return
    name, discrete = debias.feature, config.features.discrete
    if name not in discrete:
        yield path, _unknown(name, "discrete feature", list(discrete))
        return
    found = discrete[name]
    if not isinstance(found, IntegerCodes):
        yield path, f"{name!r} has no size; a position is an integer code, so give the feature a size"
    elif found.length > 1:
        yield path, f"{name!r} holds {found.length} codes a row; a row has one position"
    users = [each for each, column in discrete.items() if isinstance(column, SharedTable) and column.table == name]
    for history, columns in config.features.histories.items():
        shared = [columns.ids, *columns.attributes.values()]
        users += [history] if any(isinstance(each, SharedTable) and each.table == name for each in shared) else []
    if users:
        yield path, f"{users[0]!r} uses the table of {name!r}, but a position has no table among the embeddings"
    if name in config.model.embeddings:
        yield (
            ("model", "embeddings", name),
            f"{name!r} is the feature of model.position_debias, which embeds it; leave it out here",
        )


def _join_problems(config: RecapConfig) -> Disagreements:
    featurization, path = config.model.featurization, ("model", "featurization", "join")
    if not isinstance(featurization, DoubleNormLogConfig):
        return
    known = [BINARY, *config.features.vectors]
    for index, name in enumerate(featurization.join):
        if name not in known:
            yield (*path, index), f"{name!r} is neither {BINARY} nor a vector of features. {suggest(name, known)}"
        elif name in featurization.join[:index]:
            yield (*path, index), f"{name!r} is named twice; once is enough"
    if BINARY in config.features.vectors and BINARY in featurization.join:
        yield path, f"{BINARY!r} is the name of a vector too, so it cannot be told which is meant; rename the vector"


def _input_columns(features: FeaturesConfig) -> Iterator[tuple[Path, str]]:
    """The columns the model reads, with the place that names each."""
    for role in ("continuous", "binary"):
        yield from ((("features", role, index), column.name) for index, column in enumerate(getattr(features, role)))
    for role in ("discrete", "vectors", "histories"):
        yield from ((("features", role, name), name) for name in getattr(features, role))
    for name, history in features.histories.items():  # as their tables and tensors are called
        place: Path = ("features", "histories", name)
        yield (*place, "ids"), f"{name}/ids"
        yield from (((*place, "attributes", key), f"{name}/attributes/{key}") for key in history.attributes)


def _task_problems(config: RecapConfig) -> Disagreements:
    if DEFAULT in config.model.tasks:
        yield ("model", "tasks", DEFAULT), "'default' is a reserved name; rename the task"
    for path, data in config.data_sets():
        chosen = data.evaluation_tasks if isinstance(data, ValidationDataConfig) else None
        for index, task in enumerate(chosen or []):
            if task not in config.model.tasks:
                yield (*path, "evaluation_tasks", index), _unknown(task, "task", config.tasks)
            elif task in (chosen or [])[:index]:
                yield (*path, "evaluation_tasks", index), f"{task!r} is named twice; once is enough"
        for task in config.tasks if chosen is None else chosen:
            if task in config.model.tasks and task not in data.tasks:
                yield (*path, "tasks"), f"no label for task {task!r}; add '{task}: {{}}', or drop the task"
        for task in data.tasks:
            if task not in config.model.tasks:
                yield (*path, "tasks", task), _unknown(task, "task", config.tasks)
        for index, task in enumerate(_kept_positives(data)):
            if task not in config.model.tasks:
                yield (*path, "downsample_negatives", "keep_positives_of", index), _unknown(task, "task", config.tasks)
        for task in data.rectify_labels.engaged_at if data.rectify_labels is not None else ():
            if task not in config.model.tasks:
                yield (*path, "rectify_labels", "engaged_at", task), _unknown(task, "task", config.tasks)


def _chain_problems(config: RecapConfig) -> Disagreements:
    """A chain is of probabilities, and ESMM multiplies them before calibration would correct the factors."""
    cascade, data = config.model.cascade, config.train_data
    for index, task in enumerate(cascade.chain if cascade is not None else []):
        if task in config.regressions:
            path = ("model", "cascade", "chain", index)
            yield path, f"{task!r} is a regression; a chain is of tasks that happen or do not"
    if not isinstance(cascade, EsmmConfig) or data.sampling_correction != "calibration":
        return
    for index, task in enumerate(cascade.chain):
        rates = data.tasks.get(task)
        if rates is not None and rates.pos_downsampling_rate != rates.neg_downsampling_rate:
            yield (
                ("model", "cascade", "chain", index),
                f"esmm multiplies the probability of {task!r}, which is of rows that train_data.tasks says were "
                "down-sampled, and calibration would correct only the product; "
                "set train_data.sampling_correction: weights, or take aitm",
            )


def _kept_positives(data: DataConfig) -> list[str]:
    sampling = data.downsample_negatives if isinstance(data, TrainDataConfig) else None
    return sampling.keep_positives_of if sampling is not None else []


def _metric_problems(config: RecapConfig) -> Disagreements:
    names = config.which_metrics or []
    for index, name in enumerate(names):
        if name in names[:index]:
            yield ("which_metrics", index), f"{name!r} is named twice; once is enough"
        if name not in BINARY_METRICS and not config.regressions:
            yield ("which_metrics", index), f"{name!r} is a metric of regression tasks; there is none"
        if name not in REGRESSION_METRICS and len(config.regressions) == len(config.tasks):
            yield ("which_metrics", index), f"{name!r} is a metric of binary tasks; there is none"


def _regression_problems(config: RecapConfig) -> Disagreements:
    """What is said of the positives of tasks that have none."""
    regressions = config.regressions
    for path, data in config.data_sets():
        for task, rates in data.tasks.items():
            for field in ("pos_downsampling_rate", "neg_downsampling_rate"):
                if task in regressions and getattr(rates, field) != 1:
                    text = "is a regression, which has no positives and negatives that were sampled; leave it out"
                    yield (*path, "tasks", task, field), f"{task!r} {text}"
        for index, task in enumerate(_kept_positives(data)):
            if task in regressions:
                yield (
                    (*path, "downsample_negatives", "keep_positives_of", index),
                    f"{task!r} is a regression, which has no positives; name binary tasks",
                )
        for task in data.rectify_labels.engaged_at if data.rectify_labels is not None else ():
            if task in regressions:
                yield (
                    (*path, "rectify_labels", "engaged_at", task),
                    f"{task!r} is a regression, which has no positives that could be late; leave it out",
                )


def _pair_problems(config: RecapConfig) -> Disagreements:
    for name, task in config.model.tasks.items():
        if task.pairwise is not None and config.features.user is None:
            yield (
                ("model", "tasks", name, "pairwise"),
                "pairs are those of one user, and no column tells users apart; set features.user, or leave it out",
            )


def _balancing_problems(config: RecapConfig) -> Disagreements:
    balancing, cascade = config.optimizer.balancing, config.model.cascade
    if isinstance(balancing, PcGradConfig | GradNormConfig):
        if isinstance(cascade, AitmConfig) and cascade.constraint_weight:
            yield (
                ("model", "cascade", "constraint_weight"),
                f"adds a loss that is of no task, and {balancing.kind} parts losses by task; set it to 0",
            )
        if isinstance(config.model.sharing, ShareNoneConfig):
            yield (
                ("optimizer", "balancing"),
                f"{balancing.kind} balances the gradients of what tasks share, and with share_none they share no "
                "backbone; use 'none' or 'uncertainty', or another sharing",
            )
        if len(config.tasks) < 2:
            yield (
                ("optimizer", "balancing"),
                f"{balancing.kind} balances tasks against each other, and there is one; leave it out",
            )


def _watch_problems(config: RecapConfig) -> Disagreements:
    watch, path = config.training.watch, ("training", "watch")
    if watch is None:
        return
    if watch.split not in config.validation_data:
        yield (*path, "split"), _unknown(watch.split, "validation set", list(config.validation_data))
        return
    if config.which_metrics is not None and watch.metric not in config.which_metrics:
        yield (*path, "metric"), f"{watch.metric!r} is not among which_metrics; add it there"
    if watch.metric == "grouped_auc" and config.features.user is None:
        yield (*path, "metric"), "grouped_auc needs features.user; name the column there"
    chosen = config.validation_data[watch.split].evaluation_tasks
    evaluated = config.tasks if chosen is None else chosen
    for index, task in enumerate(watch.tasks or []):
        if task not in evaluated:
            yield (*path, "tasks", index), f"{task!r} is not evaluated on {watch.split}. {suggest(task, evaluated)}"
        elif task in (watch.tasks or [])[:index]:
            yield (*path, "tasks", index), f"{task!r} is named twice; once is enough"
        elif not _has_metric(config, task, watch.metric):
            yield (*path, "tasks", index), f"{task!r} has no {watch.metric}, which is of another kind of task"
    if not any(_has_metric(config, task, watch.metric) for task in evaluated):
        yield (*path, "metric"), f"no task that is evaluated on {watch.split} has {watch.metric}"


def _has_metric(config: RecapConfig, task: str, metric: str) -> bool:
    return task in config.tasks and metric in (REGRESSION_METRICS if task in config.regressions else BINARY_METRICS)


def _stratum_problems(config: RecapConfig) -> Disagreements:
    features = config.features
    for name, stratum in config.strata.items():
        path, discrete = ("strata", name), features.discrete
        if stratum.feature not in discrete:
            yield (*path, "feature"), _unknown(stratum.feature, "discrete feature", list(discrete))
            continue
        feature, value = discrete[stratum.feature], stratum.value
        if feature.length > 1:
            yield (*path, "feature"), f"{stratum.feature!r} holds {feature.length} codes a row; a stratum needs one"
        space = features.code_spaces.get(features.table_of(stratum.feature, feature))
        if isinstance(space, HashSpace):
            yield (*path, "feature"), f"{stratum.feature!r} is hashed, and other values may have the same code"
        elif isinstance(space, IntegerSpace) and not (isinstance(value, int) and 0 <= value < space.size):
            yield (*path, "value"), f"{stratum.feature!r} has the codes 0 to {space.size - 1}, found {value!r}"
        elif isinstance(space, VocabularySpace) and not isinstance(value, str):
            yield (*path, "value"), f"{stratum.feature!r} has a vocabulary of strings, found {value!r}"


def _weight_problems(config: RecapConfig) -> Disagreements:
    for task in config.scoring.weights:
        if task not in config.model.tasks:
            yield ("scoring", "weights", task), _unknown(task, "task", config.tasks)


def _rate_problems(config: RecapConfig) -> Disagreements:
    towers = config.optimizer.towers
    for task in config.tasks:
        if task not in towers and DEFAULT not in towers:
            yield (
                ("optimizer", "towers"),
                f"no learning rate for the tower of {task!r}; add '{task}: {{…}}' or 'default: {{…}}'",
            )
    for task in towers:
        if task not in config.model.tasks and task != DEFAULT:
            yield ("optimizer", "towers", task), _unknown(task, "task", config.tasks)


def _batch_problems(config: RecapConfig) -> Disagreements:
    parts, rows = config.training.gradient_accumulation or 1, config.train_data.global_batch_size
    if parts > rows:
        yield ("training", "gradient_accumulation"), f"{parts} micro-batches need at least as many rows, found {rows}"
    elif rows // parts < 2 and _has_batch_norm(config):
        yield (
            ("training", "gradient_accumulation") if parts > 1 else ("train_data", "global_batch_size"),
            f"BatchNorm needs at least 2 rows in a micro-batch; {rows} rows in {parts} parts leave 1",
        )


def _has_batch_norm(config: RecapConfig) -> bool:
    """Whether any layer normalises over the rows of a micro-batch."""
    model = config.model
    featurization = getattr(model.featurization, "batch_norm", None) if config.features.continuous else None
    parts = (featurization, model.backbone, model.sharing, model.tasks)
    return any(_holds_batch_norm(part) for part in parts)


def _holds_batch_norm(value: Any) -> bool:
    if isinstance(value, BatchNormConfig):
        return True
    below: Any = vars(value) if isinstance(value, BaseConfig) else value
    items = below.values() if isinstance(below, dict) else below if isinstance(below, list) else ()
    return any(_holds_batch_norm(item) for item in items)


def _unknown(name: str, what: str, known: list[str]) -> str:
    return f"{name!r} is no {what} of this configuration. {suggest(name, known)}"
