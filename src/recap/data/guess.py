"""What columns are for, guessed by their type, their content and their name."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recap.config.optimizer import DEFAULT
from recap.config.starter import Columns, Guess
from recap.data.sources.parquet import find_files, open_parquet, read_row_group
from recap.errors import DataError

_ROWS = 200_000
"""Rows that are looked at."""
_FILES = 8
"""Files they are taken from."""

_ENGAGEMENT = re.compile(
    "(label|target|engage|click|like|fav|favou?rite|share|reply|replie|retweet|repost|follow|comment|forward|view|watch|"
    "purchase|buy|bought|order|convert|conversion|install|bookmark|save|report|hate|dislike|hide|hidden|block|mute|"
    "negative|skip|profile)(d|ed|ment)?"
)
_AGAINST = re.compile("(report|hate|dislike|hide|hidden|block|mute|negative|skip)(d|ed)?")
_OUTCOME = re.compile("(play|playback|stay|dwell|watch)(ed)?")
_COUNT = re.compile("(count|number|num|len|length|age|size|view|like|follower|total|sum|rank)s?|days|hours")
_USER = re.compile("(user|viewer|member|customer|account)(_?id)?|uid")
_TIME = re.compile("time|timestamp|ts|date|datetime|ms|at")


@dataclass(frozen=True)
class Found:
    """Columns of some files by their role, and how many rows the files hold."""

    columns: Columns
    rows: int


def guess_columns(inputs: Sequence[str]) -> Found:
    """Guess the role of every column of the Parquet files that `inputs` match, from some of their rows.

    Raises DataError where files are missing or damaged, differ in their columns, or hold no label.
    """
    files = find_files(inputs)
    rows = sum(open_parquet(file).metadata.num_rows for file in files)
    table = _sample(files)
    if not table.num_rows:
        raise DataError(f"{files[0]}: not a single row; columns are guessed from their values")
    columns = Columns()
    for name in table.column_names:
        _place(columns, name, table.column(name).combine_chunks())
    if not columns.labels:
        names = ", ".join(table.column_names)
        raise DataError(
            f"{files[0]}: no column looks like a label: 0 or 1 in every row, and named like an engagement, such as "
            f"is_clicked. Found: {names}"
        )
    return Found(columns, rows)


def _sample(files: Sequence[str]) -> pa.Table:
    """The first row group of some files."""
    chosen = [files[index * len(files) // _FILES] for index in range(_FILES)] if len(files) > _FILES else list(files)
    names = open_parquet(files[0]).schema_arrow.names
    parts: list[pa.Table] = []
    for file in chosen:
        schema = open_parquet(file).schema_arrow
        lacking = [name for name in names if schema.get_field_index(name) < 0]
        if lacking:
            raise DataError(f"{file}: lacks the columns {', '.join(lacking)}, which {files[0]} has")
        if open_parquet(file).metadata.num_row_groups:
            parts.append(read_row_group(file, 0, names).slice(0, _ROWS // len(chosen)))
    try:
        return pa.concat_tables(parts, promote_options="permissive") if parts else pa.table({})
    except pa.ArrowException as error:
        raise DataError(f"{files[0]} and others hold columns of different types ({error})") from None


def _place(columns: Columns, name: str, values: pa.Array) -> None:
    """Put one column where it belongs."""
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    present = values.drop_null()
    if name == DEFAULT:
        columns.left_out.append(Guess(name, "its name means something else here; rename it"))
    elif not len(present):
        columns.left_out.append(Guess(name, "null in every row that was looked at"))
    elif pa.types.is_nested(values.type):
        _place_list(columns, name, present)
    elif pa.types.is_temporal(values.type):
        _place_time(columns, name, str(values.type))
    elif _is_text(values.type):
        _place_text(columns, name, present)
    elif pa.types.is_integer(values.type) or pa.types.is_floating(values.type) or pa.types.is_boolean(values.type):
        _place_number(columns, name, values, present)
    else:
        columns.left_out.append(Guess(name, f"{values.type} is not read"))


def _place_list(columns: Columns, name: str, lists: pa.Array) -> None:
    kind = lists.type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        columns.left_out.append(Guess(name, f"{lists.type} is not read"))
        return
    lengths = pc.unique(pc.list_value_length(lists)).to_pylist()
    flat = lists.flatten().drop_null()
    if len(lengths) > 1 or not lengths[0]:
        columns.left_out.append(Guess(name, "lists of varying length are not read"))
    elif pa.types.is_floating(flat.type):
        columns.vectors.append(Guess(name, f"lists of {lengths[0]} floats", lengths[0]))
    elif pa.types.is_integer(flat.type) and len(flat) and pc.min(flat).as_py() >= 0:
        high = pc.max(flat).as_py()
        value = {"size": high + 1, "length": lengths[0]}
        columns.discrete.append(Guess(name, f"lists of {lengths[0]} codes, up to {high:,} seen", value))
    else:
        columns.left_out.append(Guess(name, f"{lists.type} is not read"))


def _place_time(columns: Columns, name: str, kind: str) -> None:
    if columns.timestamp:
        word = "another time; an age or an hour made of it can be learned from"
        columns.left_out.append(Guess(name, word))
    else:
        columns.timestamp.append(Guess(name, f"{kind}; taken for when the impression was served"))


def _place_text(columns: Columns, name: str, texts: pa.Array) -> None:
    distinct = len(texts.unique())
    if _USER.fullmatch(name.lower()) and not columns.user:
        columns.user.append(Guess(name, f"strings, named like a user; {distinct:,} seen"))
    elif _words(name)[-1] == "id" or distinct > len(texts) // 2 > 50:
        columns.ids.append(Guess(name, f"{distinct:,} different strings in {len(texts):,} rows"))
    else:
        word = f"{distinct:,} strings seen; list them in the first column of that file"
        columns.vocabularies.append(Guess(name, word))


def _place_number(columns: Columns, name: str, values: pa.Array, present: pa.Array) -> None:
    def named(pattern: re.Pattern[str]) -> bool:
        return any(map(pattern.fullmatch, _words(name)))

    numbers = present.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    finite = numbers[np.isfinite(numbers)]
    whole = pa.types.is_integer(values.type)
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 0.0)
    distinct = len(np.unique(finite))
    zero_or_one = set(np.unique(finite)) <= {0.0, 1.0}
    if named(_ENGAGEMENT) and zero_or_one and len(finite) == len(values):
        rate = float(finite.mean())
        sign = -1 if named(_AGAINST) else 1
        weight = sign * float(f"{1 / rate:.2g}") if rate else 0.0
        against = "; counts against" if sign < 0 else ""
        columns.labels.append(Guess(name, f"0 or 1, named like an engagement; {rate:.2%} are 1{against}", weight))
    elif distinct <= 1:
        columns.left_out.append(Guess(name, f"always {low:g}" if distinct else "never a finite number"))
    elif zero_or_one:
        columns.binary.append(Guess(name, f"0 or 1; {float(finite.mean()):.1%} are 1"))
    elif _USER.fullmatch(name.lower()) and whole and not columns.user:
        columns.user.append(Guess(name, f"integers, named like a user; {distinct:,} seen"))
    elif named(_TIME) and 19_000_000 < low <= high < 22_000_000:
        columns.left_out.append(Guess(name, "a date in digits; an age or a weekday made of it can be learned from"))
    elif named(_TIME) and low > 1e8:
        _place_time(columns, name, "large numbers, named like a time")
    elif named(_OUTCOME):
        columns.left_out.append(Guess(name, "named like what is only known after the impression"))
    elif whole and _words(name)[-1] == "id" and not 0 <= low <= high < min(20 * distinct, 10_000_000):
        columns.ids.append(Guess(name, f"{distinct:,} integers, from {low:,.0f} to {high:,.0f}: too sparse for codes"))
    elif whole and low >= 0 and (_words(name)[-1] == "id" or (high < 64 and not named(_COUNT))):
        columns.discrete.append(
            Guess(name, f"{low:,.0f} to {high:,.0f} seen; raise size if there are more", {"size": int(high) + 1})
        )
    else:
        missing = values.null_count / len(values)
        nulls = f", {missing:.0%} null" if missing else ""
        columns.continuous.append(Guess(name, f"{low:.4g} to {high:.4g}{nulls}"))


def _words(name: str) -> list[str]:
    return re.findall(r"[a-z]+|[0-9]+", re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()) or [name]


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
