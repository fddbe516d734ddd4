"""How the ranks that `torchrun` started find each other, and which of them reports an error.

They meet in torchrun's key-value store, and count there who has seen which error, so that each error is printed once.
"""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from hashlib import sha256
from threading import Event, Thread
from uuid import uuid4
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, Store, rendezvous  # type: ignore[attr-defined]

from recap.distributed import ONE_RANK, POLL_SECONDS, TIMEOUT, Ranks, first_line
from recap.errors import InputError, LostRank, RecapError, RunError
from recap.signals import raise_lost_signal

_PARENT_SECONDS = 1.0
"""Time between two looks at whether torchrun is alive."""
_NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def ranks_from_environment() -> Ranks:
    """The rank that `torchrun` describes in the environment, else `ONE_RANK`. Raises InputError if that is invalid."""
    if "RANK" not in os.environ:
        return ONE_RANK
    missing = [name for name in _NAMES if name not in os.environ]
    if missing:
        raise InputError(
            f"the environment has RANK={os.environ['RANK']} but not {', '.join(missing)}; start the ranks with "
            "torchrun, or unset RANK to run a single process"
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
    """Connect the ranks that `torchrun` started, for the block. Raises InputError, and RunError if that fails.

    A rank that fails does not leave the group; the others notice when its process ends. If torchrun dies, its ranks
    stop as on SIGTERM.
    """
    ranks = ranks_from_environment()
    raise_lost_signal()
    if not ranks.is_distributed:
        yield ranks
        return
    try:
        store = agreed_store(_store(TIMEOUT), ranks)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
            store=PrefixStore("recap/group", store),
            rank=ranks.rank,
            world_size=ranks.world_size,
            timeout=TIMEOUT,
        )
    except RuntimeError as error:
        where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise RunError(
            f"rank {ranks.rank}: cannot connect to the other ranks at {where} ({first_line(error)}); check that all "
            "ranks were started and that this machine reaches that address"
        ) from None
    try:
        with _stopped_without_parent():
            yield replace(ranks, store=store)
    except RecapError as error:
        _REPORTED[error] = _note_error(error, store)  # before this process ends and the others lose it
        raise
    store.set(f"done/{ranks.rank}", "")
    with suppress(RuntimeError):  # where rank 0 hosts the store, it may end first
        store.wait([f"done/{rank}" for rank in range(ranks.world_size)])  # if one left early, the others would lose it
    dist.destroy_process_group()


def agreed_store(store: Store, ranks: Ranks) -> Store:
    """A part of `store` that only these processes use. Raises RuntimeError if a rank does not come.

    torchrun keeps the store when it starts the ranks again. Its count of restarts does not tell groups apart: each
    machine has its own count, which does not grow when machines join. So each process shows a random token, and the
    group is found when all its ranks have seen the same tokens. Those of dead processes see no more.
    """
    store.set(f"token/{ranks.rank}", uuid4().hex)
    tokens = [f"token/{rank}" for rank in range(ranks.world_size)]
    deadline = time.monotonic() + TIMEOUT.total_seconds()
    while time.monotonic() < deadline:
        if store.check(tokens):
            group = sha256(b"".join(store.get(token) for token in tokens)).hexdigest()
            store.set(f"{group}/seen/{ranks.rank}", "")
            if store.check([f"{group}/seen/{rank}" for rank in range(ranks.world_size)]):
                return PrefixStore(group, store)
        time.sleep(POLL_SECONDS)
    raise RuntimeError("not all ranks have started")


@contextmanager
def _stopped_without_parent() -> Iterator[None]:
    """For the block, SIGTERM stops this rank if torchrun dies: nothing else would end it, or free its GPU."""
    parent, ended = os.getppid(), Event()

    def watch() -> None:
        while not ended.wait(_PARENT_SECONDS):
            if os.getppid() != parent:
                os.kill(os.getpid(), signal.SIGTERM)
                return

    Thread(target=watch, name="recap-parent", daemon=True).start()
    try:
        yield
    finally:
        ended.set()


_REPORTED: WeakKeyDictionary[RecapError, bool] = WeakKeyDictionary()
"""Errors inside `joined_ranks` → whether another rank reports the same error."""


def reported_by_another_rank(error: RecapError) -> bool:
    """Whether another rank reports the same error; for LostRank, whether any rank reports its cause."""
    if error in _REPORTED:
        return _REPORTED[error]
    try:
        if not ranks_from_environment().is_distributed:
            return False
        start = PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), _store(timedelta(seconds=5)))
        return _note_error(error, start)
    except (InputError, RuntimeError):  # no store, so no other rank could report
        return False


def _store(timeout: timedelta) -> Store:
    """The key-value store of the ranks; torchrun hosts it, so it outlives them."""
    store, _, _ = next(rendezvous("env://", timeout=timeout))
    return PrefixStore("recap", store)


def _note_error(error: RecapError, store: Store) -> bool:
    """Note the error in the store; return whether another rank noted it before."""
    try:
        others = store.add("errors", 1) - 1
        same = store.add(sha256(str(error).encode()).hexdigest(), 1) - 1
    except RuntimeError:
        return False
    return bool((others if isinstance(error, LostRank) else same) > 0)
