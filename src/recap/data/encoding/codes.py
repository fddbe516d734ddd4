"""Values of a column → codes, which index the rows of an embedding table; 0 is the unknown bucket."""

from typing import assert_never

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from recap.config.discrete import CodeSpace, HashSpace, IntegerSpace, VocabularySpace
from recap.data.encoding.columns import as_text
from recap.data.encoding.hashing import buckets_of, hash_texts
from recap.data.formats.location import Location
from recap.native.buffers import new_array

Codes = npt.NDArray[np.int64]


def arrow_type(space: CodeSpace, vocabulary: pa.Array | None) -> pa.DataType | None:
    """The type to read values as, in formats that do not store types; None: the format infers it."""
    match space:
        case IntegerSpace():
            return pa.int64()
        case VocabularySpace():
            return pa.string() if vocabulary is None else vocabulary.type
        case HashSpace():
            return None
        case _:
            assert_never(space)


def codes_of(
    values: pa.Array,
    space: CodeSpace,
    vocabulary: pa.Array | None,
    name: str,
    location: Location,
    rows: npt.NDArray[np.int64] | None = None,
) -> Codes:
    """[N] values → [N, codes of a value] int64. Raises DataError for a wrong type.

    `vocabulary`: the known values, if the space has one. `name`: the column, for messages. `rows`: the row of each
    value, for messages; default: one value per row.
    """
    match space:
        case IntegerSpace():
            return _integers(values, space, name, location)
        case VocabularySpace():
            assert vocabulary is not None
            return _known(values, vocabulary, name, location, rows)
        case HashSpace():
            return _hashed(values, space, name, location)
        case _:
            assert_never(space)


def _integers(values: pa.Array, space: IntegerSpace, name: str, location: Location) -> Codes:
    if not pa.types.is_integer(values.type):
        expected = f"integer codes 0 to {space.size - 1}; strings need a vocabulary or a hash"
        raise location.error(name, f"holds {values.type}, expected {expected}")
    filled = values.fill_null(0) if values.null_count else values  # fill_null copies even without nulls
    known = filled.to_numpy(zero_copy_only=False)
    codes: Codes = new_array(known.shape, np.int64)
    np.add(known, 1, out=codes, dtype=np.int64, casting="unsafe")
    np.putmask(codes, (codes < 0) | (codes > space.size), 0)
    if values.null_count:
        np.putmask(codes, values.is_null().to_numpy(zero_copy_only=False), 0)
    return codes[:, None]


def _known(
    values: pa.Array, vocabulary: pa.Array, name: str, location: Location, rows: npt.NDArray[np.int64] | None
) -> Codes:
    values = as_text(values, name, location, rows)
    if pa.types.is_integer(values.type) and pa.types.is_integer(vocabulary.type):
        values = values.cast(pa.int64(), safe=False)
    elif not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
        expected = "integers" if pa.types.is_integer(vocabulary.type) else "strings"
        raise location.error(name, f"holds {values.type}, expected {expected} as in its vocabulary")
    index = pc.index_in(values, value_set=vocabulary.cast(values.type)).fill_null(-1)
    codes: Codes = index.to_numpy(zero_copy_only=False).astype(np.int64)[:, None] + 1
    return codes


def _hashed(values: pa.Array, space: HashSpace, name: str, location: Location) -> Codes:
    kind = values.type
    if pa.types.is_null(kind):
        return np.zeros((len(values), space.codes), np.int64)
    if pa.types.is_integer(kind):
        ids = values.fill_null(0).to_numpy(zero_copy_only=False)
    elif any(check(kind) for check in _TEXTS):
        ids = hash_texts(values.fill_null(b"" if "binary" in str(kind) else ""))
    else:
        raise location.error(name, f"holds {kind}, expected integers or strings to hash")
    codes = buckets_of(ids, space.hash.buckets, space.hash.hashes, space.hash.seed) + 1
    if values.null_count:
        codes[values.is_null().to_numpy(zero_copy_only=False)] = 0
    return codes


_TEXTS = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
