"""Hashes of ids. They are the same on every host and in every version, because trained models depend on them."""

from hashlib import blake2b

import numpy as np
import numpy.typing as npt
import pyarrow as pa

_GOLDEN = 0x9E3779B97F4A7C15
_MASK_64 = (1 << 64) - 1
Unsigned = npt.NDArray[np.uint64]


def hash_text(text: str | bytes) -> int:
    """A signed 64-bit hash: BLAKE2b with a digest of 8 bytes, little-endian."""
    data = text.encode() if isinstance(text, str) else text
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "little", signed=True)


def hash_texts(texts: pa.Array) -> npt.NDArray[np.int64]:
    """[N] strings or bytes without nulls → [N] int64; each distinct value is hashed once."""
    encoded = texts.dictionary_encode()
    hashed = np.array([hash_text(text) for text in encoded.dictionary.to_pylist()], np.int64)
    return hashed[encoded.indices.to_numpy()] if len(texts) else hashed


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
