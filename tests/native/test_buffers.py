"""Two arrays never share reused memory."""

import gc

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from recap.native.buffers import new_array

LARGE = 1 << 18


def address(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


@given(st.integers(0, 300), st.integers(0, 300), st.sampled_from([np.float32, np.int64, np.uint8, np.bool_]))
def test_an_array_has_the_requested_shape_and_dtype(rows: int, width: int, dtype: type) -> None:
    array = new_array((rows, width), dtype)
    assert (array.shape, array.dtype) == ((rows, width), dtype)
    array[:] = 1
    assert (array == 1).all()


def test_memory_in_use_is_not_reused() -> None:
    arrays = [new_array((LARGE,), np.uint8)[number:] for number in range(20)]
    tensor = torch.from_numpy(new_array((LARGE,), np.uint8)).view(torch.int16)[5:]
    tensor.fill_(7)
    for number, array in enumerate(arrays):
        array.fill(number)
    gc.collect()
    others = [new_array((LARGE,), np.uint8) for _ in range(20)]
    for other in others:
        other.fill(255)
    assert all((array == number).all() for number, array in enumerate(arrays))
    assert (tensor == 7).all()


def test_memory_without_views_is_reused() -> None:
    array = new_array((LARGE,), np.float32)
    before = address(array)
    view = array.reshape(-1, 4)[1:]
    del array
    assert address(new_array((LARGE,), np.float32)) != before
    del view
    assert before in {address(array) for array in [new_array((LARGE - number,), np.float32) for number in range(9)]}
