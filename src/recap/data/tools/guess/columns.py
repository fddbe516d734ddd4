"""`recap config new`: reads a sample of the rows, and sorts columns into labels, features and the rest."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recap.config.data import SourceConfig
from recap.config.file.starter import Columns, Guess
from recap.data.encoding.kinds import decoded, is_list, is_number, is_text
from recap.data.formats.format import Chunk
from recap.data.formats.tables import TableFiles
from recap.data.tools.guess.labels import Numbers, guessed_label, label_numbers, looks_like_label, stated_label
from recap.data.tools.guess.options import LABEL_KINDS, StatedColumns
from recap.data.tools.guess.roles import Roles
from recap.data.tools.guess.scale import scale_of
from recap.data.tools.guess.split import Split, find_split
from recap.data.tools.leaks import column_aucs, leaks
from recap.errors import DataError, InputError
from recap.text import suggest

_MAX_ROWS = 200_000
"""Rows that are sampled."""
_MAX_CHUNKS = 64
"""Chunks that rows are sampled from."""
_MAX_UNSEEN = 1 / 3
"""Share of later rows with a value that is new, up to which a column becomes a feature."""


@dataclass(frozen=True)
class GuessedColumns:
    """The columns of some files, by role."""

    columns: Columns
    rows: int
    """Rows of all files."""
    sampled: int
    """Rows that the guesses are based on."""
    source: SourceConfig
    files: TableFiles
    split: Split | None
    """Where to split off a validation set; None without one."""
    types: dict[str, pa.DataType]
    """The type of each column in the sample."""
    vocabularies: dict[str, pa.Table]
    """File → its content, to be written."""
    scale: pa.Table
    """The scale of the continuous columns."""


def guess_columns(
    inputs: Sequence[str],
    schema_path: str | None = None,
    stated: StatedColumns | None = None,
    validation: float | Literal["last-day"] | None = None,
    vocabulary_folder: str | None = None,
) -> GuessedColumns:
    """Guess the role of every column of the files that `inputs` match, from a sample of their rows.

    `schema_path`: the JSON file that lists the columns of TFRecord files. `stated`: roles that are given, not guessed.
    `validation`: the share of rows to split off; guesses are then based on the other rows. `vocabulary_folder`: where
    vocabularies will be; None hashes strings. Raises InputError, and DataError for files that are missing or damaged,
    that differ in their columns, or that have no label or no feature.
    """
    stated = stated or StatedColumns()
    files = TableFiles.open(inputs, schema_path)
    source = files.source
    first = files.files[0]
    chunks = files.chunks()
    if not chunks:
        raise DataError(f"{first}: holds no rows; columns are guessed from their values")
    rows = sum(chunk.rows for chunk in chunks)
    names = _names(files)
    for option, column in stated.named():
        if column not in names:
            raise InputError(f"{option} {column}: no such column. {suggest(column, names)}")
    table = _sample(files, chunks, names)
    types = {field.name: field.type for field in table.schema}
    share, split = table.num_rows / rows, None
    if validation is not None:
        split = find_split(files, _time_column(table, stated), validation, rows)
    later = table.slice(0, 0)
    if split is not None and split.time is not None:
        held_out = split.is_validation(table, np.random.default_rng(0))
        table, later = table.filter(pa.array(~held_out)), table.filter(pa.array(held_out))
    roles = Roles(stated, share, vocabulary_folder)
    labels = _sort(table, names, roles, first)
    _remove_leaks(table, labels, roles)
    _remove_unseen(table, later, roles)
    _check_usable(roles.columns, first, names)
    scale = scale_of(table, [guess.name for guess in roles.columns.continuous])
    return GuessedColumns(roles.columns, rows, table.num_rows, source, files, split, types, roles.vocabularies, scale)


def _time_column(table: pa.Table, stated: StatedColumns) -> str | None:
    """The column to split by: the stated one, else the first that looks like a time."""
    if stated.time is not None:
        return stated.time
    roles = Roles(stated, 1.0, None)
    for name in table.column_names:
        roles.add(name, _array(table, name))
    return roles.columns.timestamp[0].name if roles.columns.timestamp else None


def _array(table: pa.Table, name: str) -> pa.Array:
    return decoded(table.column(name).combine_chunks())


def _names(files: TableFiles) -> list[str]:
    """The columns of the first file. Raises DataError if another file lacks one, or if a file has one twice."""
    first = files.files[0]
    expected: list[str] = files.schema(first).names
    for file in files.files:
        names = files.schema(file).names
        twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
        if twice:
            raise DataError(f"{file}: columns appear twice: {', '.join(twice)}; rename them")
        missing = [name for name in expected if name not in names]
        if missing:
            raise DataError(f"{file}: lacks the columns {', '.join(missing)} of {first}")
    return expected


def _sample(files: TableFiles, chunks: Sequence[Chunk], names: Sequence[str]) -> pa.Table:
    """The first rows of chunks that are spread evenly over the files."""
    if len(chunks) > _MAX_CHUNKS:
        chunks = [chunks[index * len(chunks) // _MAX_CHUNKS] for index in range(_MAX_CHUNKS)]
    tables = [table.slice(0, _MAX_ROWS // len(chunks)) for _, table in files.tables(names, chunks)]
    parts = [{name: _comparable(table.column(name)) for name in names} for table in tables]
    for name in names:
        kinds = [part[name].type for part in parts]
        if any(map(is_text, kinds)) and any(map(is_number, kinds)):  # ids of digits in one file, of letters in another
            for part in parts:
                part[name] = part[name].cast(pa.string())
    try:
        return pa.concat_tables(map(pa.table, parts), promote_options="permissive")
    except pa.ArrowException as error:
        raise DataError(f"{files.files[0]} and other files hold columns of different types ({error})") from None


def _comparable(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Decode dictionaries and turn booleans into integers, so that files may differ in these types."""
    values = decoded(column.combine_chunks())
    return pa.chunked_array([values.cast(pa.int8()) if pa.types.is_boolean(values.type) else values])


