"""`Batch`: rows as tensors, the one form in which data reaches a model."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """B rows. Columns stand in the order of `FeaturesConfig`, tasks in the order of `model.tasks`."""

    continuous: Tensor  # [B, C] float32, or what the columns are held as; NaN where null
    binary: Tensor  # [B, K] float32, or what the columns are held as; 0 or 1
    discrete: Tensor  # [B, D] int64 codes; 0 is the unknown bucket
    vectors: Mapping[str, Tensor]  # name → [B, E] float32, or what it is held as
    labels: Tensor | None = None  # [B, T] float32, 0 or 1
    weights: Tensor | None = None  # [B, T] float32, ≥ 0
    user: Tensor | None = None  # [B] int64, equal for rows of one user

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

    @property
    def row_bytes(self) -> int:
        """Bytes that one row takes."""
        tensors = [getattr(self, field.name) for field in fields(self)]
        return sum(
            tensor.element_size() * math.prod(tensor.shape[1:])
            for tensor in (*tensors, *self.vectors.values())
            if isinstance(tensor, Tensor)
        )

    def _map(self, function: Callable[[Tensor], Tensor]) -> "Batch":
        changed = {
            field.name: function(value)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        vectors = {name: function(tensor) for name, tensor in self.vectors.items()}
        return replace(self, **changed, vectors=vectors)


def concatenate(batches: Sequence[Batch]) -> Batch:
    """The rows of `batches` one after the other; all must have the same columns."""
    first = batches[0]
    if len(batches) == 1:
        return first
    joined = {
        field.name: torch.cat([getattr(batch, field.name) for batch in batches])
        for field in fields(first)
        if isinstance(getattr(first, field.name), Tensor)
    }
    vectors = {name: torch.cat([batch.vectors[name] for batch in batches]) for name in first.vectors}
    return replace(first, **joined, vectors=vectors)
