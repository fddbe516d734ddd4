"""Checks of features against the parts of the model that read them."""

from collections.abc import Iterator

from recap.config.base import DEFAULT, BaseConfig, KeyPath, Problems
from recap.config.checks.common import SCORE, DataSets, Tasks, is_position, twice, unknown
from recap.config.discrete import HashSpace, IntegerCodes, SharedTable, Vocabulary, ZeroCollisionSpace, kind_of
from recap.config.features import FeaturesConfig
from recap.config.featurization import BINARY, DoubleNormLogConfig, FeaturizationConfig
from recap.config.histories import HistoryColumns, HstuConfig, NumberEvents, target_of
from recap.config.model import ModelConfig
from recap.text import suggest


def column_problems(features: FeaturesConfig, tasks: Tasks, data_sets: DataSets) -> Problems:
    """Each column has one role, and the model reads at least one."""
    labels = _labels(tasks, data_sets)
    seen: set[str] = set()
    for path, name in _input_columns(features):
        if name in seen:
            yield path, f"column {name!r} is listed twice, but a column has one role; remove one"
        if name in labels:
            yield path, f"{name!r} {labels[name]} cannot be a feature; remove it"
        seen.add(name)
    if not seen:
        yield ("features",), "the model has no inputs; add columns under continuous, binary, discrete or vectors"
    for role in ("discrete", "histories"):
        if DEFAULT in getattr(features, role):
            yield ("features", role, DEFAULT), "'default' is reserved; rename the column"
    for name, history in features.histories.items():
        for column in history.columns:
            if column in labels:
                yield ("features", "histories", name), f"{column!r} {labels[column]} cannot be a history; remove it"


def _labels(tasks: Tasks, data_sets: DataSets) -> dict[str, str]:
    """Columns that hold or give away a label, each with the reason."""
    labels: dict[str, str] = {}
    for _, data in data_sets:
        times = data.rectify_labels.engaged_at if data.rectify_labels is not None else {}
        labels |= {
            column: f"is the time of {task!r} (rectify_labels.engaged_at), which gives the label away, and"
            for task, column in times.items()
        }
        labels |= {
            label.column: f"is the label of {task!r}, and a label" for task, label in data.tasks.items() if label.column
        }
    return labels | dict.fromkeys(tasks, "is a task, and a label")


def prediction_problems(features: FeaturesConfig, tasks: Tasks) -> Problems:
    """Each column of the predictions has a name of its own."""
    if SCORE in tasks:
        yield ("model", "tasks", SCORE), "'score' is the column of scores in predictions; rename the task"
    carried: list[tuple[KeyPath, str | None]] = [(("features", "user"), features.user)]
    carried += [(("features", "timestamp"), features.timestamp)]
    carried += [(("features", "ids", index), column.name) for index, column in enumerate(features.ids)]
    for path, name in carried:
        if name in tasks or name == SCORE:
            holds = "scores" if name == SCORE else "the predictions of this task"
            yield path, f"{name!r} is the column that holds {holds}; remove it, or rename the column in the data"


def _input_columns(features: FeaturesConfig) -> Iterator[tuple[KeyPath, str]]:
    """The path and name of each feature that the model reads."""
    for role in ("continuous", "binary"):
        yield from ((("features", role, index), column.name) for index, column in enumerate(getattr(features, role)))
    for role in ("discrete", "vectors", "histories"):
        yield from ((("features", role, name), name) for name in getattr(features, role))
    for name, history in features.histories.items():  # names of tables and tensors
        path: KeyPath = ("features", "histories", name)
        yield (*path, "ids"), f"{name}/ids"
        yield from (((*path, "attributes", key), f"{name}/attributes/{key}") for key in history.attributes)


