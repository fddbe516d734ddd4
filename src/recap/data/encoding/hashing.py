"""Ids as integers, and hashes of them.

They are the same on every host and in every version, because trained models depend on them.
"""

from hashlib import blake2b

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from recap.data.encoding.kinds import (
    TEXT_OR_WHOLE,
    Rows,
    as_text,
    has_large_integers,
    is_bytes,
    is_fractional,
    is_text,
    is_uuid,
    whole_numbers,
)
from recap.data.formats.location import Location

_INTEGER = r"^(0|-?[1-9][0-9]{0,18})(\.0)?\z"
"""Decimal text of an integer; few of them need more than 64 bits."""
_GOLDEN = 0x9E3779B97F4A7C15
_MASK_64 = (1 << 64) - 1
Unsigned = npt.NDArray[np.uint64]
MAX_CODE = 2**63 - 2
"""The largest code of an id in a zero-collision hash; the largest int64 stands for a row without an id."""


def hash_text(text: str | bytes) -> int:
    """A signed 64-bit hash: BLAKE2b with a digest of 8 bytes, little-endian."""
    return int.from_bytes(_digest(text), "little", signed=True)


def _digest(text: str | bytes) -> bytes:
    return blake2b(text.encode() if isinstance(text, str) else text, digest_size=8).digest()


def ids_of(
    values: pa.Array, name: str, location: Location, rows: Rows | None = None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_] | None]:
    """[N] values → [N] int64, integers as they are and texts hashed; and [N] which are null or NaN (None: none).

    An id is the same whether it is stored as an integer, as a whole number, or as its decimal text. Text counts as an
    integer if it is exactly the decimal form of one of 64 bits, also with the `.0` that pandas appends to integers in
    columns with nulls. Larger integers are hashed as text. `rows`: the row of each value, for messages; default: one
    value per row. Raises DataError for other types, and for fractions, with all bad rows.
    """
    if pa.types.is_null(values.type):
        values = values.cast(pa.int64())
    if is_fractional(values.type):
        values = whole_numbers(values, name, location, rows, TEXT_OR_WHOLE)
    if pa.types.is_integer(values.type) and has_large_integers(values):
        values = values.cast(pa.string())
    kind = values.type
    missing = values.is_null().to_numpy(zero_copy_only=False) if values.null_count else None
    if pa.types.is_integer(kind):
        filled = values.fill_null(0) if values.null_count else values
        integers: npt.NDArray[np.int64] = filled.to_numpy(zero_copy_only=False).astype(np.int64, copy=False)
        return integers, missing
    if is_uuid(kind):
        values = as_text(values, name, location, rows)
    elif not (is_text(kind) or is_bytes(kind)):
        raise location.error(name, f"holds {kind}, expected ids: integers or text; convert it to one of them")
    return _hash_texts(values.cast(pa.binary()) if pa.types.is_fixed_size_binary(values.type) else values), missing


def _hash_texts(texts: pa.Array) -> npt.NDArray[np.int64]:
    """[N] strings or bytes → [N] int64, undefined where null; each distinct value is hashed once."""
    encoded = texts.dictionary_encode()
    distinct = encoded.dictionary
    if not len(distinct):
        return np.zeros(len(texts), np.int64)
    integers = pc.match_substring_regex(distinct, _INTEGER).to_numpy(zero_copy_only=False)
    hashed = np.empty(len(distinct), np.int64)
    if integers.any():
        hashed[integers] = _integers_or_hashes(distinct if integers.all() else distinct.filter(pa.array(integers)))
    if not integers.all():
        others = distinct.filter(pa.array(~integers)) if integers.any() else distinct
        others = others.cast(pa.large_binary())  # Parquet does not check that its strings are UTF-8
        hashed[~integers] = np.frombuffer(b"".join(map(_digest, others.to_pylist())), "<i8")
    indices = encoded.indices
    ids: npt.NDArray[np.int64] = hashed[(indices.fill_null(0) if indices.null_count else indices).to_numpy()]
    return ids


def _integers_or_hashes(texts: pa.Array) -> npt.NDArray[np.int64]:
    """Texts that match `_INTEGER` → their integers, or their hashes if they need more than 64 bits."""
    if is_bytes(texts.type):
        texts = texts.cast(pa.large_binary()).cast(pa.large_string())
    digits = pc.replace_substring(texts, ".0", "")
    try:
        integers: npt.NDArray[np.int64] = digits.cast(pa.int64()).to_numpy()
    except pa.ArrowInvalid:
        pairs = zip(texts.to_pylist(), map(int, digits.to_pylist()), strict=True)
        return np.array([number if -(2**63) <= number < 2**63 else hash_text(text) for text, number in pairs], np.int64)
    return integers


def mix(values: Unsigned) -> Unsigned:
    """The finalizer of splitmix64 (Steele, Lea and Flood, OOPSLA 2014): a bijection; every bit depends on all bits."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def hash_ids(ids: npt.NDArray[np.int64]) -> Unsigned:
    """[N] integers → [N] uint64, evenly spread: one step of splitmix64."""
    # Unsigned integers keep their 64 bits.
    return mix(ids.astype(np.int64, copy=False).view(np.uint64) + np.uint64(_GOLDEN))


def buckets_of(ids: npt.NDArray[np.int64], buckets: int, hashes: int, seed: int) -> npt.NDArray[np.int64]:
    """[N] integers → [N, hashes] int64 in 0 … buckets - 1: `hashes` independent buckets of each id."""
    mixed = hash_ids(ids)
    keys = [(seed * _GOLDEN + (number + 1) * _GOLDEN * _GOLDEN) & _MASK_64 for number in range(hashes)]
    return (mix(mixed[:, None] ^ mix(np.array(keys, np.uint64))) % np.uint64(buckets)).astype(np.int64)


def codes_of_ids(ids: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """[N] integers → [N] int64 in 1 … `MAX_CODE`: 63 evenly spread bits of each."""
    return (hash_ids(ids) >> np.uint64(1)).astype(np.int64).clip(1, MAX_CODE)
