"""Memory that is used again: what the system takes to give new pages is more than it takes to fill them."""

from ctypes import c_ubyte
from typing import Any
from weakref import finalize

import numpy as np
import numpy.typing as npt

from recap.native import plain

_SMALL = 1 << 16
"""Bytes below which memory comes from where it always does."""
_MOST = 8
"""Blocks of one size that wait to be used again."""
_WAITING: dict[int, list[npt.NDArray[np.uint8]]] = {}


def new_array(shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """An array of whatever was there before; its memory is given back once nothing looks at it any more."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if size < _SMALL or plain():
        return np.empty(shape, dtype)
    step = 1 << size.bit_length() - 4  # arrays of nearly one size share their blocks
    room = -(-size // step) * step
    waiting = _WAITING.setdefault(room, [])
    try:
        block = waiting.pop()
    except IndexError:
        block = np.empty(room, np.uint8)
    owner = (c_ubyte * room).from_buffer(block.data)  # views keep it alive, and it can tell when the last one is gone
    finalize(owner, _give_back, waiting, block)
    return np.ctypeslib.as_array(owner)[:size].view(dtype).reshape(shape)


def _give_back(waiting: list[npt.NDArray[np.uint8]], block: npt.NDArray[np.uint8]) -> None:
    if len(waiting) < _MOST:
        waiting.append(block)
