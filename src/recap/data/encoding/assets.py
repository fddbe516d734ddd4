"""Vocabularies and masks of features, read from the files that a configuration names, or from a model directory.

A vocabulary lists the known values of a table: the code of a value is its row + 1, and 0 is the unknown bucket. A mask
selects the values of a list column that are read.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from shlex import quote as quote_word
from typing import assert_never
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recap.config.base import dotted
from recap.config.discrete import CodeSpace, HashSpace, IntegerSpace, VocabularySpace, ZeroCollisionSpace
from recap.config.features import Column, FeaturesConfig
from recap.data.encoding.columns import as_one_array
from recap.data.encoding.hashing import MAX_CODE
from recap.data.encoding.kinds import decoded, integers_or_texts
from recap.data.formats.files import find_files, open_file, read_bytes
from recap.data.formats.location import Location
from recap.errors import DataError
from recap.text import suggest

Assets = Mapping[str, pa.Array]
"""Name of a table → its vocabulary in order of code (string or int64 array); name of a column → its mask (boolean
array)."""


def load_assets(features: FeaturesConfig, model_dir: Path | None = None) -> Assets:
    """Every vocabulary and mask of `features`: from `model_dir`, by default from the files that `features` names.

    Raises DataError for files that cannot be read or do not fit.
    """
    saved = saved_assets(features, model_dir) if model_dir is not None else {}
    vocabularies = {
        name: _load_vocabulary(
            [str(saved[name])] if name in saved else _vocabulary_files(space),
            None if name in saved else space.row,
            name,
            getattr(space, "column", name),
            dotted(features.path_of_table(name)),
        )
        for name, space in features.code_spaces.items()
        if isinstance(space, VocabularySpace)
    }
    masks = {
        column.name: _saved_mask(saved[column.name], column) if column.name in saved else _load_mask(column)
        for column in (*features.continuous, *features.binary)
        if column.mask is not None
    }
    return vocabularies | masks


def discrete_sizes(features: FeaturesConfig, assets: Assets) -> dict[str, int]:
    """The rows of every table, without that of the unknown bucket."""
    return {name: discrete_size(space, assets.get(name)) for name, space in features.code_spaces.items()}


def discrete_size(space: CodeSpace, vocabulary: pa.Array | None) -> int:
    """The rows of one table, without that of the unknown bucket."""
    match space:
        case IntegerSpace():
            return space.size
        case VocabularySpace():
            assert vocabulary is not None
            return len(vocabulary)
        case HashSpace():
            return space.hash.buckets
        case ZeroCollisionSpace():
            return space.zero_collision.rows
        case _:
            assert_never(space)


def largest_codes(features: FeaturesConfig, assets: Assets) -> dict[str, int]:
    """The largest code of every table."""
    sizes, spaces = discrete_sizes(features, assets), features.code_spaces
    return {name: MAX_CODE if isinstance(spaces[name], ZeroCollisionSpace) else size for name, size in sizes.items()}


def discrete_columns(features: FeaturesConfig) -> dict[str, slice]:
    """The columns of `Batch.discrete` that hold each discrete feature."""
    columns: dict[str, slice] = {}
    start = 0
    for name, discrete in features.discrete.items():
        end = start + discrete.length * features.codes_per_value(features.table_of(name, discrete))
        columns[name] = slice(start, end)
        start = end
    return columns


def code_of(name: str, value: int | str, features: FeaturesConfig, assets: Assets) -> int:
    """The code of a value of discrete feature `name`. Raises DataError for a string outside its vocabulary."""
    table = features.table_of(name, features.discrete[name])
    if table not in assets:
        return int(value) + 1
    known = assets[table].cast(pa.string()).to_pylist()
    if value not in known:
        raise DataError(f"{value!r} is not in the vocabulary of {name!r}. {_hint(value, known)}")
    return int(known.index(value)) + 1


def _hint(value: int | str, known: list[str]) -> str:
    """A similar string, or the first one of the vocabulary, which may be long."""
    near = get_close_matches(str(value), known[:10_000])
    return f"Did you mean {near[0]!r}?" if near else f"Known: {len(known):,} strings, such as {known[0]!r}"


def column_width(column: Column, assets: Assets) -> int:
    """The number of values of a numeric column that the model reads from each row."""
    return column.read if column.mask is None else int(assets[column.name].true_count)


def numeric_columns(features: FeaturesConfig, assets: Assets) -> Iterator[tuple[Column, str, range]]:
    """Each numeric column, with the tensor of `Batch` that holds it and its columns there."""
    for role, columns in (("continuous", features.continuous), ("binary", features.binary)):
        start = 0
        for column in columns:
            end = start + column_width(column, assets)
            yield column, role, range(start, end)
            start = end


def asset_path(model_dir: Path, name: str) -> Path:
    """The path of the vocabulary or mask of feature `name` in a model directory.

    The file name is short, and unique on every file system, whatever the feature is called.
    """
    readable = re.sub(r"[^a-z0-9]+", "_", name.lower())[:40].strip("_")
    digest = sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return model_dir / "assets" / f"{readable or 'feature'}-{digest}.parquet"


def saved_assets(features: FeaturesConfig, model_dir: Path) -> dict[str, Path]:
    """Name → file of every vocabulary and mask that a model directory must hold."""
    names = [name for name, space in features.code_spaces.items() if isinstance(space, VocabularySpace)]
    names += [column.name for column in (*features.continuous, *features.binary) if column.mask is not None]
    files = {name: asset_path(model_dir, name) for name in names}
    before = {name: model_dir / "assets" / f"{quote(name, safe='')}.parquet" for name in names}  # in format 1
    return {
        name: before[name] if not file.exists() and len(before[name].name) < 256 and before[name].exists() else file
        for name, file in files.items()
    }


def save_asset(values: pa.Array, path: Path) -> None:
    """Write a vocabulary or mask that `load_assets` reads."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"value": values}), path)


