"""`recap config check --data`: checks every file and column that a config names, without reading rows."""

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

    Raises ConfigError with every glob without a match, missing column, wrong type and invalid vocabulary, each at the
    origin of the key that needs it.
    """
    paths: dict[str, KeyPath] = {}
    for path, error in _problems(resolved.config):
        paths.setdefault(str(error), path)  # the same error of two keys is reported once
    if paths:
        problems = [
            Problem(origin_at(resolved.root, path, key=True), dotted(path), text) for text, path in paths.items()
        ]
        raise ConfigError(in_order(problems))


DataProblems = Iterator[tuple[KeyPath, DataError]]
Parts = dict[KeyPath, RowEncoder]
"""Key path of a column → an encoder of that column alone."""


def _pretrained_problems(config: RecapConfig, assets: Assets) -> DataProblems:
    """Pretrained rows that cannot be read or do not fit; only the first chunk is checked."""
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
            pass  # a mask that cannot be read; reported above
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
    """Files that are missing, damaged or do not fit; each column is reported once, for the first such file."""
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
            # Formats without a footer are read to count rows, so counting stops at the first file that has any.
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


def _feature_parts(features: FeaturesConfig, assets: Assets) -> Iterator[tuple[KeyPath, RowEncoder]]:
    for index, column in enumerate(features.continuous):
        if column.mask is None or column.name in assets:
            yield ("features", "continuous", index), RowEncoder(FeaturesConfig(continuous=[column]), assets)
    for index, column in enumerate(features.binary):
        if column.mask is None or column.name in assets:
            yield ("features", "binary", index), RowEncoder(FeaturesConfig(binary=[column]), assets)
    # Owners of tables come first: their problems are reported for them, not for the features that share the table.
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
    """The features that own the tables of `columns`."""
    tables = [column.table for column in columns if isinstance(column, SharedTable)]
    return {table: features.discrete[table] for table in tables}


def _are_known(features: FeaturesConfig, assets: Assets) -> bool:
    """Whether every vocabulary is loaded."""
    spaces = features.code_spaces.items()
    return all(name in assets for name, space in spaces if isinstance(space, VocabularySpace))
