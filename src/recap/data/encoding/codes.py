"""Values of a column → codes, which index the rows of an embedding table; 0 is the unknown bucket.

Only the codes of a zero-collision hash are not those of rows: they name ids, and the table knows the rows of ids.
"""

from typing import assert_never

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from recap.config.discrete import CodeSpace, HashSpace, IntegerSpace, VocabularySpace, ZeroCollisionSpace
from recap.data.encoding.hashing import buckets_of, codes_of_ids, ids_of
from recap.data.encoding.kinds import Rows, has_large_integers, integers_of, texts_of
from recap.data.formats.location import Location
from recap.native.buffers import new_array

Codes = npt.NDArray[np.int64]


def arrow_type(space: CodeSpace, vocabulary: pa.Array | None) -> pa.DataType:
    """The type to read values as, in formats that do not store types."""
    match space:
        case IntegerSpace():
            return pa.int64()
        case VocabularySpace():
            return pa.string() if vocabulary is None else vocabulary.type
        case HashSpace() | ZeroCollisionSpace():
            return pa.string()
        case _:
            assert_never(space)


def codes_of(
    values: pa.Array,
    space: CodeSpace,
    vocabulary: pa.Array | None,
    name: str,
    location: Location,
    rows: Rows | None = None,
) -> Codes:
    """[N] values → [N, codes of a value] int64. Raises DataError for a wrong type.

    `vocabulary`: the known values, if the space has one. `name`: the column, for messages. `rows`: the row of each
    value, for messages; default: one value per row.
    """
    match space:
        case IntegerSpace():
            return _integers(values, space, name, location, rows)
        case VocabularySpace():
            assert vocabulary is not None
            return _known(values, vocabulary, name, location, rows)
        case HashSpace():
            return _hashed(values, space, name, location, rows)
        case ZeroCollisionSpace():
            return _named(values, name, location, rows)
        case _:
            assert_never(space)


def _integers(values: pa.Array, space: IntegerSpace, name: str, location: Location, rows: Rows | None) -> Codes:
    expected = f"integer codes 0 to {space.size - 1}; other values need a vocabulary or a hash"
    values = integers_of(values, name, location, expected, rows)
    filled = values.fill_null(0) if values.null_count else values  # fill_null copies even without nulls
    known = filled.to_numpy(zero_copy_only=False)
    codes: Codes = new_array(known.shape, np.int64)
    np.add(known, 1, out=codes, dtype=np.int64, casting="unsafe")
    np.putmask(codes, (codes < 0) | (codes > space.size), 0)
    if values.null_count:
        np.putmask(codes, values.is_null().to_numpy(zero_copy_only=False), 0)
    return codes[:, None]


def _known(values: pa.Array, vocabulary: pa.Array, name: str, location: Location, rows: Rows | None) -> Codes:
    if pa.types.is_integer(vocabulary.type):
        expected = "integers, as in its vocabulary"
        known = integers_of(values, name, location, expected, rows)
        if has_large_integers(known):  # which no vocabulary of integers holds
            known = pc.if_else(pc.less(known, pa.scalar(2**63, pa.uint64())), known, None)
        known = known.cast(pa.int64())
    else:
        known = texts_of(values, name, location, "strings, as in its vocabulary", rows)
    index = pc.index_in(known, value_set=vocabulary.cast(known.type)).fill_null(-1)
    codes: Codes = index.to_numpy(zero_copy_only=False).astype(np.int64)[:, None] + 1
    return codes


def _hashed(values: pa.Array, space: HashSpace, name: str, location: Location, rows: Rows | None) -> Codes:
    ids, missing = ids_of(values, name, location, rows)
    codes = buckets_of(ids, space.hash.buckets, space.hash.hashes, space.hash.seed) + 1
    if missing is not None:
        codes[missing] = 0
    return codes


def _named(values: pa.Array, name: str, location: Location, rows: Rows | None) -> Codes:
    ids, missing = ids_of(values, name, location, rows)
    codes = codes_of_ids(ids)
    if missing is not None:
        codes[missing] = 0
    return codes[:, None]
