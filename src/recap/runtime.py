"""What a process runs on: made once, handed around."""

from dataclasses import dataclass
from pathlib import Path

import psutil
import torch


@dataclass(frozen=True)
class Runtime:
    """The device of this process."""

    device: torch.device


def start_runtime() -> Runtime:
    """The first GPU if there is one, else the CPU."""
    return Runtime(torch.device("cuda" if torch.cuda.is_available() else "cpu"))


def seed_torch(seed: int, step: int) -> None:
    """Make everything random in `step` a pure function of (seed, step), so a resumed step repeats itself exactly.

    Initial weights are step 0; optimizer steps count from 1.
    """
    torch.manual_seed((seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9) % 2**63)


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
