"""What `recap config check --data` looks at: every file and column that a configuration names, without reading rows."""

from collections.abc import Iterable, Iterator

import pyarrow as pa

from recap.config.base import KeyPath, dotted
from recap.config.data import Inputs
from recap.config.discrete import Discrete, SharedTable, VocabularySpace
from recap.config.features import FeaturesConfig
from recap.config.featurization import ZScoreLogConfig
from recap.config.file.load import Resolved
from recap.config.file.validate import in_order, origin_at
from recap.config.recap import JobMode, RecapConfig
from recap.data.encoding.analysis import load_analysis
from recap.data.encoding.assets import Assets, code_of, discrete_size, load_assets
from recap.data.encoding.encoder import RowEncoder
from recap.data.encoding.labels import LabelEncoder
from recap.data.encoding.pretrained import pretrained_rows
from recap.data.formats.files import find_files
from recap.data.formats.format import Format
from recap.data.formats.open import chunks_of, open_format
from recap.errors import ConfigError, DataError, Problem


def check_data(resolved: Resolved) -> None:
    """Compare a configuration with the data it names.

    Raises ConfigError with every glob that matches nothing, missing column, wrong type and unusable vocabulary, each at
    the place of the configuration that asks for it.
    """
    found: dict[str, KeyPath] = {}
    for path, error in _problems(resolved.config):
        found.setdefault(str(error), path)  # what two places ask for is told of the first
    if found:
        places = ((origin_at(resolved.root, path, key=True), dotted(path), text) for text, path in found.items())
        raise ConfigError(in_order([Problem(*place) for place in places]))


DataProblems = Iterator[tuple[KeyPath, DataError]]
Parts = dict[KeyPath, RowEncoder]
"""An encoder for every column by itself, by the place that names the column."""


def _pretrained_problems(config: RecapConfig, assets: Assets) -> DataProblems:
    """Rows of tables that cannot be read, or do not fit, as far as the first of them tell."""
    spaces = config.features.code_spaces
    for name, said in config.model.embeddings.items():
        table = config.features.own_table(name)
        if said.pretrained is None or (isinstance(spaces[table], VocabularySpace) and table not in assets):
            continue
        size = discrete_size(spaces[table], assets.get(table))
        try:
            next(pretrained_rows(said.pretrained, name, said.width, size, spaces[table], assets.get(table)), None)
        except DataError as error:
            yield ("model", "embeddings", name, "pretrained"), error


def _problems(config: RecapConfig) -> DataProblems:
    assets: dict[str, pa.Array] = {}
    for where, features in _features_with_assets(config.features):
        try:
            assets |= load_assets(features)
        except DataError as error:
            yield where, error
    for name, stratum in config.strata.items():
        if stratum.feature in assets:
            try:
                code_of(stratum.feature, stratum.value, config.features, assets)
            except DataError as error:
                yield ("strata", name, "value"), error
    featurization = config.model.featurization
    if isinstance(featurization, ZScoreLogConfig):
        try:
            load_analysis(featurization.analysis, config.features, assets)
        except KeyError:
            pass  # a mask that cannot be read, which is told
        except DataError as error:
            yield ("model", "featurization", "analysis"), error
    yield from _pretrained_problems(config, assets)
    for path, data in config.data_sets():
        mode = JobMode.TRAIN if data is config.train_data else JobMode.EVALUATE
        job = RowEncoder.for_job(config, assets, mode, data)
        parts = dict(_feature_parts(job.read, assets))
        labels = {(*path, "tasks", task): _encoder_of(LabelEncoder([task], data.labels)) for task in data.labels}
        if data.rectify_labels is not None:
            labels[*path, "rectify_labels"] = _encoder_of(LabelEncoder(config.tasks, data.labels, data.rectify_labels))
        if config.features.user is not None:
            parts["features", "user"] = _encoder_of(LabelEncoder([], {}, user=config.features.user))
        source: KeyPath = (*path, "source")
        try:
            format_ = open_format(data.source, job.types)
        except DataError as error:
            yield source, error
            continue
        yield from _file_problems(format_, (*source, "inputs"), data.source.inputs, parts, labels)


