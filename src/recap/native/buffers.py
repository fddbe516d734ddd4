"""Reuses the memory of large arrays, because page faults in new memory take longer than writing the data.

`RECAP_PLAIN=1` turns it off; the fallback is `np.empty`.
"""

from ctypes import c_ubyte
from typing import Any
from weakref import finalize

import numpy as np
import numpy.typing as npt

from recap.native import plain

_MIN_BYTES = 1 << 16
"""Smaller arrays are not worth reusing."""
_MAX_FREE = 8
"""Free blocks of one size that are retained for reuse."""
_FREE: dict[int, list[npt.NDArray[np.uint8]]] = {}
"""Size in bytes → free blocks, which no array uses. Module state, shared by all threads: `pop` and `append` of a list
are atomic."""


def new_array(shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """An uninitialized array; its memory is reused after the array and all its views are deleted."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if size < _MIN_BYTES or plain():
        return np.empty(shape, dtype)
    step = 1 << size.bit_length() - 4  # arrays of similar size share their blocks
    block_bytes = -(-size // step) * step
    free = _FREE.setdefault(block_bytes, [])
    try:
        block = free.pop()
    except IndexError:
        block = np.empty(block_bytes, np.uint8)
    owner = (c_ubyte * block_bytes).from_buffer(block.data)  # views keep it alive; it supports weak references
    finalize(owner, _release, free, block)
    return np.ctypeslib.as_array(owner)[:size].view(dtype).reshape(shape)


def _release(free: list[npt.NDArray[np.uint8]], block: npt.NDArray[np.uint8]) -> None:
    if len(free) < _MAX_FREE:
        free.append(block)
