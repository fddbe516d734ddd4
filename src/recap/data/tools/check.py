"""`recap config check --data`: checks the files and columns that a configuration names, without reading all rows."""

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
from recap.data.formats.format import Format, list_chunks
from recap.data.formats.open import open_format
from recap.errors import ConfigError, DataError, Problem

DataProblems = Iterator[tuple[KeyPath, DataError]]
Encoders = dict[KeyPath, RowEncoder]
"""Key path of a column → an encoder that reads this column only."""


def check_data(resolved: Resolved) -> None:
    """Compare a configuration with its data.

    Raises ConfigError with all globs without a match, missing columns, wrong types and invalid assets, each at the
    origin of the key that needs it.
    """
    paths: dict[str, KeyPath] = {}
    for path, error in _problems(resolved.config):
        paths.setdefault(str(error), path)  # report an error of several keys once
    if paths:
        problems = [
            Problem(origin_at(resolved.root, path, key=True), dotted(path), text) for text, path in paths.items()
        ]
        raise ConfigError(in_order(problems))


def _problems(config: RecapConfig) -> DataProblems:
    assets: dict[str, pa.Array] = {}
    for path, features in _features_with_assets(config.features):
        try:
            assets |= load_assets(features)
        except DataError as error:
            yield path, error
    for name, stratum in config.strata.items():
        if config.features.table_of(stratum.feature, config.features.discrete[stratum.feature]) in assets:
            try:
                code_of(stratum.feature, stratum.value, config.features, assets)
            except DataError as error:
                yield ("strata", name, "value"), error
    featurization = config.model.featurization
    masks_are_loaded = all(column.mask is None or column.name in assets for column in config.features.continuous)
    if isinstance(featurization, ZScoreLogConfig) and masks_are_loaded:  # others are reported above
        try:
            load_analysis(featurization.analysis, config.features, assets)
        except DataError as error:
            yield ("model", "featurization", "analysis"), error
    yield from _pretrained_problems(config, assets)
    for path, data in config.data_sets():
        mode = JobMode.TRAIN if data is config.train_data else JobMode.EVALUATE
        job = RowEncoder.for_job(config, assets, mode, data)
        encoders = dict(_feature_encoders(job.read_features, assets))
        if config.features.user is not None:
            encoders["features", "user"] = _label_encoder(LabelEncoder([], {}, user=config.features.user))
        for task in data.labels:
            encoders[*path, "tasks", task] = _label_encoder(LabelEncoder([task], data.labels))
        if data.rectify_labels is not None:
            labels = LabelEncoder(config.tasks, data.labels, data.rectify_labels)
            encoders[*path, "rectify_labels"] = _label_encoder(labels)
        source: KeyPath = (*path, "source")
        try:
            format_ = open_format(data.source, job.types)
        except DataError as error:
            yield source, error
            continue
        yield from _file_problems(format_, (*source, "inputs"), data.source.inputs, encoders)


def _pretrained_problems(config: RecapConfig, assets: Assets) -> DataProblems:
    """Pretrained rows that cannot be read or do not fit; only the first chunk of each table is checked."""
    spaces = config.features.code_spaces
    for name, embedding in config.model.embeddings.items():
        table = config.features.own_table(name)
        if embedding.pretrained is None or (isinstance(spaces[table], VocabularySpace) and table not in assets):
            continue
        size = discrete_size(spaces[table], assets.get(table))
        try:
            rows = pretrained_rows(embedding.pretrained, name, embedding.width, size, spaces[table], assets.get(table))
            next(rows, None)
        except DataError as error:
            yield ("model", "embeddings", name, "pretrained"), error


def _label_encoder(labels: LabelEncoder) -> RowEncoder:
    """An encoder of labels only."""
    return RowEncoder(FeaturesConfig(), {}, labels)


def _file_problems(format_: Format, path: KeyPath, inputs: Inputs, encoders: Encoders) -> DataProblems:
    """Files that are missing, damaged or do not fit; each column is reported once, for the first such file."""
    encoders = dict(encoders)  # reported columns are removed
    files: list[str] = []
    globs: list[tuple[KeyPath, Inputs]] = [(path, inputs)]
    if isinstance(inputs, list):
        globs = [((*path, index), [glob]) for index, glob in enumerate(inputs)]
    for glob_path, glob_inputs in globs:
        try:
            files += find_files(glob_inputs)
        except DataError as error:
            yield glob_path, error
    rows: int | None = None
    for file in dict.fromkeys(files):
        try:
            schema = format_.schema(file)
            # Formats without a footer are read to count rows, so counting stops at the first file with rows.
            rows = rows or sum(chunk.rows for chunk in list_chunks(format_, file))
        except DataError as error:
            yield path, error
            continue
        for column, encoder in list(encoders.items()):
            try:
                encoder.check(schema, file)
            except DataError as error:
                yield column, error
                del encoders[column]
    if rows == 0:
        yield path, DataError(f"no rows in {len(files)} files")


def _features_with_assets(features: FeaturesConfig) -> Iterator[tuple[KeyPath, FeaturesConfig]]:
    for name, discrete in features.discrete.items():
        yield ("features", "discrete", name, "vocabulary"), FeaturesConfig(discrete={name: discrete})
    for index, column in enumerate(features.continuous):
        yield ("features", "continuous", index, "mask"), FeaturesConfig(continuous=[column])
    for index, column in enumerate(features.binary):
        yield ("features", "binary", index, "mask"), FeaturesConfig(binary=[column])
    for name, history in features.histories.items():
        yield ("features", "histories", name), FeaturesConfig(histories={name: history})


def _feature_encoders(features: FeaturesConfig, assets: Assets) -> Iterator[tuple[KeyPath, RowEncoder]]:
    for index, column in enumerate(features.continuous):
        if column.mask is None or column.name in assets:
            yield ("features", "continuous", index), RowEncoder(FeaturesConfig(continuous=[column]), assets)
    for index, column in enumerate(features.binary):
        if column.mask is None or column.name in assets:
            yield ("features", "binary", index), RowEncoder(FeaturesConfig(binary=[column]), assets)
    # Owners of tables first, so that a problem is reported for the owner, not for a feature that shares its table.
    for name, discrete in sorted(features.discrete.items(), key=lambda item: isinstance(item[1], SharedTable)):
        selected = FeaturesConfig(discrete={name: discrete} | _owners(features, [discrete]))
        if _has_vocabularies(selected, assets):
            yield ("features", "discrete", name), RowEncoder(selected, assets)
    for name, history in features.histories.items():
        owners = _owners(features, [history.ids, *history.attributes.values()])
        selected = FeaturesConfig(discrete=owners, histories={name: history})
        if _has_vocabularies(selected, assets):
            yield ("features", "histories", name), RowEncoder(selected, assets)
    for name, vector in features.vectors.items():
        yield ("features", "vectors", name), RowEncoder(FeaturesConfig(vectors={name: vector}), {})


def _owners(features: FeaturesConfig, columns: Iterable[object]) -> dict[str, Discrete]:
    """The features whose tables `columns` share."""
    tables = [column.table for column in columns if isinstance(column, SharedTable)]
    return {table: features.discrete[table] for table in tables}


def _has_vocabularies(features: FeaturesConfig, assets: Assets) -> bool:
    """Whether every vocabulary of `features` is loaded."""
    spaces = features.code_spaces.items()
    return all(name in assets for name, space in spaces if isinstance(space, VocabularySpace))
