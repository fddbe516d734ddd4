"""`recap config check --data`: checks the files and columns that a configuration names, without reading all rows."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, NamedTuple

import pyarrow as pa

from recap.config.base import KeyPath, dotted
from recap.config.data import Inputs, SkipConfig
from recap.config.discrete import Discrete, SharedTable, VocabularySpace
from recap.config.evaluation.strata import ValueStratum
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
from recap.data.formats.format import Chunk, Format, list_chunks, no_rows
from recap.data.formats.open import open_format
from recap.data.tools.overlap import overlap_warnings
from recap.data.tools.values import Encoders, Sample, class_counts, errors_of_columns, unknown_problems, value_warnings
from recap.errors import ConfigError, DataError, Problem

DataProblems = Iterator[tuple[KeyPath, DataError]]
_NEEDS_POSITIVES = {"recall", "calibration", "pr_auc", "positive_rank", "reciprocal_rank", "hit_at", "ndcg_at"}
_NEEDS_BOTH_CLASSES = {"auc", "grouped_auc", "ne", "rce", "nrce"}


class DataReport(NamedTuple):
    """What a check of data without problems saw."""

    warnings: list[Problem]
    files: int
    rows: int
    """Rows of all data sets."""
    sampled: int
    """Rows whose values were checked."""


def check_data(resolved: Resolved, teachers: Mapping[str, RowEncoder] = MappingProxyType({})) -> DataReport:
    """Compare a configuration with its data: names and types of the columns of all files, and values of some rows.

    `teachers`: the first task of each teacher that is a model → what that teacher reads.
    Raises ConfigError with all globs without a match, missing columns, wrong types and values, and invalid assets, each
    at the origin of the key that needs it.
    """
    config, root = resolved.config, resolved.root
    samples: list[Sample] = []
    paths: dict[str, KeyPath] = {}
    for path, error in _problems(config, samples, teachers):
        paths.setdefault(str(error), path)  # report an error of several keys once
    if paths:
        problems = [Problem(origin_at(root, path, key=True), dotted(path), text) for text, path in paths.items()]
        raise ConfigError(in_order(problems))
    findings = list(overlap_warnings(samples, config))
    for sample in samples:
        reported = {path for path, _ in findings}  # what is wrong with a feature in one data set often is in all
        findings += [(path, text) for path, text in value_warnings(sample, config) if path not in reported]
    warnings = [Problem(origin_at(root, path, key=True), dotted(path), text) for path, text in findings]
    files = len({file for sample in samples for file in sample.files})
    totals = [sum(sample.all_rows for sample in samples), sum(sample.rows for sample in samples)]
    return DataReport(in_order(warnings), files, *totals)


def _problems(config: RecapConfig, samples: list[Sample], teachers: Mapping[str, RowEncoder]) -> DataProblems:
    """All problems; appends a sample of each data set that can be read to `samples`."""
    assets: dict[str, pa.Array] = {}
    for path, features in _features_with_assets(config.features):
        try:
            assets |= load_assets(features)
        except DataError as error:
            yield path, error
    for name, stratum in config.strata.items():
        if not isinstance(stratum, ValueStratum) or stratum.feature not in config.features.discrete:
            continue
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
    assets_are_loaded = masks_are_loaded and _has_vocabularies(config.features, assets)
    assets_are_loaded &= all(column.mask is None or column.name in assets for column in config.features.binary)
    for path, data in config.data_sets():
        mode = JobMode.TRAIN if data is config.train_data else JobMode.EVALUATE
        job = RowEncoder.for_job(config, assets, mode, data, [*teachers.values()])
        encoders = dict(_feature_encoders(job.read_features, assets)) | _label_encoders(job, path)
        if mode is JobMode.TRAIN:
            encoders |= {
                ("model", "tasks", task, "distillation", "directory"): RowEncoder(FeaturesConfig(), {}, teachers=[one])
                for task, one in teachers.items()
            }
        try:
            format_ = open_format(data.source, job.types)
        except DataError as error:
            yield (*path, "source"), error
            continue
        chunks: list[Chunk] = []
        expected = len(encoders)
        yield from _file_problems(format_, (*path, "source", "inputs"), data.source.inputs, encoders, chunks)
        files = set(list(dict.fromkeys(chunk.file for chunk in chunks))[: data.source.num_files_to_keep])
        chunks = [chunk for chunk in chunks if chunk.file in files]
        budget = data.on_bad_data.budget if isinstance(data.on_bad_data, SkipConfig) else 0
        errors: Iterable[tuple[KeyPath, DataError]] = ()
        if chunks and len(encoders) == expected and assets_are_loaded:
            sample = Sample(path, job, chunks)
            errors = list(sample.read(format_, encoders))
            yield from _sample_problems(sample, config)
            samples.append(sample)
        elif chunks:
            errors = errors_of_columns(format_, chunks[0], encoders)
        yield from ((key, error) for key, error in errors if not 0 < len(error.rows) <= budget)


def _sample_problems(sample: Sample, config: RecapConfig) -> DataProblems:
    """Features with too many unknown values, and a watched metric that is undefined."""
    for path, text in unknown_problems(sample, config.features.max_unknown):
        yield path, DataError(text)
    watch = config.training.watch
    if watch is None or watch.split != sample.name or sample.rows < sample.all_rows:
        return
    for task, (negatives, positives) in class_counts(sample, config).items():
        lacks_positives = not positives and watch.metric in _NEEDS_POSITIVES | _NEEDS_BOTH_CLASSES
        lacks_negatives = not negatives and watch.metric in _NEEDS_BOTH_CLASSES
        if (watch.tasks is None or task in watch.tasks) and (lacks_positives or lacks_negatives):
            missing = "no positives" if lacks_positives else "no negatives"
            text = f"{watch.metric} of {task} is undefined on {sample.name}, which has {missing}; watch other tasks"
            yield ("training", "watch"), DataError(text)


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


def _label_encoders(job: RowEncoder, path: KeyPath) -> Encoders:
    """An encoder for each label of a data set, for its rectification, and for users and lists."""
    labels = job.labels
    assert labels is not None
    nothing: dict[str, Any] = {"teachers": {}, "user": None, "request": None, "timestamp": None, "strata_time": None}
    alone = replace(labels, tasks=[], rectify=None, **nothing)
    parts: dict[KeyPath, LabelEncoder] = {}
    if labels.user is not None:
        parts["features", "user"] = replace(alone, user=labels.user)
    if labels.request is not None:
        parts["features", "request"] = replace(alone, request=labels.request, lists_are_requests=True)
    if labels.timestamp is not None:
        parts["features", "timestamp"] = replace(alone, user=labels.user, timestamp=labels.timestamp)
    elif labels.strata_time is not None:
        parts["features", "timestamp"] = replace(alone, strata_time=labels.strata_time)
    for task, column in labels.teachers.items():
        key = ("model", "tasks", task, "distillation", "column")
        parts[key] = replace(alone, tasks=[task], labels={}, teachers={task: column})
    for task in labels.labels:
        parts[*path, "tasks", task] = replace(alone, tasks=[task])
    if labels.rectify is not None:
        parts[*path, "rectify_labels"] = replace(labels, **nothing)
    return {key: RowEncoder(FeaturesConfig(), {}, part) for key, part in parts.items()}


def _file_problems(
    format_: Format, path: KeyPath, inputs: Inputs, encoders: Encoders, chunks: list[Chunk]
) -> DataProblems:
    """Files that are missing, damaged or do not fit; each column is reported once, for the first such file.

    Removes the reported columns from `encoders`, and appends the chunks of good files to `chunks`.
    """
    files: list[str] = []
    globs: list[tuple[KeyPath, Inputs]] = [(path, inputs)]
    if isinstance(inputs, list):
        globs = [((*path, index), [glob]) for index, glob in enumerate(inputs)]
    for glob_path, glob_inputs in globs:
        try:
            files += find_files(glob_inputs)
        except DataError as error:
            yield glob_path, error
    is_empty = bool(files)
    for file in dict.fromkeys(files):
        try:
            file_chunks = list_chunks(format_, file)
            is_empty = is_empty and not file_chunks
            if not file_chunks:  # the columns of a file without rows may have any type, or be unknown
                continue
            schema = format_.schema(file)
        except DataError as error:
            yield path, error
            is_empty = False
            continue
        chunks += file_chunks
        for column, encoder in list(encoders.items()):
            try:
                encoder.check(schema, file)
            except DataError as error:
                yield column, error
                del encoders[column]
    if is_empty:
        yield path, no_rows(list(dict.fromkeys(files)))


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
