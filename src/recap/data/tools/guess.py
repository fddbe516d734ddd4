"""`recap config new`: guesses the role of each column from its type, values and name."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from recap.config.base import DEFAULT
from recap.config.data import SourceConfig
from recap.config.file.starter import Columns, Guess
from recap.data.formats.format import Chunk
from recap.data.formats.tables import TableFiles
from recap.errors import DataError

_MAX_ROWS = 200_000
"""Rows that are sampled."""
_MAX_CHUNKS = 64
"""Chunks that rows are sampled from."""
_MAX_CODES = 10_000_000
"""Rows of the largest embedding table that is proposed."""

_ENGAGEMENT = re.compile(
    "(label|target|engage|click|like|fav|favou?rite|share|reply|replie|retweet|repost|follow|comment|forward|view|watch|"
    "purchase|buy|bought|order|convert|conversion|install|bookmark|save|report|hate|dislike|hide|hidden|block|mute|"
    "negative|skip|profile)(d|ed|s|ment)?"
)
_AGAINST = re.compile("(report|hate|dislike|hide|hidden|block|mute|negative|skip)(d|ed)?")
_OUTCOME = re.compile("(play|playback|stay|dwell|watch)(ed)?")
_COUNT = re.compile("(count|number|num|len|length|age|size|view|like|follower|total|sum|rank)s?|days|hours")
_USER = re.compile("(user|viewer|member|customer|account)(_?id)?|uid")
_TIME = re.compile("time|timestamp|ts|date|datetime|ms|at")


@dataclass(frozen=True)
class GuessedColumns:
    """The columns of some files, by role."""

    columns: Columns
    rows: int
    """Rows of all files."""
    sampled: int
    """Rows that the guesses are based on."""
    source: SourceConfig


def guess_columns(inputs: Sequence[str], schema_path: str | None = None) -> GuessedColumns:
    """Guess the role of every column of the files that `inputs` match, from a sample of their rows.

    `schema_path`: the JSON file that lists the columns of TFRecord files. Raises DataError for files that are missing
    or damaged, that differ in their columns, or that have no label or no feature.
    """
    files = TableFiles.open(inputs, schema_path)
    first = files.files[0]
    chunks = files.chunks()
    if not chunks:
        raise DataError(f"{first}: holds no rows; columns are guessed from their values")
    names = _names(files)
    table = _sample(files, chunks, names)
    untyped = {name: file for file in files.files for name in _untyped(files.schema(file))}
    columns = Columns()
    for name in names:
        if name in untyped:
            columns.left_out.append(Guess(name, f"has no type in {untyped[name]}"))
        else:
            _add_column(columns, name, table.column(name).combine_chunks())
    listed = ", ".join(names)
    if not columns.labels:
        raise DataError(
            f"{first}: no column looks like a label: 0 or 1, and named like an engagement, such as is_clicked. "
            f"Found: {listed}"
        )
    if not (columns.continuous or columns.binary or columns.discrete or columns.vectors):
        strings = f" Strings need a vocabulary: {columns.vocabularies[0].name}." if columns.vocabularies else ""
        raise DataError(f"{first}: no column looks like a feature.{strings} Found: {listed}")
    return GuessedColumns(columns, sum(chunk.rows for chunk in chunks), table.num_rows, files.source)


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


def _untyped(schema: pa.Schema) -> list[str]:
    """Columns in which every value is null."""
    return [field.name for field in schema if pa.types.is_null(field.type)]


def _sample(files: TableFiles, chunks: Sequence[Chunk], names: Sequence[str]) -> pa.Table:
    """The first rows of chunks that are spread evenly over the files."""
    if len(chunks) > _MAX_CHUNKS:
        chunks = [chunks[index * len(chunks) // _MAX_CHUNKS] for index in range(_MAX_CHUNKS)]
    tables = [table.slice(0, _MAX_ROWS // len(chunks)) for _, table in files.tables(names, chunks)]
    parts = [pa.table({name: _comparable(table.column(name)) for name in names}) for table in tables]
    try:
        return pa.concat_tables(parts, promote_options="permissive")
    except pa.ArrowException as error:
        raise DataError(f"{files.files[0]} and other files hold columns of different types ({error})") from None


def _comparable(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Decode dictionaries and turn booleans into integers, so that files may differ in these types."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    return column.cast(pa.int8()) if pa.types.is_boolean(column.type) else column


def _add_column(columns: Columns, name: str, values: pa.Array) -> None:
    """Add a column to its role."""
    present = values.drop_null()
    if name == DEFAULT or not name or "${" in name or "\0" in name:
        columns.left_out.append(Guess(name, "its name has a special meaning in a configuration; rename it"))
    elif not len(present):
        columns.left_out.append(Guess(name, "null in every sampled row"))
    elif pa.types.is_nested(values.type):
        _add_list(columns, name, present)
    elif pa.types.is_timestamp(values.type) or pa.types.is_date(values.type):
        _add_time(columns, name, str(values.type))
    elif _is_text(values.type):
        _add_text(columns, name, values)
    elif pa.types.is_integer(values.type) or pa.types.is_floating(values.type):
        _add_number(columns, name, values)
    else:
        columns.left_out.append(Guess(name, f"type {values.type} is not supported"))


def _add_list(columns: Columns, name: str, lists: pa.Array) -> None:
    kind = lists.type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        columns.left_out.append(Guess(name, f"type {lists.type} is not supported"))
        return
    lengths = pc.unique(pc.list_value_length(lists)).to_pylist()
    flat = lists.flatten()
    if len(lengths) > 1 or not lengths[0]:
        varying = "lists of varying length; if they are past events, put them under histories"
        comment = varying if len(lengths) > 1 else "empty lists"
    elif pa.types.is_floating(flat.type) and not _is_finite(flat):
        comment = f"lists of {lengths[0]} floats, some of them not finite"
    elif pa.types.is_floating(flat.type):
        columns.vectors.append(Guess(name, f"lists of {lengths[0]} floats", lengths[0]))
        return
    elif not pa.types.is_integer(flat.type) or not len(flat.drop_null()):
        comment = f"type {lists.type} is not supported"
    else:
        low, high = (bound.as_py() for bound in pc.min_max(flat).values())
        if 0 <= low <= high < _MAX_CODES:
            value = {"size": high + 1, "length": lengths[0]}
            columns.discrete.append(Guess(name, f"lists of {lengths[0]} codes, up to {high:,} seen", value))
            return
        comment = f"lists of integers from {low:,} to {high:,}: not usable as codes of an embedding table"
    columns.left_out.append(Guess(name, comment))


def _is_finite(floats: pa.Array) -> bool:
    """Whether all values that are not null are finite as float32."""
    numbers = floats.drop_null().cast(pa.float32(), safe=False).to_numpy(zero_copy_only=False)
    return bool(np.isfinite(numbers).all())


def _add_time(columns: Columns, name: str, kind: str) -> None:
    if columns.timestamp:
        columns.left_out.append(Guess(name, "another time; a model can learn from an age or hour derived from it"))
    else:
        columns.timestamp.append(Guess(name, f"{kind}; assumed to be when the impression was served"))


def _add_user(columns: Columns, name: str, values: pa.Array, comment: str, *, valid_type: bool) -> None:
    if values.null_count or not valid_type:
        why = "null in some rows" if values.null_count else "not integers"
        columns.left_out.append(Guess(name, f"named like a user, but {why}; every row needs its user"))
    else:
        columns.user.append(Guess(name, comment))


def _add_text(columns: Columns, name: str, texts: pa.Array) -> None:
    distinct = len(texts.drop_null().unique())
    if _USER.fullmatch(name.lower()) and not columns.user:
        _add_user(columns, name, texts, f"strings, named like a user; {distinct:,} seen", valid_type=True)
    elif _words(name)[-1] == "id" or distinct > len(texts) // 2 > 50:
        columns.ids.append(Guess(name, f"{distinct:,} distinct strings in {len(texts):,} rows"))
    else:
        comment = f"{distinct:,} strings seen"
        columns.vocabularies.append(Guess(name, comment))


def _add_number(columns: Columns, name: str, values: pa.Array) -> None:
    def named(pattern: re.Pattern[str]) -> bool:
        return any(map(pattern.fullmatch, _words(name)))

    def guess(role: list[Guess], comment: str, value: Any = None) -> None:
        role.append(Guess(name, comment, value))

    present = values.drop_null().cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    finite = present[np.isfinite(present)]
    integers = pa.types.is_integer(values.type)
    distinct = np.unique(finite)
    low, high = (float(distinct[0]), float(distinct[-1])) if len(distinct) else (0.0, 0.0)
    ends_in_id = _words(name)[-1] == "id"
    if named(_ENGAGEMENT) and len(distinct) > 1 and set(distinct) <= {-1.0, 0.0, 1.0}:
        _add_label(columns, name, values, finite, against=named(_AGAINST))
    elif len(distinct) <= 1:
        guess(columns.left_out, f"always {low:g}" if len(distinct) else "never a finite number")
    elif set(distinct) <= {0.0, 1.0} and len(finite) == len(present):
        guess(columns.binary, f"0 or 1; {finite.mean():.1%} are 1")
    elif _USER.fullmatch(name.lower()) and not columns.user:
        comment = f"integers, named like a user; {len(distinct):,} seen"
        _add_user(columns, name, values, comment, valid_type=integers)
    elif named(_TIME) and 19_000_000 < low <= high < 22_000_000:
        guess(columns.left_out, "a date in digits; a model can learn from an age or weekday derived from it")
    elif named(_TIME) and low > 1e8:
        _add_time(columns, name, "large numbers, named like a time")
    elif named(_OUTCOME):
        guess(columns.left_out, "named like an outcome, which is known only after the impression")
    elif integers and ends_in_id and not 0 <= low <= high < min(20 * len(distinct), _MAX_CODES):
        guess(columns.ids, f"{len(distinct):,} integers, from {low:,.0f} to {high:,.0f}: too sparse for codes")
    elif integers and low >= 0 and (ends_in_id or (high < 64 and not named(_COUNT))):
        comment = f"{low:,.0f} to {high:,.0f} seen; raise size if there are more"
        guess(columns.discrete, comment, {"size": int(high) + 1})
    else:
        missing = values.null_count / len(values)
        guess(columns.continuous, f"{low:.4g} to {high:.4g}" + (f", {missing:.0%} null" if missing else ""))


def _add_label(columns: Columns, name: str, values: pa.Array, finite: npt.NDArray[Any], *, against: bool) -> None:
    """Make a column named like an engagement a label if its values are 0, 1 or missing; it is never a feature."""
    if finite.min() < 0 or np.isinf(values.drop_null().cast(pa.float64()).to_numpy(zero_copy_only=False)).any():
        columns.left_out.append(Guess(name, "named like an engagement, but a label is 0, 1 or null"))
        return
    rate, missing = float(finite.mean()), 1 - len(finite) / len(values)
    weight = (-1 if against else 1) * float(f"{1 / rate:.2g}") if rate else 0.0
    comment = f"0 or 1, named like an engagement; {rate:.2%} are 1"
    comment += f", {missing:.0%} missing" if missing else ""
    columns.labels.append(Guess(name, comment + ("; counts against" if against else ""), weight))


def _words(name: str) -> list[str]:
    return re.findall(r"[a-z]+|[0-9]+", re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()) or [name]


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
