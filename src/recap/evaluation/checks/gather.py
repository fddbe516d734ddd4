"""Gathers the evidence of checks: samples of the training rows and of the split, compared and scored."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from hashlib import blake2b
from typing import Any

import numpy as np

from recap.config.recap import JobMode, RecapConfig
from recap.data.encoding.assets import Assets
from recap.data.formats.tables import TableFiles
from recap.data.open import open_source
from recap.data.sample import SampledRows, sampled_rows
from recap.data.stream.source import Source
from recap.data.tools.leaks import ColumnAuc, column_aucs, leaks
from recap.data.tools.shared import shared_files
from recap.data.tools.times import time_range
from recap.errors import DataError
from recap.evaluation.checks.evidence import Evidence, Overlap
from recap.evaluation.checks.trees import against_trees
from recap.evaluation.drift import Drift
from recap.evaluation.evaluate import estimates_of, predictions_of
from recap.evaluation.importance import METRICS, FeatureImportance, sample_of
from recap.evaluation.metrics.estimate import Estimates
from recap.evaluation.observers.conflicts import conflicts
from recap.evaluation.result import Conflicts, SplitResult
from recap.evaluation.slices import Slices
from recap.model.scorer import Scorer
from recap.runtime import Runtime

_MAX_ROWS = 50_000
"""Training rows that are scored."""
_MAX_TIMED_FILES = 32
"""Files of which all times are read: the last of the training files, and the first of the split."""
_BLOCK = 1024
"""Rows of which gradients are taken at once."""


def gather(
    config: RecapConfig,
    assets: Assets,
    scorer: Scorer,
    split: str,
    result: SplitResult,
    runtime: Runtime,
    records: Sequence[Mapping[str, Any]] = (),
    *,
    slices: Slices | None = None,
    drift: Drift | None = None,
    importance: Sequence[FeatureImportance] = (),
    trees: bool = True,
) -> Evidence:
    """The evidence on `split`, whose evaluation is `result`; training files that are gone leave their checks silent.

    `trees`: compare with LightGBM, if it is installed.
    """
    source = open_source(config, assets, JobMode.EVALUATE, split)
    rows = list(sampled_rows(source))
    training_source, training = _training(config, assets)
    batches = [batch for batch, _ in training]
    sample = sample_of(batches, _MAX_ROWS) if batches else None
    estimates: Estimates = {}
    cosines: Conflicts = {}
    if sample is not None:
        estimates = estimates_of(predictions_of(scorer, [sample]), sample, config, METRICS)
        cosines = conflicts(scorer.ranker, sample.blocks(_BLOCK), config, split, runtime)
    return Evidence(
        config,
        split,
        result,
        estimates,
        records,
        slices,
        drift,
        importance,
        _leaks(rows, config),
        _overlap(source, rows, training_source, training, config.features.timestamp),
        cosines,
        against_trees(scorer, sample, sample_of([batch for batch, _ in rows]), config) if trees and sample else {},
    )


def _training(config: RecapConfig, assets: Assets) -> tuple[Source | None, SampledRows]:
    """The training rows; none if their files are gone, as those of a model from elsewhere."""
    with suppress(DataError):
        source = open_source(config, assets, JobMode.EVALUATE)
        return source, list(sampled_rows(source))
    return None, []


def _leaks(rows: SampledRows, config: RecapConfig) -> list[ColumnAuc]:
    """Features that alone rank the rows of a binary task almost perfectly."""
    if not rows:
        return []
    names = [name for name in config.features.columns if all(name in table.column_names for _, table in rows)]
    binary = [index for index, task in enumerate(config.tasks) if task not in config.regressions]
    by_column: dict[tuple[str, str], ColumnAuc] = {}
    batch, table = max(rows, key=lambda item: len(item[0]))
    assert batch.labels is not None
    labels = {config.tasks[index]: batch.labels[:, index].double().numpy() for index in binary}
    for auc in leaks(column_aucs(table.select(names), labels)):
        by_column[auc.column, auc.label] = auc
    return list(by_column.values())


def _overlap(
    source: Source, rows: SampledRows, training_source: Source | None, training: SampledRows, timestamp: str | None
) -> Overlap:
    if training_source is None:
        return Overlap()
    files, training_files = _files(source), _files(training_source)
    ends = starts = None
    if timestamp is not None:
        ends = max(
            (last for _, last in _times(training_source, training_files[-_MAX_TIMED_FILES:], timestamp)), default=None
        )
        starts = min((first for first, _ in _times(source, files[:_MAX_TIMED_FILES], timestamp)), default=None)
    known, repeats = set[bytes](), 0
    for digest in _digests(training):
        repeats += digest in known
        known.add(digest)
    digests = list(_digests(rows))
    return Overlap(
        ends,
        starts,
        [file for file, _ in shared_files(training_files, files, source.loader.config)],
        sum(digest in known for digest in digests),
        len(digests),
        repeats / max(sum(len(batch) for batch, _ in training), 1),
    )


def _files(source: Source) -> list[str]:
    return list(dict.fromkeys(chunk.file for chunk in source.chunks))


def _times(source: Source, files: Sequence[str], column: str) -> Iterator[tuple[int, int]]:
    """The first and the last time of each file, in microseconds; nothing if the column is missing or holds no times."""
    with suppress(DataError):
        tables = TableFiles(dict.fromkeys(files, source.loader.config))
        for file in files:
            ends = time_range(tables, file, column)
            if ends is not None:
                yield ends


def _digests(rows: SampledRows) -> Iterator[bytes]:
    """A digest of everything that a model reads of each row, with its labels."""
    for batch, _ in rows:
        parts = [
            np.ascontiguousarray(tensor.float().numpy()).reshape(len(batch), -1).view(np.uint8)
            if tensor.is_floating_point()
            else np.ascontiguousarray(tensor.numpy()).reshape(len(batch), -1).view(np.uint8)
            for name, tensor in batch.tensors().items()
            if name != "weights" and tensor.numel()
        ]
        for row in np.concatenate(parts, axis=1):
            yield blake2b(row.tobytes(), digest_size=16).digest()