def _load_mask(column: Column) -> pa.Array:
    where = f"{column.mask}: mask of {column.name!r}"
    assert column.mask is not None
    try:
        mask = np.load(BytesIO(read_bytes(column.mask)))  # refuses objects
    except FileNotFoundError:
        raise DataError(f"{where}: no such file; see features") from None
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{where}: not readable as a NumPy file (.npy) of numbers ({error})") from None
    if not isinstance(mask, np.ndarray) or mask.dtype.kind not in "biuf" or mask.ndim != 1 or len(mask) != column.read:
        content = f"{mask.dtype} of shape {mask.shape}" if isinstance(mask, np.ndarray) else "an archive"
        raise DataError(f"{where}: found {content}, expected {column.read} numbers, one for each value that is read")
    if not mask.any():
        raise DataError(f"{where}: masks every value; leave the column out instead")
    return pa.array(mask != 0)


def _saved_mask(path: Path, column: Column) -> pa.Array:
    where = f"{path}: mask of {column.name!r}"
    table = read_asset(str(path), where, "the model directory is incomplete")
    mask = table.column(0).combine_chunks() if table.num_columns else pa.nulls(0)
    if mask.type != pa.bool_() or mask.null_count or len(mask) != column.read or not mask.true_count:
        raise DataError(f"{where}: damaged; expected {column.read} booleans, at least one of them true")
    return mask


def _vocabulary_files(space: VocabularySpace) -> list[str]:
    """The files that a glob matches; a path without wildcards as is, so that a missing file is reported by name."""
    return find_files([space.vocabulary]) if re.search(r"[*?[]", space.vocabulary) else [space.vocabulary]


def _load_vocabulary(files: Sequence[str], row: str | None, name: str, column: str, key: str) -> pa.Array:
    """The values in `files`, in order of column `row` if given. `column`: that of the data. Raises DataError."""
    where = f"{files[0]}: vocabulary of {name!r}" + (f" ({len(files)} files)" if len(files) > 1 else "")
    parts = [_read_vocabulary(file, row, name, column, key) for file in files]
    parts = [part for part in parts if part.num_rows] or parts[:1]  # a file without rows may have any type
    if any(part.schema != parts[0].schema for part in parts):
        raise DataError(f"{where}: some files hold strings and others integers; use one type")
    table = pa.concat_tables(parts)
    values = table.column(0).combine_chunks()
    if row is not None:
        numbers = table.column(1)
        if not pa.types.is_integer(numbers.type) or numbers.null_count or len(numbers.unique()) != len(numbers):
            raise DataError(f"{where}: column {row!r} must hold a distinct integer for each value")
        values = values.take(pc.sort_indices(numbers))
    if values.null_count:
        raise DataError(f"{where}: row {values.is_null().to_pylist().index(True)} is null; every row needs a value")
    if len(values.unique()) != len(values):
        seen: set[str | int] = set()
        for index, value in enumerate(values.to_pylist()):
            if value in seen:
                raise DataError(f"{where}: row {index} repeats {value!r}; each value may appear once")
            seen.add(value)
    return values


def read_asset(file: str, where: str, advice: str) -> pa.Table:
    """A small Parquet file. Raises DataError that begins with `where`; `advice` helps if the file is missing."""
    try:
        with open_file(file) as stream:
            return pq.read_table(stream)
    except FileNotFoundError:
        raise DataError(f"{where}: no such file; {advice}") from None
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{where}: not readable as Parquet ({error})") from None


def _read_vocabulary(file: str, row: str | None, name: str, column: str, key: str) -> pa.Table:
    """The column of values (strings or int64), and column `row` if given. Raises DataError."""
    where = f"{file}: vocabulary of {name!r}"
    advice = f"write it with: recap data vocabulary FILES --column {quote_word(column)} --output {quote_word(file)}"
    table = read_asset(file, where, f"see {key}.vocabulary" if row is not None else advice)
    names = [name for name in table.schema.names if name != row]
    if not names:
        raise DataError(f"{where}: has no columns; its first column must list the known values")
    if row is not None and table.schema.names.count(row) != 1:
        raise DataError(
            f"{where}: must have exactly one column {row!r}; see {key}.row. {suggest(row, table.schema.names)}"
        )
    values = integers_or_texts(decoded(as_one_array(table.column(names[0]))), names[0], Location(where))
    if not pa.types.is_integer(values.type):
        values = values.cast(pa.string())
    return pa.table([values, table.column(row)], ["value", "row"]) if row is not None else pa.table({"value": values})
