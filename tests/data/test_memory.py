"""Memory that is used again is never used twice at once."""

import gc

import numpy as np
import torch
from data.stream_law import assert_same
from hypothesis import given
from hypothesis import strategies as st

from recap.data.batch import Batch, assemble
from recap.native.buffers import new_array

MUCH = 1 << 18


def address(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


@given(st.integers(0, 300), st.integers(0, 300), st.sampled_from([np.float32, np.int64, np.uint8, np.bool_]))
def test_an_array_has_the_shape_and_type_that_is_asked_for(rows: int, width: int, dtype: type) -> None:
    array = new_array((rows, width), dtype)
    assert (array.shape, array.dtype) == ((rows, width), dtype)
    array[:] = 1
    assert (array == 1).all()


def test_what_somebody_still_looks_at_is_not_given_to_another() -> None:
    held = [new_array((MUCH,), np.uint8)[number:] for number in range(20)]
    tensor = torch.from_numpy(new_array((MUCH,), np.uint8)).view(torch.int16)[5:]
    tensor.fill_(7)
    for number, array in enumerate(held):
        array.fill(number)
    gc.collect()
    others = [new_array((MUCH,), np.uint8) for _ in range(20)]
    for other in others:
        other.fill(255)
    assert all((array == number).all() for number, array in enumerate(held))
    assert (tensor == 7).all()


def test_what_nobody_looks_at_any_more_is_used_again() -> None:
    array = new_array((MUCH,), np.float32)
    before = address(array)
    view = array.reshape(-1, 4)[1:]
    del array
    assert address(new_array((MUCH,), np.float32)) != before
    del view
    assert before in {address(each) for each in [new_array((MUCH - number,), np.float32) for number in range(9)]}


def batch_of(seed: int, dtype: torch.dtype = torch.float32) -> Batch:
    """Twenty rows with a tensor of every kind."""
    random = np.random.default_rng(seed)
    return Batch(
        continuous=torch.from_numpy(random.normal(size=(20, 300)).astype(np.float32)).to(dtype),
        binary=torch.from_numpy(random.integers(0, 2, (20, 3))).to(torch.bool),
        discrete=torch.from_numpy(random.integers(0, 9, (20, 2))),
        vectors={"v": torch.from_numpy(random.normal(size=(20, 4)).astype(np.float16))},
        labels=torch.from_numpy(random.integers(0, 2, (20, 2)).astype(np.float32)),
    )


picks = st.lists(
    st.builds(slice, st.integers(0, 9), st.integers(9, 20))
    | st.lists(st.integers(0, 19), max_size=9).map(lambda rows: np.array(rows, np.int64)),
    min_size=1,
    max_size=5,
)


@given(picks, st.sampled_from([torch.float32, torch.bfloat16, torch.uint8]))
def test_batches_are_assembled_as_torch_would(chosen: list[slice | np.ndarray], dtype: torch.dtype) -> None:
    batches = [batch_of(number, dtype) for number in range(len(chosen))]
    made = assemble(list(zip(batches, chosen, strict=True)))
    assert made.continuous.dtype == dtype
    for name in ("continuous", "binary", "discrete", "labels"):
        parts = [getattr(batch, name)[rows] for batch, rows in zip(batches, chosen, strict=True)]
        assert torch.equal(getattr(made, name), torch.cat(parts)), name
    assert torch.equal(
        made.vectors["v"], torch.cat([each.vectors["v"][rows] for each, rows in zip(batches, chosen, strict=True)])
    )


def test_one_slice_is_a_view() -> None:
    batch = batch_of(10)
    made = assemble([(batch, slice(2, 5))])
    assert made.continuous.data_ptr() == batch.continuous[2:].data_ptr()
    assert_same(made, batch.rows(slice(2, 5)))
