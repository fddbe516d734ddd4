"""What files that a configuration names say of features; a model carries it along.

A vocabulary: the code of a value = its row + 1; code 0 is the unknown bucket. A mask: which values of a list are kept.
"""

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from io import BytesIO
from pathlib import Path
from typing import assert_never
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recap.config.base import dotted
from recap.config.discrete import CodeSpace, HashSpace, IntegerSpace, VocabularySpace
from recap.config.features import Column, FeaturesConfig
from recap.data.formats.files import find_files, open_file, read_whole
from recap.errors import DataError
from recap.text import suggest

Assets = Mapping[str, pa.Array]
"""Name → the known values of a feature, or of a history's table, in order of code (string or int64 array), or which
values of a feature are kept (boolean array)."""


def load_assets(features: FeaturesConfig, model_dir: Path | None = None) -> Assets:
    """The vocabulary or mask of every feature that has one: of the files the config names, or those a model carries.

    Raises DataError for files that cannot be read or do not fit.
    """
    vocabularies = {
        name: _load_vocabulary(
            [str(asset_path(model_dir, name))] if model_dir else _vocabulary_files(space),
            None if model_dir else space.row,
            name,
            dotted(features.place_of(name)),
        )
        for name, space in features.code_spaces.items()
        if isinstance(space, VocabularySpace)
    }
    masks = {
        column.name: _load_mask(column) if model_dir is None else _carried_mask(asset_path(model_dir, column.name))
        for column in (*features.continuous, *features.binary)
        if column.mask is not None
    }
    return vocabularies | masks


def discrete_sizes(features: FeaturesConfig, assets: Assets) -> dict[str, int]:
    """Known codes of every table, without the unknown bucket."""
    return {name: discrete_size(space, assets.get(name)) for name, space in features.code_spaces.items()}


def discrete_size(space: CodeSpace, vocabulary: pa.Array | None) -> int:
    """Known codes of one table."""
    match space:
        case IntegerSpace():
            return space.size
        case VocabularySpace():
            assert vocabulary is not None
            return len(vocabulary)
        case HashSpace():
            return space.hash.buckets
        case _:
            assert_never(space)


def discrete_columns(features: FeaturesConfig) -> dict[str, slice]:
    """Which columns of `Batch.discrete` are those of each discrete feature."""
    columns: dict[str, slice] = {}
    start = 0
    for name, discrete in features.discrete.items():
        end = start + discrete.length * features.codes_of_a_value(features.table_of(name, discrete))
        columns[name] = slice(start, end)
        start = end
    return columns


def code_of(name: str, value: int | str, features: FeaturesConfig, assets: Assets) -> int:
    """The code that a value of a discrete feature has in a batch. Raises DataError for a string that is not known."""
    table = features.table_of(name, features.discrete[name])
    if table not in assets:
        return int(value) + 1
    known = assets[table].cast(pa.string()).to_pylist()
    if value not in known:
        raise DataError(f"{value!r} is not in the vocabulary of {name!r}, but strata ask for it. {_few(value, known)}")
    return int(known.index(value)) + 1


def _few(value: int | str, known: list[str]) -> str:
    """What is like a string, of strings that may be very many."""
    near = get_close_matches(str(value), known[:10_000])
    return f"Did you mean {near[0]!r}?" if near else f"It knows {len(known):,} strings, such as {known[0]!r}"


def column_width(column: Column, assets: Assets) -> int:
    """Values of a numeric column that the model reads of a row."""
    return column.read if column.mask is None else int(assets[column.name].true_count)


def asset_path(model_dir: Path, name: str) -> Path:
    """Where a model directory keeps the vocabulary or the mask of feature `name`."""
    return model_dir / "assets" / f"{quote(name, safe='')}.parquet"


def save_asset(values: pa.Array, path: Path) -> None:
    """Write a vocabulary or mask that `load_assets` reads."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"value": values}), path)


def _load_mask(column: Column) -> pa.Array:
    where = f"{column.mask}: mask of {column.name!r}"
    assert column.mask is not None
    try:
        kept = np.load(BytesIO(read_whole(column.mask)))  # of numbers alone: NumPy refuses objects
    except FileNotFoundError:
        raise DataError(f"{where}: no such file; see features") from None
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{where}: not readable as a NumPy file (.npy) of numbers ({error})") from None
    if not isinstance(kept, np.ndarray) or kept.dtype.kind not in "biuf" or kept.ndim != 1 or len(kept) != column.read:
        found = f"{kept.dtype} of shape {kept.shape}" if isinstance(kept, np.ndarray) else "an archive"
        raise DataError(f"{where}: found {found}; {column.read} numbers are expected, one for each value that is read")
    if not kept.any():
        raise DataError(f"{where}: keeps no value; leave the column out instead")
    return pa.array(kept != 0)


def _carried_mask(path: Path) -> pa.Array:
    return pq.read_table(path).column(0).combine_chunks()


def _vocabulary_files(space: VocabularySpace) -> list[str]:
    """One file is that file, so that it is missed by its name; a glob all that it matches."""
    return find_files([space.vocabulary]) if re.search(r"[*?[]", space.vocabulary) else [space.vocabulary]


def _load_vocabulary(files: Sequence[str], row: str | None, name: str, place: str) -> pa.Array:
    """The values that `files` list, in the order of their column `row` if one is named. Raises DataError."""
    where = f"{files[0]}: vocabulary of {name!r}" + (f" ({len(files)} files)" if len(files) > 1 else "")
    parts = [_read_vocabulary(file, row, name, place) for file in files]
    if any(part.schema != parts[0].schema for part in parts):
        raise DataError(f"{where}: some files hold strings where others hold integers; make them alike")
    table = pa.concat_tables(parts)
    values = table.column(0).combine_chunks()
    if row is not None:
        numbers = table.column(1)
        if not pa.types.is_integer(numbers.type) or numbers.null_count or len(numbers.unique()) != len(numbers):
            raise DataError(f"{where}: column {row!r} must hold a whole number for each value, none of them twice")
        values = values.take(pc.sort_indices(numbers))
    if values.null_count:
        raise DataError(f"{where}: row {values.is_null().to_pylist().index(True)} is null; every row is a string")
    if len(values.unique()) != len(values):
        seen: set[str | int] = set()
        for number, value in enumerate(values.to_pylist()):
            if value in seen:
                raise DataError(f"{where}: row {number} repeats {value!r}; each string may stand once")
            seen.add(value)
    return values


def _read_vocabulary(file: str, row: str | None, name: str, place: str) -> pa.Table:
    """The column of values, strings or int64, and behind it that of `row`, if one is named."""
    where = f"{file}: vocabulary of {name!r}"
    try:
        with open_file(file) as stream:
            table = pq.read_table(stream)
    except FileNotFoundError:
        raise DataError(f"{where}: no such file; see {place}.vocabulary") from None
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{where}: not readable as Parquet ({error})") from None
    names = [each for each in table.schema.names if each != row]
    if not names:
        raise DataError(f"{where}: has no column; its first column must list the known strings")
    if row is not None and table.schema.names.count(row) != 1:
        raise DataError(f"{where}: has no one column {row!r}; see {place}.row. {suggest(row, table.schema.names)}")
    values = table.column(names[0])
    try:
        values = values.cast(pa.int64() if pa.types.is_integer(values.type) else pa.string())
    except pa.ArrowException:
        raise DataError(f"{where}: column 0 is {values.type}; it must hold strings or integers") from None
    return pa.table([values, table.column(row)], ["value", "row"]) if row is not None else pa.table({"value": values})
