"""The device, precision and threads of a process, seeds, and free memory."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from recap.config.training import Precision
from recap.distributed import ONE_RANK, Ranks
from recap.errors import InputError

_GROUP = Path("/sys/fs/cgroup")
"""The cgroup of a container, with its limits."""
_SMALL_STEP = 1e10
"""FLOPs of a small step. A step waits for all threads some hundred times; on a busy machine each wait takes
milliseconds, which only a step of several tenths of a second outweighs."""


@dataclass(frozen=True)
class Runtime:
    """The device of this process, the precision of training, and the ranks of the run."""

    device: torch.device
    ranks: Ranks = ONE_RANK
    precision: Precision = "float32"
    """Never `auto`: `start_runtime` resolves it."""

    def autocast(self) -> AbstractContextManager[object]:
        """The context for training the network: mixed precision, or none."""
        dtype = {"bf16": torch.bfloat16, "float16": torch.float16}.get(self.precision)
        return nullcontext() if dtype is None else torch.autocast(self.device.type, dtype)


def start_runtime(ranks: Ranks = ONE_RANK, precision: Precision = "float32") -> Runtime:
    """The GPU of this rank if there is one, else the CPU. Raises InputError if there are more ranks than GPUs."""
    if not torch.cuda.is_available():
        if precision == "auto":
            precision = "bf16" if cpu_has_bf16() else "float32"
        return Runtime(torch.device("cpu"), ranks, precision)
    if ranks.local_world_size > torch.cuda.device_count():
        raise InputError(
            f"torchrun started {ranks.local_world_size} processes on a machine with {torch.cuda.device_count()} GPUs; "
            f"set --nproc-per-node to {torch.cuda.device_count()} or less"
        )
    torch.cuda.set_device(ranks.local_rank)
    if precision == "auto":
        precision = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "tf32"
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    return Runtime(torch.device("cuda"), ranks, precision)


def cpu_has_bf16() -> bool:
    """Whether the CPU has bf16 instructions (AVX512-BF16 or AMX); False if this version of torch cannot tell."""
    features = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(features.get("avx512_bf16") or features.get("amx_bf16"))


def cpu_has_int8() -> bool:
    """Whether the CPU has instructions for sums of int8 products; False if this version of torch cannot tell."""
    features = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return any(features.get(name) for name in ("avx512_vnni", "avx_vnni", "amx_int8"))


@contextmanager
def restored_threads() -> Iterator[None]:
    """Restore the number of torch's threads after the block."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def use_threads(threads: int | None, step_flops: float) -> None:
    """Let torch compute with `threads` threads; None chooses them for steps of this many FLOPs."""
    if threads is not None:
        torch.set_num_threads(threads)
    elif "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1 if step_flops < _SMALL_STEP else min(torch.get_num_threads(), available_cpus()))


def available_cpus() -> int:
    """CPUs that this process may use: its affinity, and the quota of its cgroup, rounded down; at least 1."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = (_GROUP / "cpu.max").read_text().split()
        return max(1, min(cpus, int(quota) // int(period)))
    except (OSError, ValueError):  # no cgroup, or one without a quota
        return cpus


def seed_torch(seed: int, step: int, rank: int = 0) -> None:
    """Seed torch from (seed, step, rank) alone, so that a resumed step draws the same numbers.

    Initial weights use step 0 and rank 0; optimizer steps count from 1.
    """
    torch.manual_seed((seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9 + rank * 0x94D049BB133111EB) % 2**63)


def free_memory() -> int:
    """Bytes that this process may still allocate: free on the machine, and within the limit of its cgroup."""
    free = int(psutil.virtual_memory().available)
    try:
        limit, used = (int((_GROUP / name).read_text()) for name in ("memory.max", "memory.current"))
        statistics = dict(line.split(" ") for line in (_GROUP / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # no cgroup, or one without a limit
        return free
    return max(0, min(free, limit - used + int(statistics.get("inactive_file", 0))))  # the file cache can be reclaimed
