"""Detects and undoes a non-finite step."""

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from recap.distributed import Ranks
from recap.errors import NotFinite
from recap.model.directory import TABLES
from recap.model.ranker import Ranker
from recap.native.torch_private import foreach_norm, sparse_parts
from recap.training.balancing.balancing import Balancing
from recap.training.sharded_tables.tables import ShardedTables


class StepGuard:
    """Checks the numbers of a step before the optimizer uses them, and can undo the step."""

    def __init__(self, tasks: Sequence[str], ranker: Ranker, balancing: Balancing) -> None:
        self.tasks, self.balancing, self.tables = tasks, balancing, ranker.inputs.embeddings
        self.parameters: dict[str, nn.Parameter] = {**dict(ranker.named_parameters()), **balancing.parameters()}
        # The forward pass changes running statistics before the loss is known. Buffers are small, except the ids of
        # rows, which only a finished step changes.
        self.buffers = {
            name: buffer for name, buffer in ranker.named_buffers() if not name.startswith(f"{TABLES}.row_ids.")
        }
        self._copies = {name: buffer.clone() for name, buffer in self.buffers.items()}
        self._balancing_state: Mapping[str, Tensor] = {}

    def begin(self) -> None:
        """Copy what a step may change before the optimizer runs."""
        for name, buffer in self.buffers.items():
            self._copies[name].copy_(buffer)
        self._balancing_state = self.balancing.state_dict()

    def undo(self) -> None:
        """Restore everything that changed since `begin`."""
        for name, buffer in self.buffers.items():
            buffer.copy_(self._copies[name])
        self.balancing.forget()
        self.balancing.load_state_dict(self._balancing_state)

    def check_losses(self, step: int, losses: Tensor) -> None:
        """Raise NotFinite unless the losses [T] and the running statistics are finite."""
        bad = [task for task, loss in zip(self.tasks, losses.tolist(), strict=True) if not math.isfinite(loss)]
        if bad:
            raise NotFinite(step, "loss", bad)
        if bad := not_finite(self.buffers):
            raise NotFinite(step, "running statistic", bad)

    def check_gradients(self, step: int) -> None:
        """Raise NotFinite if the norm of a gradient overflows float32, since optimizers square gradients."""
        gradients = {name: parameter.grad for name, parameter in self.parameters.items() if parameter.grad is not None}
        bad = _overflowing(gradients)
        if isinstance(self.tables, ShardedTables):
            norms = self.tables.gradient_norms()
            bad += [f"{TABLES}.{table}" for table, norm in norms.items() if not math.isfinite(norm)]
        if bad:
            raise NotFinite(step, "gradient", bad)


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """The names of the tensors that contain NaN or infinity."""
    return [name for name in _overflowing(tensors) if not bool(_values(tensors[name]).isfinite().all())]


def not_finite_anywhere(tensors: Mapping[str, Tensor], ranks: Ranks) -> list[str]:
    """The names of the tensors that contain NaN or infinity; of sharded ones, on any rank."""
    from torch.distributed._shard.sharded_tensor.api import ShardedTensor

    sharded = {name: tensor for name, tensor in tensors.items() if isinstance(tensor, ShardedTensor)}
    bad = not_finite({name: tensor for name, tensor in tensors.items() if name not in sharded})
    if sharded:
        counts = [
            len(not_finite({str(index): shard.tensor for index, shard in enumerate(tensor.local_shards())}))
            for tensor in sharded.values()
        ]
        (totals,) = ranks.all_reduce([torch.tensor(counts)])
        bad += [name for name, total in zip(sharded, totals.tolist(), strict=True) if total]
    return bad


def _overflowing(tensors: Mapping[str, Tensor]) -> list[str]:
    """The names of the tensors whose norm is not finite in their dtype: the cheapest check, one pass over memory."""
    values = {name: _values(tensor) for name, tensor in tensors.items() if tensor.is_floating_point()}
    if not values:
        return []
    norms: Iterable[float] = torch.stack([norm.float() for norm in foreach_norm(list(values.values()))]).tolist()
    return [name for name, norm in zip(values, norms, strict=True) if not math.isfinite(norm)]


def _values(tensor: Tensor) -> Tensor:
    """The stored numbers of a tensor, sparse or dense."""
    return sparse_parts(tensor.detach())[1] if tensor.is_sparse else tensor.detach()
