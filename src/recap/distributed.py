"""The ranks of a run: which one this process is, and the collectives they share, named as in `torch.distributed`.

`torchrun` starts one process per rank and describes it in the environment. All ranks do every step together, each on
its share of the rows; only rank 0 writes files and reports. Without such an environment the process is alone, and every
collective returns its input.
"""

import json
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import PrefixStore, Store, rendezvous  # type: ignore[attr-defined]

from recap.errors import InputError, LostRank, RecapError, RunError
from recap.signals import Signals

TIMEOUT = timedelta(minutes=10)
"""How long a rank waits for one that hangs; one that died is noticed at once."""
BUCKET_BYTES = 25 << 20
"""Maximum size of one all-reduce bucket."""
_NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Ranks:
    """The ranks of a run, seen from this one. Every rank must call the collective methods, in the same order."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    """The rank among the processes of this machine."""
    local_world_size: int = 1

    @property
    def is_alone(self) -> bool:
        """Whether this is the only process."""
        return self.world_size == 1

    @property
    def is_first(self) -> bool:
        """Whether this rank writes files and reports."""
        return self.rank == 0

    def share(self, rows: int) -> slice:
        """This rank's slice of `rows`; the slices partition the rows in order and differ in size by at most one."""
        return slice(rows * self.rank // self.world_size, rows * (self.rank + 1) // self.world_size)

    def all_reduce(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Sums over all ranks, bit for bit equal on each: new tensors of the same shapes and order."""
        if self.is_alone:
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
        if self.is_alone:
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
        if not self.is_alone:
            for tensor, total in zip(tensors, self.all_reduce(tensors), strict=True):
                tensor.copy_(total / self.world_size)

    def all_gather(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The rows of all ranks in rank order: [n, …] each → [N, …] each. `n` may differ between ranks, not tensors."""
        if self.is_alone:
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

    def broadcast_object(self, value: Any) -> Any:
        """The value of rank 0, on all ranks. It must be JSON; NaN is allowed."""
        if self.is_alone:
            return value
        text = bytearray(json.dumps(value).encode() if self.is_first else b"")
        size = torch.tensor([len(text)])
        _call(dist.broadcast, size, 0)
        data = torch.frombuffer(text, dtype=torch.uint8) if self.is_first else torch.empty(int(size), dtype=torch.uint8)
        _call(dist.broadcast, data, 0)
        return json.loads(bytes(data.tolist()))

    def broadcast_(self, tensors: Sequence[Tensor]) -> None:
        """Set each tensor to its value on rank 0."""
        if not self.is_alone:
            for tensor in tensors:
                _call(dist.broadcast, tensor.detach(), 0)

    def barrier(self) -> None:
        """Wait until every rank has called this."""
        if not self.is_alone:
            _call(dist.all_reduce, torch.zeros(1))

    def check_equal(self, facts: Mapping[str, str]) -> None:
        """Raise InputError, which names them, if some of the facts (name → text) differ from those of rank 0."""
        digests = {name: sha256(fact.encode()).hexdigest() for name, fact in facts.items()}
        first = self.broadcast_object(digests)
        different = [name for name, digest in digests.items() if first[name] != digest]
        if different:
            raise InputError(
                f"rank {self.rank} differs from rank 0 in: {', '.join(different)}. All ranks must read one "
                "configuration, one training.save_dir and the same data; let all machines see the same folders"
            )

    def _all_reduce_sparse(self, gradient: Tensor | None, parameter: Tensor) -> Tensor:
        """The sum of sparse gradients of a table [N, …], of every row that some rank has, added in rank order."""
        indices = torch.empty(0, 1, dtype=torch.int64, device=parameter.device)  # [n, 1]
        values = parameter.detach()[:0]  # [n, …]
        if gradient is not None:
            own = gradient.coalesce()
            indices, values = own.indices().T.contiguous(), own.values()
        indices, values = self.all_gather([indices, values])
        return torch.sparse_coo_tensor(indices.T, values, parameter.shape).coalesce()


ALONE = Ranks()
"""A run of one process."""
_NONE, _DENSE, _SPARSE = range(3)
"""Layouts of a gradient; the largest over all ranks is that of the sum."""


def _layout(gradient: Tensor | None) -> int:
    if gradient is None:
        return _NONE
    return _SPARSE if gradient.is_sparse else _DENSE


def ranks_from_environment() -> Ranks:
    """The rank that `torchrun` describes in the environment, else `ALONE`. Raises InputError if it is invalid."""
    if "RANK" not in os.environ:
        return ALONE
    missing = [name for name in _NAMES if name not in os.environ]
    if missing:
        raise InputError(
            f"the environment has RANK={os.environ['RANK']} but no {', '.join(missing)}; start the ranks with "
            "torchrun, or unset RANK for a run of one process"
        )
    values = {name: os.environ[name] for name in _NAMES if name != "MASTER_ADDR"}
    shown = ", ".join(f"{name}={value}" for name, value in values.items())
    if not all(value.isascii() and value.isdigit() for value in values.values()):
        raise InputError(f"the environment has {shown}; expected whole numbers, as torchrun sets them")
    rank, world_size, local_rank, local_world_size, _ = map(int, values.values())
    if rank >= world_size or local_rank >= local_world_size:
        raise InputError(f"the environment has {shown}; ranks count from 0 and must be below the world size")
    return Ranks(rank, world_size, local_rank, local_world_size)


@contextmanager
def joined_ranks() -> Iterator[Ranks]:
    """Join the ranks that `torchrun` started, for the block. Raises InputError, and RunError if they cannot connect.

    A rank that fails does not leave the group: the others notice when its process ends.
    """
    ranks = ranks_from_environment()
    if ranks.is_alone:
        yield ranks
        return
    try:
        store = _store(TIMEOUT)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
            store=PrefixStore("recap/group", store),
            rank=ranks.rank,
            world_size=ranks.world_size,
            timeout=TIMEOUT,
        )
    except RuntimeError as error:
        where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise RunError(f"rank {ranks.rank}: cannot connect to the other ranks at {where}: {_short(error)}") from None
    try:
        yield ranks
    except RecapError as error:
        _REPORTED[error] = _reported(error, store)  # before this process ends, so before others can lose it
        raise
    store.set(f"done/{ranks.rank}", "")
    store.wait([f"done/{rank}" for rank in range(ranks.world_size)])  # a rank that leaves early is lost to the others
    dist.destroy_process_group()


_REPORTED: WeakKeyDictionary[RecapError, bool] = WeakKeyDictionary()
"""Errors of joined ranks → whether another rank reported the same."""


def reported_by_another_rank(error: RecapError) -> bool:
    """Whether another rank reports the same error; of a lost rank, whether any rank reports why it ended."""
    if error in _REPORTED:
        return _REPORTED[error]
    try:
        return not ranks_from_environment().is_alone and _reported(error, _store(timedelta(seconds=5)))
    except (InputError, RuntimeError):  # no store, so no other rank could report
        return False


def _store(timeout: timedelta) -> Store:
    """Where ranks leave notes for each other; torchrun's store outlives them."""
    store, _, _ = next(rendezvous("env://", timeout=timeout))
    return PrefixStore(f"recap/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def _reported(error: RecapError, store: Store) -> bool:
    """Note the error in the store; whether another rank noted it first."""
    try:
        others = store.add("errors", 1) - 1
        same = store.add(sha256(str(error).encode()).hexdigest(), 1) - 1
    except RuntimeError:
        return False
    return bool((others if isinstance(error, LostRank) else same) > 0)


def _call(collective: Callable[..., Any], *arguments: Any, **options: Any) -> None:
    """Run a collective. Raises LostRank where torch raises RuntimeError."""
    try:
        collective(*arguments, **options)
    except RuntimeError as error:
        raise LostRank(
            "a process of this run ended or hangs, and the others cannot continue without it; run the same command "
            f"again to resume from the last checkpoint ({_short(error)})"
        ) from None


def _short(error: RuntimeError) -> str:
    return str(error).strip().partition("\n")[0]


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Consecutive tensors of one dtype and device, up to `BUCKET_BYTES` unless a single tensor is larger."""
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
    """Sums numbers over all ranks and, in the same collective, tells every rank which signals reached any of them."""

    def __init__(self, ranks: Ranks, local: Signals) -> None:
        """`local`: the signals that this process receives."""
        self.ranks, self.local = ranks, local
        self._agreed: list[int] = []

    @property
    def signals(self) -> Sequence[int]:
        """The signals that all ranks know of, in order of arrival."""
        return self.local.received if self.ranks.is_alone else self._agreed

    def all_reduce(self, values: Tensor) -> Tensor:
        """[N] float64 of each rank → [N], their sums on all ranks."""
        if self.ranks.is_alone:
            return values
        flags = torch.zeros(signal.NSIG, dtype=torch.float64)
        flags[self.local.received] = 1
        (sums,) = self.ranks.all_reduce([torch.cat([values, flags])])
        arrived = sums[len(values) :].nonzero().flatten().tolist()
        self._agreed += [number for number in arrived if number not in self._agreed]
        return sums[: len(values)]