def _encoder_of(labels: LabelEncoder) -> RowEncoder:
    """An encoder of labels alone."""
    return RowEncoder(FeaturesConfig(), {}, labels)


def _file_problems(format_: Format, path: KeyPath, inputs: Inputs, *all_parts: Parts) -> DataProblems:
    """What keeps files from serving; a part that fails is taken out: the next file would say the same."""
    files: list[str] = []
    alone: list[tuple[KeyPath, Inputs]] = [(path, inputs)]
    if isinstance(inputs, list):
        alone = [((*path, index), [glob]) for index, glob in enumerate(inputs)]
    for where, given in alone:
        try:
            files += find_files(given)
        except DataError as error:
            yield where, error
    rows: int | None = None
    for file in dict.fromkeys(files):
        try:
            schema = format_.schema(file)
            # Formats without a footer are read to count their rows, so no more files than it takes to find one.
            rows = rows or sum(chunk.rows for chunk in chunks_of(format_, file))
        except DataError as error:
            yield path, error
            continue
        for parts in all_parts:
            for part, encoder in list(parts.items()):
                try:
                    encoder.check(schema, file)
                except DataError as error:
                    yield part, error
                    del parts[part]
    if rows == 0:
        yield path, DataError(f"not a single row in {len(files)} files")


def _features_with_assets(features: FeaturesConfig) -> Iterator[tuple[KeyPath, FeaturesConfig]]:
    for name, discrete in features.discrete.items():
        yield ("features", "discrete", name, "vocabulary"), FeaturesConfig(discrete={name: discrete})
    for index, column in enumerate(features.continuous):
        yield ("features", "continuous", index, "mask"), FeaturesConfig(continuous=[column])
    for index, column in enumerate(features.binary):
        yield ("features", "binary", index, "mask"), FeaturesConfig(binary=[column])
    for name, history in features.histories.items():
        yield ("features", "histories", name), FeaturesConfig(histories={name: history})


def _feature_parts(features: FeaturesConfig, assets: Assets) -> Iterator[tuple[KeyPath, RowEncoder]]:
    for index, column in enumerate(features.continuous):
        if column.mask is None or column.name in assets:
            yield ("features", "continuous", index), RowEncoder(FeaturesConfig(continuous=[column]), assets)
    for index, column in enumerate(features.binary):
        if column.mask is None or column.name in assets:
            yield ("features", "binary", index), RowEncoder(FeaturesConfig(binary=[column]), assets)
    # Those that have a table come before those that use it: what is wrong with them is told of them.
    for name, discrete in sorted(features.discrete.items(), key=lambda item: isinstance(item[1], SharedTable)):
        part = FeaturesConfig(discrete={name: discrete} | _owners(features, [discrete]))
        if _are_known(part, assets):
            yield ("features", "discrete", name), RowEncoder(part, assets)
    for name, history in features.histories.items():
        owners = _owners(features, [history.ids, *history.attributes.values()])
        part = FeaturesConfig(discrete=owners, histories={name: history})
        if _are_known(part, assets):
            yield ("features", "histories", name), RowEncoder(part, assets)
    for name, vector in features.vectors.items():
        yield ("features", "vectors", name), RowEncoder(FeaturesConfig(vectors={name: vector}), {})


def _owners(features: FeaturesConfig, columns: Iterable[object]) -> dict[str, Discrete]:
    """The features whose tables `columns` use."""
    tables = [column.table for column in columns if isinstance(column, SharedTable)]
    return {table: features.discrete[table] for table in tables}


def _are_known(features: FeaturesConfig, assets: Assets) -> bool:
    """Whether every vocabulary is there."""
    spaces = features.code_spaces.items()
    return all(name in assets for name, space in spaces if isinstance(space, VocabularySpace))
