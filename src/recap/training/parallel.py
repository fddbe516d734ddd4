"""How the ranks of a run train one model: the interface between a training step and its processes.

`TrainStep` and balancing call a `Strategy`, never the ranks. `DataParallel` gives every rank all weights and a share of
the rows. PyTorch's `DistributedDataParallel` sums the gradients while the backward pass still computes others. Three
kinds of gradients stay out of it, and `reduce_gradients` sums them after the backward pass: sparse ones of tables,
those of balancing, and those of each task, since PCGrad and GradNorm combine the sums of tasks, which never are in
`parameter.grad`. The parts of a sharded table are summed by the table.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from recap.data.batch import Batch
from recap.distributed import ONE_RANK, Consensus, Ranks, lost_ranks_raised, sum_bucket
from recap.errors import InputError
from recap.model.ranker import Ranker
from recap.runtime import seed_torch

RawOutputs = Callable[[Batch], list[Tensor]]
"""`Ranker.raw_outputs`, perhaps compiled."""


class Strategy(ABC):
    """The collective operations of a training step. Every rank calls the same methods in the same order."""

    @abstractmethod
    def check_batch(self, rows: int, micro_batches: int, min_rows: int) -> None:
        """Raise InputError unless `rows` of a step give every rank `micro_batches` of at least `min_rows` rows."""

    @abstractmethod
    def start(self, ranker: Ranker) -> None:
        """Give every rank the weights and buffers of rank 0, but not its parts of sharded tables."""

    @abstractmethod
    def sum_in_backward(self, ranker: Ranker, raw_outputs: RawOutputs, *, sparse_tables: bool = False) -> RawOutputs:
        """The same function, but a backward pass from its outputs sums the gradients of `ranker` over all ranks.

        `sparse_tables`: the gradients of the tables are sparse, and are left to `reduce_gradients`.
        """

    @abstractmethod
    def micro_batch(self, *, is_last: bool) -> AbstractContextManager[None]:
        """For the forward and backward pass of a micro-batch: the last one of a step sums the gradients of all.

        Raises LostRank if another rank ended.
        """

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
        """Gradients of this rank's rows → sums over all ranks, one per parameter; None where no rank has one.

        Those that are summed already are returned as they are.
        """

    @abstractmethod
    def broadcast_object(self, value: Any) -> Any:
        """The JSON value of rank 0, on all ranks."""


class DataParallel(Strategy):
    """Every rank holds all weights and computes the gradients of its share of the rows."""

    def __init__(self, ranks: Ranks = ONE_RANK, consensus: Consensus | None = None) -> None:
        """`consensus`: sums the losses and, with them, shares signals at every step."""
        self._ranks, self._consensus = ranks, consensus
        self._module: DistributedDataParallel | None = None
        self._settled: set[Tensor] = set()
        """The parameters whose gradients are sums, or None, after the backward pass."""

    def check_batch(self, rows: int, micro_batches: int, min_rows: int) -> None:
        ranks = self._ranks.world_size
        needed = micro_batches * min_rows
        if ranks > 1 and rows // ranks < needed:
            size = f" of {min_rows} rows for BatchNorm" if min_rows > 1 else ""
            raise InputError(
                f"train_data.global_batch_size: {rows} rows are too few for {ranks} ranks of {micro_batches} "
                f"micro-batches{size}; use at least {needed * ranks} rows, or fewer ranks"
            )

    def start(self, ranker: Ranker) -> None:
        apart = "inputs.embeddings." if ranker.inputs.embeddings.is_sharded else None
        state = ranker.state_dict()
        self._ranks.broadcast_([state[name] for name in state if apart is None or not name.startswith(apart)])

    def sum_in_backward(self, ranker: Ranker, raw_outputs: RawOutputs, *, sparse_tables: bool = False) -> RawOutputs:
        tables = ranker.inputs.embeddings
        apart = set(tables.parameters()) if tables.is_sharded or sparse_tables else set()
        parameters = [parameter for parameter in ranker.parameters() if parameter not in apart]
        summed = [parameter for parameter in parameters if parameter.requires_grad]
        if not self._ranks.is_distributed or not summed:
            return raw_outputs
        self._settled = set(parameters) | (apart if tables.is_sharded else set())
        # A sharded table has collectives of its own in the same backward pass: the order among the two may vary.
        group = self._ranks.new_group() if tables.is_sharded else None
        self._module = DistributedDataParallel(
            _Network(raw_outputs, summed),
            process_group=group,
            init_sync=False,  # `start` does that, when the weights are loaded
            gradient_as_bucket_view=True,
            # Without it, torch changes its buckets after the first step, and with them the order of the terms of a sum
            # over three ranks or more: a resumed run would differ in the last bit.
            find_unused_parameters=True,
        )
        self._module.register_comm_hook(group, sum_bucket)
        return self._module

    def micro_batch(self, *, is_last: bool) -> AbstractContextManager[None]:
        return _AT_ONCE if self._module is None else self._summed_last(self._module, is_last)

    @contextmanager
    def _summed_last(self, module: DistributedDataParallel, is_last: bool) -> Iterator[None]:
        with lost_ranks_raised(), nullcontext() if is_last else module.no_sync():
            yield

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
        if not self._ranks.is_distributed:
            return gradients
        rest = [index for index, parameter in enumerate(parameters) if parameter not in self._settled]
        sums = list(gradients)
        if rest:
            of_rest = self._ranks.all_reduce_gradients([gradients[i] for i in rest], [parameters[i] for i in rest])
            for index, total in zip(rest, of_rest, strict=True):
                sums[index] = total
        return sums

    def broadcast_object(self, value: Any) -> Any:
        return self._ranks.broadcast_object(value)


_AT_ONCE = nullcontext()


class _Network(nn.Module):
    """Only the parameters whose gradients are summed, no buffers, and the forward pass that uses them."""

    def __init__(self, raw_outputs: RawOutputs, summed: Sequence[nn.Parameter]) -> None:
        super().__init__()
        self.raw_outputs, self.summed = raw_outputs, nn.ParameterList(summed)
        self.unused = nn.Parameter(summed[0].new_empty(0))
        """Without an unused parameter, `find_unused_parameters` writes a warning to stderr."""

    def forward(self, batch: Batch) -> list[Tensor]:
        return self.raw_outputs(batch)


ONE_PROCESS = DataParallel()
"""The strategy of a run with one rank."""
