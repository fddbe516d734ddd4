"""Reads pretrained rows of embedding tables from Parquet files with a value and its vector per row."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recap.config.data import ParquetConfig
from recap.config.discrete import CodeSpace
from recap.config.model import PretrainedConfig
from recap.data.encoding.codes import codes_of
from recap.data.encoding.columns import rows_where, values_of
from recap.data.encoding.kinds import is_number
from recap.data.formats.files import find_files
from recap.data.formats.location import Location
from recap.data.formats.tables import TableFiles
from recap.errors import DataError
from recap.text import suggest


class PretrainedRows(NamedTuple):
    """Some rows of an embedding table."""

    codes: npt.NDArray[np.int64]
    """[N] indices into the table, each once."""
    vectors: npt.NDArray[np.float32]
    """[N, E]."""


def pretrained_rows(
    config: PretrainedConfig, table: str, width: int, size: int, space: CodeSpace, vocabulary: pa.Array | None
) -> Iterator[PretrainedRows]:
    """The pretrained rows of `table`, which has `size` known codes, a chunk at a time.

    Raises DataError for missing files, vectors of another width, repeated values, nulls, numbers that are not finite,
    and files without any value of the table.
    """
    try:
        paths = find_files([config.path])
    except DataError as error:
        raise DataError(f"{error}; see model.embeddings.{table}.pretrained") from None
    files = TableFiles(dict.fromkeys(paths, ParquetConfig(inputs=[config.path])))
    seen = np.zeros(size + 1, bool)
    for file, tables in files.tables_by_file([config.id, config.vector]):
        names = files.schema(file).names
        for name in (config.id, config.vector):
            if name not in names:
                text = f"is missing, but pretrained rows of {table!r} need it. {suggest(name, names)}"
                raise Location(file).error(name, text)
        for chunk, rows in tables:
            location = Location(file, chunk.first_row)
            values, _ = values_of(rows, config.id, 1, location)
            null = values.is_null().to_numpy(zero_copy_only=False)
            _refuse(null, config.id, "is null; every row needs a value", location)
            codes = codes_of(values, space, vocabulary, config.id, location)[:, 0]
            vectors = _vectors(rows, config.vector, width, location)
            first = np.zeros(len(codes), bool)
            first[np.unique(codes, return_index=True)[1]] = True
            repeated = (codes > 0) & (seen[codes] | ~first)
            _refuse(repeated, config.id, "repeats a value; each may appear once", location)
            seen[codes] = True
            yield PretrainedRows(codes[codes > 0], vectors[codes > 0])
    if not seen[1:].any():
        raise DataError(
            f"{paths[0]}: column {config.id!r}: none of its values is in the table of {table!r}; "
            f"see model.embeddings.{table}.pretrained"
        )


def _vectors(table: pa.Table, name: str, width: int, location: Location) -> npt.NDArray[np.float32]:
    values, valid = values_of(table, name, width, location)
    if not is_number(values.type):
        raise location.error(name, f"holds {values.type}, expected lists of {width} numbers")
    if valid is not None:
        _refuse(~valid, name, "is null; every row needs a vector", location)
    vectors: npt.NDArray[np.float32] = (
        values.cast(pa.float32(), safe=False).to_numpy(zero_copy_only=False).reshape(-1, width)
    )
    _refuse(np.asarray(~np.isfinite(vectors).all(axis=1)), name, "holds a number that is not finite", location)
    return vectors


def _refuse(wrong: npt.NDArray[np.bool_], column: str, text: str, location: Location) -> None:
    """Raise DataError for the `wrong` rows [B], if there are any."""
    if wrong.any():
        raise location.error(column, text, rows_where(wrong))
