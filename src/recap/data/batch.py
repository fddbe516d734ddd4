"""`Batch`: rows as tensors, the one form in which data reaches a model."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.export
from torch import Tensor

from recap.native.buffers import new_array


@dataclass(frozen=True)
class Batch:
    """B rows. Columns are in the order of `FeaturesConfig`, tasks in the order of `model.tasks`.

    A batch is registered as a pytree, so that `torch.export` and `torch.compile` take it as an input. Its fields must
    therefore be tensors, plain dicts of tensors, or None.
    """

    continuous: Tensor  # [B, C] float32, or the widest dtype of the columns; NaN where null
    binary: Tensor  # [B, K] float32, or the widest dtype of the columns; 0 or 1
    discrete: Tensor  # [B, D] int64 codes; 0 is the unknown bucket
    vectors: dict[str, Tensor]  # name → [B, E] float32, or the dtype of the column
    labels: Tensor | None = None  # [B, T] float32, 0 or 1; any finite number for a regression
    weights: Tensor | None = None  # [B, T] float32, ≥ 0
    user: Tensor | None = None  # [B] int64, equal for rows of one user
    teacher: Tensor | None = None  # [B, T] float32, what teachers predict, NaN where unknown; only in training
    teacher_inputs: dict[str, Tensor] | None = None  # what models that are teachers read, by `NUMBER/name of a tensor`
    request: Tensor | None = None  # [B] int64, equal for rows of one request; only where a loss compares them
    lists: Tensor | None = None  # [B] int64, equal for rows of one list; None if a list holds the rows of a user
    times: Tensor | None = None  # [B] int64, in milliseconds since 1970; only where a stratum selects by time
    histories: dict[str, Tensor] = field(default_factory=dict)  # keys as in `encode_history`; padded to [B, L, …]

    def __len__(self) -> int:
        return self.continuous.shape[0]

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor by name: `continuous`, …, `vectors/NAME`, …, `histories/KEY`."""
        tensors: dict[str, Tensor] = {}
        for name, value in self._present_fields():
            if isinstance(value, Tensor):
                tensors[name] = value
            else:
                tensors |= {f"{name}/{key}": tensor for key, tensor in value.items()}
        return tensors

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> "Batch":
        """A batch of other tensors, one for each name of `tensors()`."""
        replaced: dict[str, Any] = {
            name: tensors[name] if isinstance(value, Tensor) else {key: tensors[f"{name}/{key}"] for key in value}
            for name, value in self._present_fields()
        }
        return replace(self, **replaced)

    def rows(self, index: slice | Tensor) -> "Batch":
        """The rows at `index`: views for a slice, copies for int64 indices [N]."""
        if isinstance(index, slice):
            return self._map(lambda tensor: tensor[index])
        return self._map(lambda tensor: tensor.index_select(0, index))

    def blocks(self, rows: int) -> Iterator["Batch"]:
        """The rows in order, at most `rows` at a time."""
        return (self.rows(slice(start, start + rows)) for start in range(0, len(self), rows))

    def to(self, device: torch.device) -> "Batch":
        """The same rows on another device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def clone(self) -> "Batch":
        """A copy of the rows in new memory."""
        return self._map(torch.clone)

    def padded(self, rows: int) -> "Batch":
        """The rows, followed by rows of zeros up to `rows` rows."""
        more = rows - len(self)
        if more <= 0:
            return self
        return self._map(lambda tensor: torch.cat([tensor, tensor.new_zeros((more, *tensor.shape[1:]))]))

    @property
    def row_bytes(self) -> int:
        """Bytes per row."""
        return sum(tensor.element_size() * math.prod(tensor.shape[1:]) for tensor in self.tensors().values())

    def _present_fields(self) -> list[tuple[str, Any]]:
        """The names and values of the fields that hold rows and are not None."""
        return [(name, value) for name, value in vars(self).items() if isinstance(value, Tensor | dict)]

    def _map(self, function: Callable[[Tensor], Tensor]) -> "Batch":
        return self.with_tensors({name: function(tensor) for name, tensor in self.tensors().items()})


torch.export.register_dataclass(Batch, serialized_type_name="recap.Batch")

Selection = tuple[Batch, slice | npt.NDArray[np.int64]]
"""A batch, and which of its rows: a slice, or their indices [N]."""


def slice_selections(selections: Sequence[Selection], rows: slice) -> list[Selection]:
    """Rows `rows.start` to `rows.stop - 1` of the concatenated `selections`, as one or more selections."""
    result: list[Selection] = []
    first = 0
    for batch, selected in selections:
        indices = range(*selected.indices(len(batch))) if isinstance(selected, slice) else selected
        sliced = indices[max(rows.start - first, 0) : max(rows.stop - first, 0)]
        first += len(indices)
        if len(sliced):
            result.append((batch, slice(sliced.start, sliced.stop) if isinstance(sliced, range) else sliced))
    return result or [(selections[0][0], slice(0, 0))]


def assemble(selections: Sequence[Selection]) -> Batch:
    """Concatenate selections of batches with the same columns: a single slice is a view, anything else one copy."""
    first, rows = selections[0]
    if len(selections) == 1 and isinstance(rows, slice):
        return first.rows(rows)
    parts = [(batch.tensors(), rows) for batch, rows in selections]
    return first.with_tensors(
        {name: _assemble_tensor([(tensors[name], rows) for tensors, rows in parts]) for name in parts[0][0]}
    )


def _assemble_tensor(parts: Sequence[tuple[Tensor, slice | npt.NDArray[np.int64]]]) -> Tensor:
    # NumPy copies in the calling thread; torch would use the threads that train.
    tensor = parts[0][0]
    arrays = [(_array(tensor), rows) for tensor, rows in parts]
    sizes = [len(array[rows]) if isinstance(rows, slice) else len(rows) for array, rows in arrays]
    joined = new_array((sum(sizes), *tensor.shape[1:]), arrays[0][0].dtype)
    start = 0
    for (array, rows), size in zip(arrays, sizes, strict=True):
        target = joined[start : start + size]
        if isinstance(rows, slice):
            target[:] = array[rows]
        else:
            array.take(rows, axis=0, out=target, mode="clip")  # mode "raise" would copy twice
        start += size
    return torch.from_numpy(joined).view(tensor.dtype)


def _array(tensor: Tensor) -> npt.NDArray[Any]:
    """The same memory as a NumPy array; bfloat16, which NumPy lacks, becomes int16."""
    return tensor.view(torch.int16).numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()
