"""The processes of one run: which of them this one is, and what they do together.

`torchrun` starts them, a process a rank, and says in the environment of each which it is. All ranks do the same steps
at once, each on its share of the rows; the first alone writes and speaks. A process to which the environment says
nothing of this is alone, and then nothing here costs anything.
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

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import PrefixStore, Store, rendezvous  # type: ignore[attr-defined]

from recap.errors import InputError, LostRank, RecapError, RunError
from recap.signals import Signals

TIMEOUT = timedelta(minutes=10)
"""How long a rank waits for the others. One that has died is noticed at once; this is for one that hangs."""
BUCKET_BYTES = 25 << 20
"""Tensors are added up together, until there are so many bytes of them."""
_NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Ranks:
    """All ranks of a run, seen from this one. What is said of all ranks must be called by all, in the same order."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    """Among those of this machine."""
    local_world_size: int = 1

    @property
    def is_alone(self) -> bool:
        """Whether there is no other."""
        return self.world_size == 1

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes and speaks."""
        return self.rank == 0

    def share(self, rows: int) -> slice:
        """Which of so many rows are this rank's: those of all ranks, in order, are all of them, and differ by 1."""
        return slice(rows * self.rank // self.world_size, rows * (self.rank + 1) // self.world_size)

    def sum(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The sums over all ranks, the same bits on each: new tensors of the same shapes, in the order given."""
        if self.is_alone:
            return list(tensors)
        sums: list[Tensor] = []
        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.detach().reshape(-1) for tensor in bucket])
            _wait(dist.all_reduce, flat)
            parts = torch.split(flat, [tensor.numel() for tensor in bucket])
            sums += [part.view(tensor.shape) for part, tensor in zip(parts, bucket, strict=True)]
        return sums

    def sum_gradients(self, gradients: Sequence[Tensor | None], parameters: Sequence[Tensor]) -> list[Tensor | None]:
        """The sums over all ranks, sparse where they are; None only where a parameter has a gradient on no rank."""
        if self.is_alone:
            return list(gradients)
        kinds = torch.tensor([0 if each is None else 2 if each.is_sparse else 1 for each in gradients])
        _wait(dist.all_reduce, kinds, op=dist.ReduceOp.MAX)
        found: list[Tensor | None] = [None] * len(gradients)
        dense: dict[int, Tensor] = {}
        for place, (kind, gradient, like) in enumerate(zip(kinds.tolist(), gradients, parameters, strict=True)):
            if kind == 1:
                dense[place] = torch.zeros_like(like) if gradient is None else gradient
            elif kind == 2:
                found[place] = self._sum_sparse(gradient, like)
        for place, total in zip(dense, self.sum(list(dense.values())), strict=True):
            found[place] = total
        return found

    def mean_(self, tensors: Sequence[Tensor]) -> None:
        """Set each to its mean over all ranks."""
        if not self.is_alone:
            for tensor, total in zip(tensors, self.sum(tensors), strict=True):
                tensor.copy_(total / self.world_size)

    def gather(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The rows of all ranks, [N, …] each, in the order of ranks. Those given, [n, …] each, have the same n."""
        if self.is_alone:
            return list(tensors)
        counts = torch.zeros(self.world_size, dtype=torch.int64)
        counts[self.rank] = len(tensors[0])
        _wait(dist.all_reduce, counts)
        rows = counts.tolist()
        gathered: list[Tensor] = []
        for tensor in tensors:
            padded = tensor.new_zeros((max(rows), *tensor.shape[1:]))  # all have to send as much
            padded[: len(tensor)] = tensor
            parts = [torch.empty_like(padded) for _ in rows]
            _wait(dist.all_gather, parts, padded)
            gathered.append(torch.cat([part[:count] for part, count in zip(parts, rows, strict=True)]))
        return gathered

    def from_first(self, value: Any) -> Any:
        """What the first rank gives, on all ranks; plain values as JSON knows them, NaN among them."""
        if self.is_alone:
            return value
        text = bytearray(json.dumps(value).encode() if self.is_first else b"")
        size = torch.tensor([len(text)])
        _wait(dist.broadcast, size, 0)
        sent = torch.frombuffer(text, dtype=torch.uint8) if self.is_first else torch.empty(int(size), dtype=torch.uint8)
        _wait(dist.broadcast, sent, 0)
        return json.loads(bytes(sent.tolist()))

    def copy_from_first(self, tensors: Sequence[Tensor]) -> None:
        """Set each to what it is on the first rank."""
        if not self.is_alone:
            for tensor in tensors:
                _wait(dist.broadcast, tensor.detach(), 0)

    def wait(self) -> None:
        """Go on when all have come here."""
        if not self.is_alone:
            _wait(dist.all_reduce, torch.zeros(1))

    def check_alike(self, facts: Mapping[str, str]) -> None:
        """Raise InputError where one of the facts, by what it is about, is another one on the first rank."""
        digests = {about: sha256(fact.encode()).hexdigest() for about, fact in facts.items()}
        first = self.from_first(digests)
        different = [about for about, digest in digests.items() if first[about] != digest]
        if different:
            raise InputError(
                f"rank {self.rank}: not the same as on rank 0: {', '.join(different)}. All ranks read one "
                "configuration, one training.save_dir and the same data; let all machines see the same folders"
            )

    def _sum_sparse(self, gradient: Tensor | None, like: Tensor) -> Tensor:
        """The sum of sparse gradients of a table [N, …]: of the rows that any rank has, added in the order of ranks."""
        places, values = torch.empty(0, 1, dtype=torch.int64, device=like.device), like.detach()[:0]
        if gradient is not None:
            own = gradient.coalesce()
            places, values = own.indices().T.contiguous(), own.values()
        places, values = self.gather([places, values])
        return torch.sparse_coo_tensor(places.T, values, like.shape).coalesce()


ALONE = Ranks()
"""A process that does everything itself."""


def ranks_from_environment() -> Ranks:
    """What `torchrun` says of this process; alone where it says nothing. Raises InputError for what cannot be."""
    if "RANK" not in os.environ:
        return ALONE
    missing = [name for name in _NAMES if name not in os.environ]
    if missing:
        raise InputError(
            f"the environment says RANK={os.environ['RANK']}, but not {', '.join(missing)}; start the ranks by "
            "torchrun, or unset RANK for a run of one process"
        )
    said = {name: os.environ[name] for name in _NAMES if name != "MASTER_ADDR"}
    shown = ", ".join(f"{name}={value}" for name, value in said.items())
    if not all(value.isascii() and value.isdigit() for value in said.values()):
        raise InputError(f"the environment says {shown}; whole numbers are expected, as torchrun sets them")
    rank, world_size, local_rank, local_world_size, _ = map(int, said.values())
    if rank >= world_size or local_rank >= local_world_size:
        raise InputError(f"the environment says {shown}; a rank counts from 0 and is less than the world size")
    return Ranks(rank, world_size, local_rank, local_world_size)


@contextmanager
def joined_ranks() -> Iterator[Ranks]:
    """The ranks that `torchrun` started, joined while the block runs. Raises InputError; RunError if they do not meet.

    A rank that fails does not part from the others: they learn of it when its process ends, and tell the user that a
    rank was lost only where none has told why.
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
        raise RunError(f"rank {ranks.rank}: did not meet the other ranks at {where}: {_short(error)}") from None
    try:
        yield ranks
    except RecapError as error:
        error.was_said = _was_said(error, store)  # while the others cannot know yet
        raise
    store.set(f"done/{ranks.rank}", "")
    store.wait([f"done/{rank}" for rank in range(ranks.world_size)])  # one that parts too early is lost to the others
    dist.destroy_process_group()


def look_up(error: RecapError) -> None:
    """Note on an error that came while ranks were not joined whether another has said the same."""
    try:
        if error.was_said is None and not ranks_from_environment().is_alone:
            error.was_said = _was_said(error, _store(timedelta(seconds=5)))
    except (InputError, RuntimeError):  # then nobody else can have said it
        return


def _store(timeout: timedelta) -> Store:
    """Where ranks leave notes for each other; that of `torchrun` outlives them."""
    store, _, _ = next(rendezvous("env://", timeout=timeout))
    return PrefixStore(f"recap/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def _was_said(error: RecapError, store: Store) -> bool:
    """Whether another rank said the same; and of a lost rank, whether any said why it ended."""
    try:
        others = store.add("errors", 1) - 1
        same = store.add(sha256(str(error).encode()).hexdigest(), 1) - 1
    except RuntimeError:
        return False
    return bool((others if isinstance(error, LostRank) else same) > 0)


def _wait(collective: Callable[..., Any], *arguments: Any, **options: Any) -> None:
    try:
        collective(*arguments, **options)
    except RuntimeError as error:
        raise LostRank(
            "a process of this run ended or hangs, and the others cannot go on without it; run the same command again "
            f"to go on from the last checkpoint ({_short(error)})"
        ) from None


def _short(error: RuntimeError) -> str:
    return str(error).strip().partition("\n")[0]


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Neighbours of one type on one device, about `BUCKET_BYTES` at the most unless one alone is more."""
    bucket: list[Tensor] = []
    size = 0
    for tensor in tensors:
        more = tensor.numel() * tensor.element_size()
        alike = bucket and (bucket[0].dtype, bucket[0].device) == (tensor.dtype, tensor.device)
        if bucket and (not alike or size + more > BUCKET_BYTES):
            yield bucket
            bucket, size = [], 0
        bucket.append(tensor)
        size += more
    if bucket:
        yield bucket


class Consensus:
    """Adds numbers up over all ranks, and with them tells each which signals reached any."""

    def __init__(self, ranks: Ranks, received: Signals) -> None:
        """`received`: the signals that this process got, and will get."""
        self.ranks, self.received = ranks, received
        self.signals: list[int] = received if ranks.is_alone else []
        """Those that all ranks know of; alone, all."""

    def sum(self, values: Tensor) -> Tensor:
        """[N] float64 of each rank → [N], their sums on all ranks."""
        if self.ranks.is_alone:
            return values
        flags = torch.zeros(signal.NSIG, dtype=torch.float64)
        flags[list(self.received)] = 1
        (sums,) = self.ranks.sum([torch.cat([values, flags])])
        arrived = sums[len(values) :].nonzero().flatten().tolist()
        self.signals += [number for number in arrived if number not in self.signals]
        return sums[: len(values)]
