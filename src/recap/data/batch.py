"""`Batch`: rows as tensors, the one form in which data reaches a model."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from recap.native.buffers import new_array


@dataclass(frozen=True)
class Batch:
    """B rows. Columns stand in the order of `FeaturesConfig`, tasks in the order of `model.tasks`."""

    continuous: Tensor  # [B, C] float32, or what the columns are held as; NaN where null
    binary: Tensor  # [B, K] float32, or what the columns are held as; 0 or 1
    discrete: Tensor  # [B, D] int64 codes; 0 is the unknown bucket
    vectors: Mapping[str, Tensor]  # name → [B, E] float32, or what it is held as
    labels: Tensor | None = None  # [B, T] float32, 0 or 1; any finite number for a regression
    weights: Tensor | None = None  # [B, T] float32, ≥ 0
    user: Tensor | None = None  # [B] int64, equal for rows of one user
    histories: Mapping[str, Tensor] = field(default_factory=dict)  # as `encode_history` names them; padded to [B, L, …]

    def __len__(self) -> int:
        return self.continuous.shape[0]

    def rows(self, index: slice | Tensor) -> "Batch":
        """The rows at `index`: a slice (views) or int64 positions [N] (copies)."""
        if isinstance(index, slice):
            return self._map(lambda tensor: tensor[index])
        return self._map(lambda tensor: tensor.index_select(0, index))

    def to(self, device: torch.device) -> "Batch":
        """The same rows on another device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def clone(self) -> "Batch":
        """The same rows in memory of their own."""
        return self._map(torch.clone)

    def zeros(self, rows: int) -> "Batch":
        """So many rows of zeros, of the same columns."""
        return self._map(lambda tensor: tensor.new_zeros((rows, *tensor.shape[1:])))

    @property
    def row_bytes(self) -> int:
        """Bytes that one row takes."""
        tensors = [getattr(self, field.name) for field in fields(self)]
        return sum(
            tensor.element_size() * math.prod(tensor.shape[1:])
            for tensor in (*tensors, *self.vectors.values(), *self.histories.values())
            if isinstance(tensor, Tensor)
        )

    def _map(self, function: Callable[[Tensor], Tensor]) -> "Batch":
        changed = {
            field.name: function(value)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        vectors = {name: function(tensor) for name, tensor in self.vectors.items()}
        histories = {name: function(tensor) for name, tensor in self.histories.items()}
        return replace(self, **changed, vectors=vectors, histories=histories)


Pick = tuple[Batch, slice | npt.NDArray[np.int64]]
"""Some rows of a batch: a slice, or their positions [N]."""


def cut(picks: Sequence[Pick], rows: slice) -> list[Pick]:
    """Of the rows that are picked, end to end, those from `rows.start` to before `rows.stop`; at least one pick."""
    found: list[Pick] = []
    first = 0
    for batch, chosen in picks:
        places = range(*chosen.indices(len(batch))) if isinstance(chosen, slice) else chosen
        kept = places[max(rows.start - first, 0) : max(rows.stop - first, 0)]
        first += len(places)
        if len(kept):
            found.append((batch, slice(kept.start, kept.stop) if isinstance(kept, range) else kept))
    return found or [(picks[0][0], slice(0, 0))]


def assemble(picks: Sequence[Pick]) -> Batch:
    """The rows that are picked, end to end, copied once; a view where it is one slice. All have the same columns."""
    first, chosen = picks[0]
    if len(picks) == 1 and isinstance(chosen, slice):
        return first.rows(chosen)
    joined = {
        field.name: _assemble([(getattr(batch, field.name), chosen) for batch, chosen in picks])
        for field in fields(first)
        if isinstance(getattr(first, field.name), Tensor)
    }
    vectors = {name: _assemble([(batch.vectors[name], chosen) for batch, chosen in picks]) for name in first.vectors}
    histories = {
        name: _assemble([(batch.histories[name], chosen) for batch, chosen in picks]) for name in first.histories
    }
    return replace(first, **joined, vectors=vectors, histories=histories)


def _assemble(picks: Sequence[tuple[Tensor, slice | npt.NDArray[np.int64]]]) -> Tensor:
    # NumPy copies in the thread that asks; torch would take the threads that train.
    tensor = picks[0][0]
    arrays = [(_array(each), chosen) for each, chosen in picks]
    sizes = [len(array[chosen]) if isinstance(chosen, slice) else len(chosen) for array, chosen in arrays]
    made = new_array((sum(sizes), *tensor.shape[1:]), arrays[0][0].dtype)
    start = 0
    for (array, chosen), size in zip(arrays, sizes, strict=True):
        part = made[start : start + size]
        if isinstance(chosen, slice):
            part[:] = array[chosen]
        else:
            array.take(chosen, axis=0, out=part, mode="clip")  # to raise for others would need a copy between
        start += size
    return torch.from_numpy(made).view(tensor.dtype)


def _array(tensor: Tensor) -> npt.NDArray[Any]:
    """The same memory; types that NumPy does not know as integers of their width."""
    return tensor.view(torch.int16).numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()
