"""A `Batch`: named tensors, a pytree for PyTorch, and concatenation of selected rows."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from data.stream_law import assert_same
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.export import Dim, ShapesCollection
from torch.utils._pytree import tree_map

from recap.data.batch import Batch, assemble


def make_batch(rows: int = 5) -> Batch:
    """A batch with every kind of tensor."""
    random = torch.Generator().manual_seed(rows)
    events = {
        "watched/length": torch.randint(0, 3, (rows,), generator=random),
        "watched/ids": torch.randint(0, 9, (rows, 2, 1), generator=random),
    }
    return Batch(
        torch.rand(rows, 2, generator=random),
        torch.rand(rows, 1, generator=random).bfloat16(),
        torch.randint(0, 9, (rows, 3), generator=random),
        {"a": torch.rand(rows, 4, generator=random), "b/c": torch.rand(rows, 2, generator=random)},
        labels=torch.rand(rows, 2, generator=random),
        weights=torch.rand(rows, 2, generator=random),
        user=torch.arange(rows),
        histories=events,
    )


class Sums(nn.Module):
    """The sum of the numbers of each row."""

    def forward(self, batch: Batch) -> Tensor:
        return batch.continuous.sum(1) + batch.vectors["a"].sum(1) + batch.histories["watched/length"]


def test_every_tensor_has_a_name() -> None:
    batch = make_batch()
    names = ["continuous", "binary", "discrete", "vectors/a", "vectors/b/c", "labels", "weights", "user"]
    assert list(batch.tensors()) == [*names, "histories/watched/length", "histories/watched/ids"]
    unlabeled = replace(batch, labels=None, weights=None, user=None)
    assert batch.tensors().keys() - unlabeled.tensors().keys() == {"labels", "weights", "user"}


def test_a_batch_of_its_own_tensors_is_the_same_batch() -> None:
    batch = make_batch()
    assert_same(batch.with_tensors(batch.tensors()), batch)
    doubled = batch.with_tensors({name: tensor + tensor for name, tensor in batch.tensors().items()})
    assert torch.equal(doubled.vectors["b/c"], 2 * batch.vectors["b/c"])
    with pytest.raises(KeyError, match="vectors/a"):
        batch.with_tensors({name: tensor for name, tensor in batch.tensors().items() if name != "vectors/a"})


def test_row_bytes_count_every_tensor() -> None:
    assert make_batch().row_bytes == 2 * 4 + 2 + 3 * 8 + 4 * 4 + 2 * 4 + 2 * 4 + 2 * 4 + 8 + 8 + 2 * 8


def test_pytree_functions_see_the_tensors() -> None:
    batch = replace(make_batch(), labels=None)
    mapped: Batch = tree_map(torch.zeros_like, batch)
    assert_same(
        mapped, batch.with_tensors({name: torch.zeros_like(tensor) for name, tensor in batch.tensors().items()})
    )
    assert mapped.labels is None


def test_a_module_of_a_batch_exports_and_can_be_saved(tmp_path: Path) -> None:
    batch, shapes = make_batch(), ShapesCollection()
    for tensor in batch.tensors().values():
        shapes[tensor] = {0: Dim("rows", min=1, max=1000)}
    program = torch.export.export(Sums(), (batch,), dynamic_shapes=shapes, strict=True)
    program.example_inputs = None  # they would be pickled
    torch.export.save(program, tmp_path / "sums.pt2")
    loaded = torch.export.load(tmp_path / "sums.pt2").module()
    for rows in (1, 8):
        assert torch.equal(loaded(make_batch(rows)), Sums()(make_batch(rows)))


def test_a_module_of_a_batch_compiles_without_graph_breaks() -> None:
    compiled = torch.compile(Sums(), fullgraph=True, backend="eager")
    assert torch.equal(compiled(make_batch()), Sums()(make_batch()))


def wide_batch(seed: int, dtype: torch.dtype = torch.float32) -> Batch:
    """Twenty rows with a tensor of every kind."""
    random = np.random.default_rng(seed)
    return Batch(
        continuous=torch.from_numpy(random.normal(size=(20, 300)).astype(np.float32)).to(dtype),
        binary=torch.from_numpy(random.integers(0, 2, (20, 3))).to(torch.bool),
        discrete=torch.from_numpy(random.integers(0, 9, (20, 2))),
        vectors={"v": torch.from_numpy(random.normal(size=(20, 4)).astype(np.float16))},
        labels=torch.from_numpy(random.integers(0, 2, (20, 2)).astype(np.float32)),
    )


selections = st.lists(
    st.builds(slice, st.integers(0, 9), st.integers(9, 20))
    | st.lists(st.integers(0, 19), max_size=9).map(lambda rows: np.array(rows, np.int64)),
    min_size=1,
    max_size=5,
)


@given(selections, st.sampled_from([torch.float32, torch.bfloat16, torch.uint8]))
def test_selected_rows_are_concatenated_as_torch_does(selected: list[slice | np.ndarray], dtype: torch.dtype) -> None:
    batches = [wide_batch(number, dtype) for number in range(len(selected))]
    joined = assemble(list(zip(batches, selected, strict=True)))
    assert joined.continuous.dtype == dtype
    for name in ("continuous", "binary", "discrete", "labels"):
        parts = [getattr(batch, name)[rows] for batch, rows in zip(batches, selected, strict=True)]
        assert torch.equal(getattr(joined, name), torch.cat(parts)), name
    vectors = [batch.vectors["v"][rows] for batch, rows in zip(batches, selected, strict=True)]
    assert torch.equal(joined.vectors["v"], torch.cat(vectors))


def test_a_single_slice_is_a_view() -> None:
    batch = wide_batch(10)
    joined = assemble([(batch, slice(2, 5))])
    assert joined.continuous.data_ptr() == batch.continuous[2:].data_ptr()
    assert_same(joined, batch.rows(slice(2, 5)))
