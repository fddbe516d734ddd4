"""The ranks of a run and their collectives, named as in `torch.distributed`.

`torchrun` starts one process per rank and describes it in the environment. All ranks take every step together, each
with its share of the rows; only rank 0 writes files and reports. Without `torchrun` there is one rank, and every
collective returns its input.
"""

import json
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from hashlib import sha256
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import GradBucket, Store  # type: ignore[attr-defined]

from recap.errors import InputError, LostRank
from recap.signals import Signals

TIMEOUT = timedelta(minutes=10)
"""How long a rank waits for one that hangs; a rank that died is noticed immediately."""
BUCKET_BYTES = 25 << 20
"""Maximum size of one all-reduce bucket."""
POLL_SECONDS = 0.05
"""Time between two looks at whether all ranks have arrived."""


@dataclass(frozen=True)
class Ranks:
    """This process among the ranks of its run. Every rank must call the same collective methods in the same order."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    """The rank among the processes of this machine."""
    local_world_size: int = 1
    store: Store | None = field(default=None, compare=False, repr=False)
    """The key-value store that only these ranks use; None if they are not connected."""

    @property
    def is_distributed(self) -> bool:
        """Whether the run has other ranks."""
        return self.world_size > 1

    @property
    def is_first(self) -> bool:
        """Whether this rank writes files and reports."""
        return self.rank == 0

    def share(self, rows: int) -> slice:
        """This rank's slice of `rows`: consecutive slices whose sizes differ by at most one row."""
        return slice(rows * self.rank // self.world_size, rows * (self.rank + 1) // self.world_size)

    def all_reduce(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Sums over all ranks, bit for bit the same on each, as new tensors in the same order."""
        if not self.is_distributed:
            return list(tensors)
        sums: list[Tensor] = []
        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.detach().reshape(-1) for tensor in bucket])
            _call(dist.all_reduce, flat)
            parts = torch.split(flat, [tensor.numel() for tensor in bucket])
            sums += [part.view(tensor.shape) for part, tensor in zip(parts, bucket, strict=True)]
        return sums

    def all_reduce_gradients(
        self, gradients: Sequence[Tensor | None], parameters: Sequence[Tensor]
    ) -> list[Tensor | None]:
        """Sums over all ranks, sparse where a gradient is sparse; None where no rank has a gradient."""
        if not self.is_distributed:
            return list(gradients)
        layouts = torch.tensor([_layout(gradient) for gradient in gradients])
        _call(dist.all_reduce, layouts, op=dist.ReduceOp.MAX)
        sums: list[Tensor | None] = [None] * len(gradients)
        dense: dict[int, Tensor] = {}
        for index, (layout, gradient, parameter) in enumerate(
            zip(layouts.tolist(), gradients, parameters, strict=True)
        ):
            if layout == _DENSE:
                dense[index] = torch.zeros_like(parameter) if gradient is None else gradient
            elif layout == _SPARSE:
                sums[index] = self._all_reduce_sparse(gradient, parameter)
        for index, total in zip(dense, self.all_reduce(list(dense.values())), strict=True):
            sums[index] = total
        return sums

    def all_reduce_mean_(self, tensors: Sequence[Tensor]) -> None:
        """Set each tensor to its mean over all ranks."""
        if self.is_distributed:
            for tensor, total in zip(tensors, self.all_reduce(tensors), strict=True):
                tensor.copy_(total / self.world_size)

    def all_gather(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The rows of all ranks in rank order: [n, …] → [N, …] each. `n` is the same for all tensors of a rank."""
        if not self.is_distributed:
            return list(tensors)
        counts = torch.zeros(self.world_size, dtype=torch.int64)
        counts[self.rank] = len(tensors[0])
        _call(dist.all_reduce, counts)
        rows = counts.tolist()
        gathered: list[Tensor] = []
        for tensor in tensors:
            padded = tensor.new_zeros((max(rows), *tensor.shape[1:]))  # every rank must send the same shape
            padded[: len(tensor)] = tensor
            parts = [torch.empty_like(padded) for _ in rows]
            _call(dist.all_gather, parts, padded)
            gathered.append(torch.cat([part[:count] for part, count in zip(parts, rows, strict=True)]))
        return gathered

    def send(self, data: bytes) -> Callable[[], None]:
        """Start to send bytes to rank 0, which `receive`s them; the returned function waits until they are sent."""
        tensors = [torch.tensor([len(data)]), torch.frombuffer(bytearray(data), dtype=torch.uint8)]
        works: list[Any] = []
        for tensor in tensors:
            _call(lambda tensor=tensor: works.append(dist.isend(tensor, 0)))

        def wait() -> None:
            for work, _ in zip(works, tensors, strict=True):  # the tensors must live until then
                _call(work.wait)

        return wait

    def receive(self, rank: int) -> bytes:
        """The next bytes that `rank` sends, on rank 0."""
        size = torch.zeros(1, dtype=torch.int64)
        _call(dist.recv, size, rank)
        data = torch.empty(int(size), dtype=torch.uint8)
        _call(dist.recv, data, rank)
        return data.numpy().tobytes()

    def broadcast_object(self, value: Any) -> Any:
        """The value of rank 0, on all ranks: JSON, in which NaN is allowed."""
        if not self.is_distributed:
            return value
        text = bytearray(json.dumps(value).encode() if self.is_first else b"")
        size = torch.tensor([len(text)])
        _call(dist.broadcast, size, 0)
        data = torch.frombuffer(text, dtype=torch.uint8) if self.is_first else torch.empty(int(size), dtype=torch.uint8)
        _call(dist.broadcast, data, 0)
        return json.loads(bytes(data.tolist()))

    def broadcast_(self, tensors: Sequence[Tensor]) -> None:
        """Set each tensor to its value on rank 0."""
        if self.is_distributed:
            for tensor in tensors:
                _call(dist.broadcast, tensor.detach(), 0)

    def barrier(self) -> None:
        """Wait until every rank has called this."""
        if self.is_distributed:
            _call(dist.all_reduce, torch.zeros(1))

    def gather(self, name: str, value: Any) -> list[Any]:
        """The values of all ranks, JSON, in rank order, when the last rank has called this, however long that takes.

        For the end of work that each rank does by itself: a collective would give up after `TIMEOUT`. If a rank dies,
        torchrun stops those that wait. `name`: different for each call of a run.
        """
        if not self.is_distributed:
            return [value]
        store = self.store
        assert store is not None
        store.set(f"gather/{name}/{self.rank}", json.dumps(value))
        keys = [f"gather/{name}/{rank}" for rank in range(self.world_size)]
        while not store.check(keys):
            time.sleep(POLL_SECONDS)
        return [json.loads(store.get(key)) for key in keys]

    def new_group(self) -> dist.ProcessGroup:
        """A group of all ranks whose collectives may run in any order relative to those of other groups."""
        group: dist.ProcessGroup = dist.new_group()
        return group

    def check_equal(self, facts: Mapping[str, str]) -> None:
        """Raise InputError, which lists them, if any of the facts (name → text) differ from those of rank 0."""
        digests = {name: sha256(fact.encode()).hexdigest() for name, fact in facts.items()}
        first = self.broadcast_object(digests)
        different = [name for name, digest in digests.items() if first[name] != digest]
        if different:
            raise InputError(
                f"rank {self.rank} differs from rank 0 in: {', '.join(different)}. All ranks must read the same "
                "configuration, training.save_dir and data; share these folders between the machines. If they only "
                "changed meanwhile, run the command again"
            )

    def _all_reduce_sparse(self, gradient: Tensor | None, parameter: Tensor) -> Tensor:
        """The sum of the sparse gradients of a table [N, …], added in rank order."""
        indices = torch.empty(0, 1, dtype=torch.int64, device=parameter.device)  # [n, 1]
        values = parameter.detach()[:0]  # [n, …]
        if gradient is not None:
            own = gradient.coalesce()
            indices, values = own.indices().T.contiguous(), own.values()
        indices, values = self.all_gather([indices, values])
        return torch.sparse_coo_tensor(indices.T, values, parameter.shape, check_invariants=False).coalesce()


ONE_RANK = Ranks()
"""The only rank of a run."""
_NONE, _DENSE, _SPARSE = range(3)
"""Layouts of a gradient; the sum has the largest layout of any rank."""


def _layout(gradient: Tensor | None) -> int:
    if gradient is None:
        return _NONE
    return _SPARSE if gradient.is_sparse else _DENSE


def _call(collective: Callable[..., Any], *arguments: Any, **options: Any) -> None:
    """Run a collective. Raises LostRank where torch raises RuntimeError."""
    try:
        collective(*arguments, **options)
    except RuntimeError as error:
        raise _lost(error) from None


def _lost(error: RuntimeError) -> LostRank:
    return LostRank(
        f"another process of this run ended or hangs ({first_line(error)}). Run the same command again; training "
        "resumes from its last checkpoint"
    )


def sum_bucket(group: dist.ProcessGroup | None, bucket: GradBucket) -> torch.futures.Future[Tensor]:
    """A communication hook of `DistributedDataParallel`: sums over the ranks, which torch divides by their number."""
    work = dist.all_reduce(bucket.buffer(), group=group, async_op=True)
    assert work is not None
    total: torch.futures.Future[Tensor] = work.get_future().then(lambda future: future.value()[0])
    return total


@contextmanager
def lost_ranks_raised() -> Iterator[None]:
    """For a block whose collectives torch starts, as in a backward pass: raises LostRank if one of them fails."""
    try:
        yield
    except RuntimeError as error:
        # The type does not tell Gloo's errors from those of a layer, such as one that is out of memory.
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            raise _lost(error) from None
        raise


def first_line(error: RuntimeError) -> str:
    """The reason that torch gives, in one line."""
    line = str(error).strip().partition("\n")[0].rpartition("RuntimeError: ")[2]  # without torch's frame around it
    return line.partition(". This is typically caused by")[0]  # gloo's advice, which is for its authors


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Runs of consecutive tensors with the same dtype and device, up to `BUCKET_BYTES` unless one tensor is larger."""
    bucket: list[Tensor] = []
    bucket_bytes = 0
    for tensor in tensors:
        tensor_bytes = tensor.numel() * tensor.element_size()
        fits = bucket and (bucket[0].dtype, bucket[0].device) == (tensor.dtype, tensor.device)
        if bucket and (not fits or bucket_bytes + tensor_bytes > BUCKET_BYTES):
            yield bucket
            bucket, bucket_bytes = [], 0
        bucket.append(tensor)
        bucket_bytes += tensor_bytes
    if bucket:
        yield bucket


class Consensus:
    """Sums numbers over all ranks and, in the same collective, shares the signals that any rank received."""

    def __init__(self, ranks: Ranks, local: Signals) -> None:
        """`local`: the signals of this process."""
        self.ranks, self.local = ranks, local
        self._agreed: list[int] = []

    @property
    def signals(self) -> Sequence[int]:
        """The signals known to all ranks, in order of arrival."""
        return self._agreed if self.ranks.is_distributed else self.local.received

    def all_reduce(self, values: Tensor) -> Tensor:
        """[N] float64 of this rank → [N], the sums over all ranks."""
        if not self.ranks.is_distributed:
            return values
        flags = torch.zeros(signal.NSIG, dtype=torch.float64)
        flags[self.local.received] = 1
        (sums,) = self.ranks.all_reduce([torch.cat([values, flags])])
        arrived = sums[len(values) :].nonzero().flatten().tolist()
        self._agreed += [number for number in arrived if number not in self._agreed]
        return sums[: len(values)]
