"""How the ranks of a run train one model: the interface between a training step and its processes.

`TrainStep` and balancing call a `Strategy`, never the ranks. `DataParallel` gives every rank all weights and a share of
the rows, and sums gradients after the backward pass. Other strategies fit the same interface:

- PyTorch's `DistributedDataParallel` sums during the backward pass: wrap the module in `start`, and let
  `reduce_gradients` do nothing.
- Sharded embedding tables (TorchRec) give each rank different weights: broadcast only the shared ones in `start`, and
  leave the gradients of tables out of `reduce_gradients`.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from recap.distributed import ONE_RANK, Consensus, Ranks
from recap.errors import InputError
from recap.runtime import seed_torch


class Strategy(ABC):
    """The collective operations of a training step. Every rank calls the same methods in the same order."""

    @abstractmethod
    def check_batch(self, rows: int, micro_batches: int, min_rows: int) -> None:
        """Raise InputError unless `rows` of a step give every rank `micro_batches` of at least `min_rows` rows."""

    @abstractmethod
    def start(self, module: nn.Module) -> None:
        """Give every rank the weights and buffers of rank 0."""

    @abstractmethod
    def seed(self, seed: int, step: int) -> None:
        """Seed torch for a step; each rank draws different numbers."""

    @abstractmethod
    def sum_losses(self, losses: Tensor) -> Tensor:
        """Losses [T] float64 of this rank's rows → their sums over all ranks."""

    @abstractmethod
    def average_statistics(self, statistics: Sequence[Tensor]) -> None:
        """Set running statistics, such as those of BatchNorm, to their means over all ranks."""

    @abstractmethod
    def reduce_gradients(
        self, gradients: Sequence[Tensor | None], parameters: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        """Gradients of this rank's rows → sums over all ranks, one per parameter; None where no rank has one."""

    @abstractmethod
    def broadcast_object(self, value: Any) -> Any:
        """The JSON value of rank 0, on all ranks."""


class DataParallel(Strategy):
    """Every rank holds all weights and computes the gradients of its share of the rows."""

    def __init__(self, ranks: Ranks = ONE_RANK, consensus: Consensus | None = None) -> None:
        """`consensus`: sums the losses and, with them, shares signals at every step."""
        self._ranks, self._consensus = ranks, consensus

    def check_batch(self, rows: int, micro_batches: int, min_rows: int) -> None:
        ranks = self._ranks.world_size
        needed = micro_batches * min_rows
        if ranks > 1 and rows // ranks < needed:
            size = f" of {min_rows} rows for BatchNorm" if min_rows > 1 else ""
            raise InputError(
                f"train_data.global_batch_size: {rows} rows are too few for {ranks} ranks of {micro_batches} "
                f"micro-batches{size}; use at least {needed * ranks} rows, or fewer ranks"
            )

    def start(self, module: nn.Module) -> None:
        self._ranks.broadcast_(list(module.state_dict().values()))

    def seed(self, seed: int, step: int) -> None:
        seed_torch(seed, step, self._ranks.rank)

    def sum_losses(self, losses: Tensor) -> Tensor:
        if self._consensus is not None:
            return self._consensus.all_reduce(losses)
        (total,) = self._ranks.all_reduce([losses])
        return total

    def average_statistics(self, statistics: Sequence[Tensor]) -> None:
        self._ranks.all_reduce_mean_(statistics)

    def reduce_gradients(
        self, gradients: Sequence[Tensor | None], parameters: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        return self._ranks.all_reduce_gradients(gradients, parameters)

    def broadcast_object(self, value: Any) -> Any:
        return self._ranks.broadcast_object(value)


ONE_PROCESS = DataParallel()
"""The strategy of a run with one rank."""
