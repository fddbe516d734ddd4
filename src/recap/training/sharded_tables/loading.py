"""TorchRec, loaded when a run first needs it, without the warnings and logs that it gives when all is well."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch.distributed import HashStore  # type: ignore[attr-defined]

from recap.distributed import Ranks
from recap.errors import InputError


def load_torchrec() -> None:
    """Import TorchRec and set how it sums gradients. Raises InputError if it is not installed or does not load."""
    with quiet():
        try:
            import torchrec  # noqa: F401
            from torchrec.distributed.comm_ops import set_gradient_division
        except (ImportError, OSError, RuntimeError, AttributeError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise InputError(
                f"training.sharded_tables needs TorchRec, which does not load ({reason}); run pip install "
                "'recap-ranker[torchrec]' beside a GPU, or pip install --no-deps --requirement torchrec-cpu.txt in a "
                "checkout on a CPU, or remove training.sharded_tables"
            ) from None
        for name in ("torchrec", "torch.fx._symbolic_trace"):
            logging.getLogger(name).setLevel(logging.ERROR)
        set_gradient_division(False)  # each rank's losses are weighted by its share of the rows already


@contextmanager
def quiet() -> Iterator[None]:
    """For the block: no warnings, such as those on what TorchRec itself calls and torch will remove."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def table_group(ranks: Ranks) -> Iterator[None]:
    """For the block: a process group of torch, which TorchRec needs, also for a run of a single process."""
    if ranks.is_distributed or dist.is_initialized():
        yield
        return
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", store=HashStore(), rank=0, world_size=1
    )
    try:
        yield
    finally:
        dist.destroy_process_group()


@contextmanager
def same_random_state() -> Iterator[None]:
    """For the block: random numbers that are drawn do not change those drawn after it."""
    with torch.random.fork_rng(devices=[]):
        yield
