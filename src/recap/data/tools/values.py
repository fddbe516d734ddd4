"""`recap config check --data`: what some rows of a data set show, which its columns and types do not."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from recap.config.base import KeyPath
from recap.config.discrete import IntegerSpace, Vocabulary
from recap.config.recap import RecapConfig
from recap.data.batch import Batch
from recap.data.coverage import Coverage, advice, percent, problem_text, too_unknown
from recap.data.encoding.columns import as_one_array, values_of
from recap.data.encoding.encoder import RowEncoder
from recap.data.encoding.kinds import integers_of
from recap.data.formats.format import Chunk, Format
from recap.data.formats.location import Location
from recap.data.sample import MAX_ROWS, first_rows, sampled_chunks
from recap.data.tools.leaks import Labels, column_aucs, constant_columns, equal_labels, leaks
from recap.data.tools.names import is_named_like_outcome
from recap.errors import DataError
from recap.text import shorten

_MAX_PAIRS = 4000
"""Pairs of a column and a label that are compared on all of these rows; with more, on fewer rows."""
_MIN_PAIRED_ROWS = 2000
_MAX_LENGTH = 64
"""Values of a row of a list column that are compared with the labels one by one; longer lists are not compared."""
_MANY = 0.5
"""Share of unknown values of a vocabulary from which on they are reported: the rare values are often left out."""
_MIN_ROWS = 100
"""Rows of which a column must hold one value to be called constant."""

Finding = tuple[KeyPath, str]
"""A key path, and what is wrong with its values."""
Encoders = dict[KeyPath, RowEncoder]
"""Key path of a column → an encoder that reads this column only."""


@dataclass
class Sample:
    """Some rows of a data set."""

    path: KeyPath
    """Of the data set."""
    encoder: RowEncoder
    chunks: list[Chunk]
    """All chunks of the data set."""
    coverage: Coverage = field(init=False)
    tables: list[pa.Table] = field(default_factory=list)
    batches: list[Batch] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.coverage = Coverage(self.encoder)

    @property
    def name(self) -> str:
        """`train_data`, or the name of the validation set."""
        return str(self.path[-1])

    @property
    def files(self) -> list[str]:
        """The files with rows."""
        return list(dict.fromkeys(chunk.file for chunk in self.chunks))

    @property
    def all_rows(self) -> int:
        """The number of rows of the data set."""
        return sum(chunk.rows for chunk in self.chunks)

    @property
    def rows(self) -> int:
        """The number of rows in the sample."""
        return self.coverage.rows

    @property
    def extent(self) -> str:
        """Which rows were looked at, as text."""
        rows = f"{self.rows:,} rows"
        return f"all {rows} of {self.name}" if self.rows == self.all_rows else f"{rows} of {self.name}"

    def read(self, format_: Format, encoders: Encoders) -> Iterator[tuple[KeyPath, DataError]]:
        """Read rows; the errors of their values, one for each column."""
        remaining = dict(encoders)
        for chunk, rows in sampled_chunks(self.chunks):
            try:
                table = format_.read(chunk.file, chunk.number, self.encoder.columns)
                table = first_rows(table, rows)
                batch = self.encoder.encode(table, chunk.location())
            except DataError as error:
                errors = list(errors_of_columns(format_, chunk, remaining))
                for path, _ in errors:
                    del remaining[path]
                if not errors and len(remaining) == len(encoders):
                    errors = [((*self.path, "source"), error)]
                yield from errors
            else:
                self.coverage.add(batch, table)
                self.tables.append(table)
                self.batches.append(batch)


def errors_of_columns(format_: Format, chunk: Chunk, encoders: Encoders) -> Iterator[tuple[KeyPath, DataError]]:
    """The errors of the values of a chunk, one for each column."""
    for path, encoder in encoders.items():
        table = None
        try:
            table = format_.read(chunk.file, chunk.number, encoder.columns).slice(0, MAX_ROWS)
            encoder.encode(table, chunk.location())
        except DataError as error:
            yield path, DataError(f"{error}{_range_of_labels(encoder, table)}", error.rows)


def _range_of_labels(encoder: RowEncoder, table: pa.Table | None) -> str:
    """A hint if the labels run from 0 to 9, as in the files that the published generator of random data writes."""
    if table is None or encoder.labels is None or not encoder.labels.tasks:
        return ""
    column = table.column(0)
    if not pa.types.is_integer(column.type) and not pa.types.is_floating(column.type):
        return ""
    distinct = pc.unique(column).drop_null().to_pylist()
    if not 2 < len(distinct) <= 10 or not set(distinct) <= set(range(10)):
        return ""
    if len(distinct) == 10:
        return ". It holds 0 to 9, as the published script for random data writes; 'recap data simulate' writes 0 and 1"
    return f". It holds {', '.join(f'{value:g}' for value in sorted(distinct))}; make it 0 and 1 by a threshold"


def class_counts(sample: Sample, config: RecapConfig) -> dict[str, tuple[int, int]]:
    """Binary task of the data set → the number of negatives and of positives in the sample."""
    labels = _labels(sample, config)
    return {task: (int((values == 0).sum()), int((values == 1).sum())) for task, values in labels.items()}


def unknown_problems(sample: Sample, limit: float | None) -> Iterator[Finding]:
    """Features with more unknown values than `features.max_unknown`."""
    for count in too_unknown(sample.coverage.result(), limit):
        yield count.path, f"{problem_text(count, limit)}, in {sample.extent}. {advice(limit)}"


def value_warnings(sample: Sample, config: RecapConfig) -> Iterator[Finding]:
    """Unknown and constant values, leaks, and labels without two classes."""
    if not sample.rows:
        return
    reported = {path for path, _ in unknown_problems(sample, config.features.max_unknown)}
    yield from _unknown_warnings(sample, config, reported)
    labels = _labels(sample, config)
    yield from _label_warnings(sample, labels)
    if sample.path == ("train_data",):
        yield from _leak_warnings(sample, config, labels)


def _unknown_warnings(sample: Sample, config: RecapConfig, reported: set[KeyPath]) -> Iterator[Finding]:
    features = config.features
    for count in sample.coverage.result():
        if not count.values or count.path in reported:
            continue
        missing, share = count.missing or 0, count.unknown / count.values
        example = "" if count.example is None else f", such as {shorten(repr(count.example))}"
        text = f"{percent(count.unknown, count.values)} of the values of {count.feature!r} are unknown{example}"
        discrete = features.discrete.get(count.feature)
        space = discrete and features.code_spaces[features.table_of(count.feature, discrete)]
        if isinstance(space, IntegerSpace) and count.unknown:
            highest = _highest(sample, count.feature)
            beyond = f"; the highest is {highest:,}, so raise size" if highest >= space.size else ""
            yield count.path, f"{text}: beyond 0 to {space.size - 1:,}, in {sample.extent}{beyond}"
        elif share >= _MANY:
            yield count.path, f"{text}, in {sample.extent}"
        if missing == count.values and sample.rows >= _MIN_ROWS:
            yield count.path, f"every value of {count.feature!r} is missing or not finite, in {sample.extent}"


def _highest(sample: Sample, name: str) -> int:
    """The highest integer of a discrete feature."""
    discrete = sample.encoder.features.discrete[name]
    of = None if isinstance(discrete, Vocabulary) else discrete.of
    values = [values_of(table, name, discrete.length, Location(""), of)[0] for table in sample.tables]
    highest = [pc.max(integers_of(part, name, Location(""), "integers")).as_py() for part in values]
    return max((value for value in highest if value is not None), default=0)


def _labels(sample: Sample, config: RecapConfig) -> Labels:
    """Label of each binary task of the data set → its values, NaN where missing."""
    labels: dict[str, npt.NDArray[np.float32]] = {}
    assert sample.encoder.labels is not None
    for index, task in enumerate(config.tasks):
        if task in sample.encoder.labels.labels and task not in config.regressions:
            parts = []
            for batch in sample.batches:
                assert batch.labels is not None
                assert batch.weights is not None
                values = batch.labels[:, index].numpy().copy()
                values[batch.weights[:, index].numpy() == 0] = np.nan
                parts.append(values)
            labels[task] = np.concatenate(parts) if parts else np.empty(0, np.float32)
    return labels


def _label_warnings(sample: Sample, labels: Labels) -> Iterator[Finding]:
    for task, values in labels.items():
        known = values[~np.isnan(values)]
        path = (*sample.path, "tasks", task)
        if not len(known):
            yield path, f"{task} has no label in {sample.extent}"
        elif known.min() == known.max():
            classes = "only positives" if known[0] else "no positives"
            yield path, f"{task} has {classes} in {sample.extent}, so metrics such as AUC may be undefined"
    for one, other in equal_labels(labels):
        yield (*sample.path, "tasks", other), f"the labels of {one} and {other} are equal in {sample.extent}"


def _leak_warnings(sample: Sample, config: RecapConfig, labels: Labels) -> Iterator[Finding]:
    columns = _columns_by_value(sample)
    paths: dict[str, KeyPath] = {count.feature: count.path for count in sample.coverage.result()}
    pairs = max(len(columns.column_names) * len(labels), 1)
    rows = min(columns.num_rows, max(_MIN_PAIRED_ROWS, sample.rows * min(_MAX_PAIRS, pairs) // pairs))
    aucs = column_aucs(columns.slice(0, rows), {task: values[:rows] for task, values in labels.items()})
    outcomes = {name for name in columns.column_names if "/" not in name and is_named_like_outcome(name)}
    for name, task, auc in leaks(aucs, outcomes):
        ranks = f"alone ranks {task} with an AUC of {auc:.4f}, in {rows:,} rows of {sample.name}"
        if name in outcomes:
            text = (
                f"is named like an outcome, which is known only after the impression, and {ranks}; leave it out if so"
            )
        else:
            text = f"{ranks}; leave it out if it is known only after the impression"
        yield paths.get(name) or paths[name.rpartition("[")[0]], f"{name!r} {text}"
    if columns.num_rows >= _MIN_ROWS:
        for name in constant_columns(columns):
            is_column = name in paths and paths[name][1] != "histories"  # a history is compared by its length
            if is_column and columns.column(name).null_count < columns.num_rows:
                yield paths[name], f"{name!r} holds a single value in {sample.extent}"


def _columns_by_value(sample: Sample) -> pa.Table:
    """A column for each number or code that is read from a row, and one for the lists of each history.

    If the files differ in their types, the rows of the first table alone.
    """
    tables = [pa.table(dict(_columns(table, sample.encoder))) for table in sample.tables]
    try:
        return pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException:
        return tables[0]


def _columns(table: pa.Table, encoder: RowEncoder) -> Iterator[tuple[str, pa.Array]]:
    features = encoder.features
    columns = {column.name: (column.length, column.of) for column in (*features.continuous, *features.binary)}
    for name, discrete in encoder.read_features.discrete.items():
        columns[name] = discrete.length, None if isinstance(discrete, Vocabulary) else discrete.of
    for name, (length, of) in columns.items():
        if length <= _MAX_LENGTH:
            values, valid = values_of(table, name, length, Location(""), of)
            if valid is not None:  # with nulls for the rows that have no list
                indices = np.full((table.num_rows, length), -1)
                indices[valid] = np.arange(len(values)).reshape(-1, length)
                values = values.take(pa.array(indices.reshape(-1), mask=indices.reshape(-1) < 0))
            for position in range(length):
                yield (name if length == 1 else f"{name}[{position}]"), values[position::length]
    for name, history in features.histories.items():
        yield f"{name}/ids", as_one_array(table.column(history.ids.column))
