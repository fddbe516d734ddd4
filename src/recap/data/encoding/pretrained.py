"""Rows of embedding tables that were learned elsewhere, as Parquet files hold them: a value and its vector."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recap.config.data import ParquetConfig
from recap.config.discrete import CodeSpace
from recap.config.model import PretrainedConfig
from recap.data.encoding.codes import codes_of
from recap.data.encoding.columns import is_number, rows_where, values_of
from recap.data.formats.files import find_files
from recap.data.formats.location import Location
from recap.data.formats.open import chunks_of, open_format
from recap.errors import DataError
from recap.text import suggest


class PretrainedRows(NamedTuple):
    """Some rows of a table."""

    codes: npt.NDArray[np.int64]
    """[n] which rows they are; none twice."""
    vectors: npt.NDArray[np.float32]
    """[n, width]."""


def pretrained_rows(
    said: PretrainedConfig, table: str, width: int, size: int, space: CodeSpace, vocabulary: pa.Array | None
) -> Iterator[PretrainedRows]:
    """The rows that the files of `said` hold for `table` of so many known codes, a part of a file at a time.

    Raises DataError for files that are missing or do not fit: another width, a value twice, nulls, numbers that are not
    finite, or not one value that the table knows.
    """
    try:
        files = find_files([said.path])
    except DataError as error:
        raise DataError(f"{error}; see model.embeddings.{table}.pretrained") from None
    format_ = open_format(ParquetConfig(inputs=[said.path]), {}, files)
    seen = np.zeros(size + 1, bool)
    for file in files:
        for name in (said.id, said.vector):
            if name not in format_.schema(file).names:
                known = suggest(name, format_.schema(file).names)
                raise Location(file).error(name, f"is missing; pretrained rows of {table!r} need it. {known}")
        for chunk in chunks_of(format_, file):
            place = Location(file, chunk.first_row)
            read = format_.read(file, chunk.number, [said.id, said.vector])
            values, _ = values_of(read, said.id, 1, place)
            _refuse(values.is_null().to_numpy(zero_copy_only=False), said.id, "is null; every row needs a value", place)
            codes = codes_of(values, space, vocabulary, said.id, place)[:, 0]
            vectors = _vectors(read, said.vector, width, place)
            first = np.zeros(len(codes), bool)
            first[np.unique(codes, return_index=True)[1]] = True
            again = (codes > 0) & (seen[codes] | ~first)
            _refuse(again, said.id, "holds a value a second time; each may stand once", place)
            seen[codes] = True
            yield PretrainedRows(codes[codes > 0], vectors[codes > 0])
    if not seen[1:].any():
        raise DataError(
            f"{files[0]}: column {said.id!r}: not one value is known to {table!r}; are they of another kind?"
        )


def _vectors(read: pa.Table, name: str, width: int, place: Location) -> npt.NDArray[np.float32]:
    values, valid = values_of(read, name, width, place)
    if not is_number(values.type):
        raise place.error(name, f"holds {values.type}; lists of {width} numbers are expected")
    if valid is not None:
        _refuse(~valid, name, "is null; every row needs a vector", place)
    found: npt.NDArray[np.float32] = (
        values.cast(pa.float32(), safe=False).to_numpy(zero_copy_only=False).reshape(-1, width)
    )
    _refuse(np.asarray(~np.isfinite(found).all(axis=1)), name, "holds a number that is not finite", place)
    return found


def _refuse(wrong: npt.NDArray[np.bool_], column: str, text: str, place: Location) -> None:
    """Raise DataError for the first row that is wrong."""
    if wrong.any():
        raise place.error(column, text, rows_where(wrong))