def _sort(table: pa.Table, names: Sequence[str], roles: Roles, file: str) -> dict[str, Numbers]:
    """Add every column to its role; return the values of the labels."""
    columns, labels = roles.columns, {}
    of_labels = {label.column for label in roles.stated.labels}
    others = {roles.stated.user, roles.stated.item, roles.stated.time}
    for stated in roles.stated.labels:
        label, numbers = stated_label(file, stated, _array(table, stated.column))
        columns.labels.append(label)
        labels[label.name] = numbers
    for name in names:
        values = _array(table, name)
        if name in of_labels:
            continue
        if name not in others and looks_like_label(name, values):
            numbers = label_numbers(values)
            guessed = guessed_label(name, numbers)
            if guessed is None or not np.isfinite(numbers[~np.isnan(numbers)]).all():
                columns.left_out.append(Guess(name, "named like an engagement, but a label is 0, 1 or null"))
            else:
                columns.labels.append(guessed)
                labels[name] = numbers
        else:
            roles.add(name, values)
    return labels


def _remove_leaks(table: pa.Table, labels: dict[str, Numbers], roles: Roles) -> None:
    """Leave out features that alone tell a label. A regression counts as whether its label is above the median."""
    columns = roles.columns
    classes = {
        name: numbers if set(np.unique(numbers[~np.isnan(numbers)])) <= {0.0, 1.0} else _above_median(numbers)
        for name, numbers in labels.items()
    }
    for role in (columns.continuous, columns.binary, columns.discrete, columns.vectors, columns.histories):
        alone = column_aucs(table.select([guess.name for guess in role]), classes)
        for leak in leaks(alone):
            guess = next((guess for guess in role if guess.name == leak.column), None)
            if guess is None:  # left out already, for another label
                continue
            why = f"alone tells {leak.label} (AUC {leak.auc:.3f}), so it is most likely known only afterwards"
            roles.drop(guess, role, why)


def _remove_unseen(table: pa.Table, later: pa.Table, roles: Roles) -> None:
    """Leave out discrete columns whose values change over time, such as months, or users who come once.

    An embedding learns nothing about values that training lacks.
    """
    if not later.num_rows or not roles.is_complete:
        return
    for guess in list(roles.columns.discrete):
        values, seen = _array(later, guess.name), _array(table, guess.name)
        if is_list(values.type):
            continue
        unseen = 1 - pc.mean(pc.is_in(values, value_set=seen.unique())).as_py()
        if unseen > _MAX_UNSEEN:
            why = f"as a feature: {unseen:.0%} of the later rows hold a value that the earlier rows lack"
            roles.drop(guess, roles.columns.discrete, why)


def _above_median(numbers: Numbers) -> Numbers:
    return np.where(np.isnan(numbers), np.nan, (numbers > np.nanmedian(numbers)).astype(np.float64))


def _check_usable(columns: Columns, file: str, names: Sequence[str]) -> None:
    """Raise DataError without a label or a feature."""
    listed = ", ".join(names)
    if not columns.labels:
        raise DataError(
            f"{file}: no column looks like a label: 0 or 1, and named like an engagement, such as is_clicked. Name it "
            f"with --label COLUMN, or --label COLUMN:KIND ({LABEL_KINDS}). Found: {listed}"
        )
    if not columns.has_features:
        why = "".join(f" {guess.name}: {guess.comment}." for guess in columns.left_out[:3])
        raise DataError(f"{file}: no column looks like a feature.{why} Found: {listed}")
