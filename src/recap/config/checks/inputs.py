"""What features, and what a model makes of them, do not agree about."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from recap.config.base import DEFAULT, KeyPath, Problems
from recap.config.checks.common import is_position, unknown
from recap.config.discrete import HashSpace, IntegerCodes, SharedTable
from recap.config.features import FeaturesConfig
from recap.config.featurization import BINARY
from recap.config.histories import HistoryColumns, PoolingConfig
from recap.text import suggest

if TYPE_CHECKING:
    from recap.config.recap import RecapConfig


def column_problems(config: "RecapConfig") -> Problems:
    """Columns with two roles, or none at all."""
    features = config.features
    labels = {said.column: task for _, data in config.data_sets() for task, said in data.tasks.items() if said.column}
    seen: set[str] = set()
    for path, name in _input_columns(features):
        if name in seen:
            yield path, f"column {name!r} is declared twice; each column has one role"
        if name in config.model.tasks:
            yield path, f"{name!r} is a task, so its column is a label and cannot be a feature"
        elif name in labels:
            yield path, f"{name!r} is the label of {labels[name]!r}, and cannot be a feature"
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


def _input_columns(features: FeaturesConfig) -> Iterator[tuple[KeyPath, str]]:
    """The columns the model reads, with the place that names each."""
    for role in ("continuous", "binary"):
        yield from ((("features", role, index), column.name) for index, column in enumerate(getattr(features, role)))
    for role in ("discrete", "vectors", "histories"):
        yield from ((("features", role, name), name) for name in getattr(features, role))
    for name, history in features.histories.items():  # as their tables and tensors are called
        place: KeyPath = ("features", "histories", name)
        yield (*place, "ids"), f"{name}/ids"
        yield from (((*place, "attributes", key), f"{name}/attributes/{key}") for key in history.attributes)


def embedding_problems(config: "RecapConfig") -> Problems:
    """Tables without a width, and widths without a table."""
    features, widths = config.features, config.model.widths
    owners = {name: "discrete feature" for name, each in features.discrete.items() if not isinstance(each, SharedTable)}
    owners |= {name: "history" for name, each in features.histories.items() if not isinstance(each.ids, SharedTable)}
    sharing = {name: each.table for name, each in features.discrete.items() if isinstance(each, SharedTable)}
    sharing |= {name: each.ids.table for name, each in features.histories.items() if isinstance(each.ids, SharedTable)}
    for name, what in owners.items():
        if is_position(config, name):
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
            yield ("model", "embeddings", name), unknown(name, "discrete feature", list(owners))
    yield from _pretrained_problems(config)


def _pretrained_problems(config: "RecapConfig") -> Problems:
    """Rows that were learned elsewhere, of no one table, or of hashes."""
    features = config.features
    for name, table in config.model.embeddings.items():
        path: KeyPath = ("model", "embeddings", name, "pretrained")
        if table.pretrained is None:
            continue
        space = features.code_spaces.get(features.own_table(name))
        if name == DEFAULT:
            yield path, "'default' stands for several tables; say of each by its name what it starts from"
        elif isinstance(space, HashSpace):
            yield (
                path,
                f"{name!r} is hashed, so that values share rows and none can have a vector; give it a vocabulary",
            )


def history_problems(config: "RecapConfig") -> Problems:
    """Histories without an encoder, encoders without a history, and candidates of another table."""
    features, models = config.features, config.model.histories
    for name in models:
        if name not in features.histories and name != DEFAULT:
            yield ("model", "histories", name), unknown(name, "history", list(features.histories))
    for name, history in features.histories.items():
        if name not in models and DEFAULT not in models:
            advice = f"add '{name}: {{encoder: {{kind: …}}}}' or 'default: {{…}}'"
            yield ("model", "histories"), f"no encoder for history {name!r}; {advice}"
            continue
        place: KeyPath = ("model", "histories", name if name in models else DEFAULT, "encoder")
        encoder = models[name if name in models else DEFAULT].encoder
        if not isinstance(encoder, PoolingConfig):
            yield from (((*place, "target"), text) for text in _target_problems(config, name, history, encoder.target))
        for table in _tables_of(history, name):
            if config.model.widths.get(table, config.model.widths.get(DEFAULT)) == 0:
                where = table if table in config.model.embeddings else DEFAULT
                text = f"width 0 leaves out the table of {table!r}, which history {name!r} reads; give it a width"
                yield ("model", "embeddings", where), text


def _tables_of(history: HistoryColumns, name: str) -> list[str]:
    """Whose tables the events of a history are rows of, by the names that have widths."""
    ids = [history.ids.table if isinstance(history.ids, SharedTable) else name]
    return list(dict.fromkeys([*ids, *(each.table for each in _shared(history))]))


def _shared(history: HistoryColumns) -> list[SharedTable]:
    return [each for each in history.attributes.values() if isinstance(each, SharedTable)]


def _target_problems(config: "RecapConfig", name: str, history: HistoryColumns, target: str) -> Iterator[str]:
    discrete = config.features.discrete
    if not isinstance(history.ids, SharedTable):
        yield (
            f"the ids of history {name!r} have a table of their own, so no candidate can be compared to them; say "
            f"'ids: {{column: …, table: {target}}}'"
        )
    elif target not in discrete:
        yield unknown(target, "discrete feature", list(discrete))
    else:
        found = discrete[target]
        table = found.table if isinstance(found, SharedTable) else target
        if table != history.ids.table:
            ids = history.ids.table
            yield f"{target!r} uses the table of {table!r}, but the ids of history {name!r} use that of {ids!r}"
        if found.length > 1:
            yield f"{target!r} holds {found.length} values a row; the candidate must be one"


def join_problems(config: "RecapConfig") -> Problems:
    """Names to join that are neither binary nor a vector."""
    featurization, path = config.model.featurization, ("model", "featurization", "join")
    known = [BINARY, *config.features.vectors]
    for index, name in enumerate(featurization.join):
        if name not in known:
            yield (*path, index), f"{name!r} is neither {BINARY} nor a vector of features. {suggest(name, known)}"
        elif name in featurization.join[:index]:
            yield (*path, index), f"{name!r} is named twice; once is enough"
    if BINARY in config.features.vectors and BINARY in featurization.join:
        yield path, f"{BINARY!r} is the name of a vector too, so it cannot be told which is meant; rename the vector"


def position_problems(config: "RecapConfig") -> Problems:
    """A position that is no integer code, or has a table beside."""
    debias, path = config.model.position_debias, ("model", "position_debias", "feature")
    if debias is None:
        return
    name, discrete = debias.feature, config.features.discrete
    if name not in discrete:
        yield path, unknown(name, "discrete feature", list(discrete))
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
