"""What a process runs on: made once, handed around."""

from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from recap.errors import InputError
from recap.ranks import ALONE, Ranks


@dataclass(frozen=True)
class Runtime:
    """The device of this process, and the processes it works with."""

    device: torch.device
    ranks: Ranks = ALONE


def start_runtime(ranks: Ranks = ALONE) -> Runtime:
    """The GPU of this rank, the first for a process alone, if there are any; else the CPU. Raises InputError."""
    if not torch.cuda.is_available():
        return Runtime(torch.device("cpu"), ranks)
    if ranks.local_world_size > torch.cuda.device_count():
        raise InputError(
            f"torchrun started {ranks.local_world_size} processes on a machine of {torch.cuda.device_count()} GPUs; "
            "give --nproc-per-node that many at the most"
        )
    torch.cuda.set_device(ranks.local_rank)
    return Runtime(torch.device("cuda"), ranks)


def seed_torch(seed: int, step: int, rank: int = 0) -> None:
    """Make everything random in `step` a pure function of (seed, step, rank), so a resumed step repeats itself exactly.

    Initial weights are step 0 of rank 0; optimizer steps count from 1.
    """
    torch.manual_seed((seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9 + rank * 0x94D049BB133111EB) % 2**63)


def free_memory() -> int:
    """Bytes that this process may still take: what the machine has free, and what its control group allows."""
    free = int(psutil.virtual_memory().available)
    group = Path("/sys/fs/cgroup")
    try:
        limit, taken = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        told = dict(line.split(" ") for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # no such group, or one without a limit
        return free
    return max(0, min(free, limit - taken + int(told.get("inactive_file", 0))))  # files' pages can be given back