def embedding_problems(features: FeaturesConfig, model: ModelConfig) -> Problems:
    """Every table has a width, and every width and every pretrained file has a table."""
    discrete, histories = features.discrete, features.histories
    owners = {name: "discrete feature" for name, codes in discrete.items() if not isinstance(codes, SharedTable)}
    owners |= {name: "history" for name, columns in histories.items() if not isinstance(columns.ids, SharedTable)}
    sharing = {name: codes.table for name, codes in discrete.items() if isinstance(codes, SharedTable)}
    sharing |= {name: columns.ids.table for name, columns in histories.items() if isinstance(columns.ids, SharedTable)}
    for name, noun in owners.items():
        if not is_position(model, name) and name not in model.embeddings and DEFAULT not in model.embeddings:
            yield ("model", "embeddings"), f"no width for {noun} {name!r}; add '{name}: WIDTH' or 'default: WIDTH'"
    for name in model.embeddings:
        if name in sharing:
            text = f"{name!r} shares the table of {sharing[name]!r}, and so its width; remove it here"
            yield ("model", "embeddings", name), text
        elif name not in owners and name != DEFAULT:
            yield ("model", "embeddings", name), unknown(name, "feature", owners)
    yield from _pretrained_problems(features, model)
    yield from _narrow_problems(features, model)


def _narrow_problems(features: FeaturesConfig, model: ModelConfig) -> Problems:
    """Only a vocabulary says which values are frequent."""
    for name, table in model.embeddings.items():
        path: KeyPath = ("model", "embeddings", name, "narrow")
        if not table.narrow:
            continue
        space = features.discrete.get(name)
        if name == DEFAULT:
            yield path, "'default' applies to several tables; set narrow for each table by name"
        elif not isinstance(space, Vocabulary):
            text = "needs a vocabulary, whose order says which values are frequent"
            kind = (
                f", and {name!r} has {kind_of(space)}" if space is not None else ", which only a discrete feature has"
            )
            yield path, f"{text}{kind}; make one with 'recap data vocabulary', or remove narrow"


def _pretrained_problems(features: FeaturesConfig, model: ModelConfig) -> Problems:
    for name, table in model.embeddings.items():
        path: KeyPath = ("model", "embeddings", name, "pretrained")
        if table.pretrained is None:
            continue
        space = features.code_spaces.get(features.own_table(name))
        if name == DEFAULT:
            yield path, "'default' applies to several tables; set pretrained for each table by name"
        elif isinstance(space, HashSpace):
            text = f"{name!r} is hashed, so several values share a row; use a vocabulary, or remove pretrained"
            yield path, text
        elif isinstance(space, ZeroCollisionSpace):
            yield (
                path,
                f"{name!r} has a zero-collision hash, whose rows belong to no ids yet; use a vocabulary, or "
                "remove pretrained",
            )


def history_problems(features: FeaturesConfig, model: ModelConfig) -> Problems:
    """Every history has an encoder, tables of width above 0, and a target that shares the table of its ids."""
    histories, encoders = features.histories, model.histories
    for name in encoders:
        if name not in histories and name != DEFAULT:
            yield ("model", "histories", name), unknown(name, "history", histories)
    for name, history in histories.items():
        entry = name if name in encoders else DEFAULT
        if entry not in encoders:
            text = f"no encoder for history {name!r}; add '{name}: {{encoder: {{kind: …}}}}' or 'default: {{…}}'"
            yield ("model", "histories"), text
            continue
        encoder = encoders[entry].encoder
        if (target := target_of(encoder)) is not None:
            for text in _target_problems(features, name, history, target):
                yield ("model", "histories", entry, "encoder", "target"), text
        if isinstance(encoder, HstuConfig):
            for field, text in _attribute_problems(name, history, encoder):
                yield ("model", "histories", entry, "encoder", field), text
        for table in _tables_of(history, name):
            if model.widths.get(table, model.widths.get(DEFAULT)) == 0:
                text = f"width 0 removes the table of {table!r}, which history {name!r} reads; set width above 0"
                yield ("model", "embeddings", table if table in model.embeddings else DEFAULT), text


def _tables_of(history: HistoryColumns, name: str) -> list[str]:
    """The names in `model.embeddings` of the tables that a history reads."""
    ids = history.ids.table if isinstance(history.ids, SharedTable) else name
    shared = [codes.table for codes in history.attributes.values() if isinstance(codes, SharedTable)]
    return list(dict.fromkeys([ids, *shared]))


def _target_problems(features: FeaturesConfig, name: str, history: HistoryColumns, target: str) -> Iterator[str]:
    if not isinstance(history.ids, SharedTable):
        yield (
            f"the ids of history {name!r} do not share the table of the target; write "
            f"'ids: {{column: …, table: {target}}}'"
        )
    elif target not in features.discrete:
        yield unknown(target, "discrete feature", features.discrete)
    else:
        candidate = features.discrete[target]
        table, ids = features.table_of(target, candidate), history.ids.table
        if table != ids:
            yield f"{target!r} uses the table of {table!r}, but the ids of history {name!r} use that of {ids!r}"
        if candidate.length > 1:
            yield f"{target!r} has {candidate.length} values per row; a target has one"


def _attribute_problems(name: str, history: HistoryColumns, encoder: HstuConfig) -> Iterator[tuple[str, str]]:
    """Field → what is wrong with the attribute that it names."""
    for field in ("ages", "interleave"):
        key = getattr(encoder, field)
        if key is not None and key not in history.attributes:
            yield field, unknown(key, f"attribute of history {name!r}", history.attributes)
    ages = history.attributes.get(encoder.ages or "")
    if ages is not None and not isinstance(ages, NumberEvents):
        yield "ages", f"{encoder.ages!r} has codes, but an age is a number; name an attribute with only a column"


def join_problems(features: FeaturesConfig, featurization: FeaturizationConfig) -> Problems:
    """Names to join are `binary` or vectors."""
    path = ("model", "featurization", "join")
    known = [BINARY, *features.vectors]
    for index, name in enumerate(featurization.join):
        if name not in known:
            yield (*path, index), f"{name!r} is neither {BINARY!r} nor in features.vectors. {suggest(name, known)}"
        elif name in featurization.join[:index]:
            yield (*path, index), twice(name)
    if BINARY in features.vectors and BINARY in featurization.join:
        yield path, f"{BINARY!r} is ambiguous, since a vector has this name; rename the vector"


def number_problems(features: FeaturesConfig, model: ModelConfig) -> Problems:
    """Embeddings of numbers have columns to embed, and no LayerNorm that reads the columns together."""
    if model.numbers is None:
        return
    if not features.continuous:
        yield ("model", "numbers"), "there are no numbers to embed; add columns under features.continuous, or remove it"
    if isinstance(model.featurization, DoubleNormLogConfig) and model.featurization.layer_norm is not None:
        yield (
            ("model", "featurization", "layer_norm"),
            "reads all numbers of a row together, but model.numbers embeds each by itself; set layer_norm: null, or "
            "remove model.numbers",
        )


def position_problems(features: FeaturesConfig, model: ModelConfig) -> Problems:
    """The position is an integer code per row without another embedding."""
    path = ("model", "position_debias", "feature")
    if model.position_debias is None:
        return
    name = model.position_debias.feature
    if name not in features.discrete:
        yield path, unknown(name, "discrete feature", features.discrete)
        return
    codes = features.discrete[name]
    if not isinstance(codes, IntegerCodes):
        yield path, f"{name!r} has no integer codes; set size in features.discrete"
    elif codes.length > 1:
        yield path, f"{name!r} has {codes.length} codes per row; a position has one"
    users = _users_of_table(features, name)
    if users:
        yield path, f"{users[0]!r} shares the table of {name!r}, but a position has no table to share"
    if name in model.embeddings:
        text = f"{name!r} is embedded by model.position_debias; remove it here"
        yield ("model", "embeddings", name), text


def _users_of_table(features: FeaturesConfig, name: str) -> list[str]:
    """The features and histories that share the table of the discrete feature `name`."""
    users = [user for user, codes in features.discrete.items() if _shares(codes, name)]
    for user, history in features.histories.items():
        if any(_shares(codes, name) for codes in (history.ids, *history.attributes.values())):
            users.append(user)
    return users


def _shares(codes: BaseConfig, table: str) -> bool:
    return isinstance(codes, SharedTable) and codes.table == table
