"""What a process runs on: made once, handed around."""

import ctypes
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from recap.config.training import Precision
from recap.distributed import ALONE, Ranks
from recap.errors import InputError


@dataclass(frozen=True)
class Runtime:
    """The device of this process, what training computes in there, and the processes it works with."""

    device: torch.device
    ranks: Ranks = ALONE
    precision: Precision = "float32"
    """Never auto."""

    def autocast(self) -> AbstractContextManager[object]:
        """The network is trained within this."""
        dtype = {"bf16": torch.bfloat16, "float16": torch.float16}.get(self.precision)
        return nullcontext() if dtype is None else torch.autocast(self.device.type, dtype)


def start_runtime(ranks: Ranks = ALONE, precision: Precision = "float32") -> Runtime:
    """The GPU of this rank, the first for a process alone, if there are any; else the CPU. Raises InputError."""
    sys.setswitchinterval(_SWITCH_SECONDS)
    if not torch.cuda.is_available():
        if precision == "auto":
            precision = "bf16" if torch.cpu._is_avx512_bf16_supported() else "float32"
        _keep_memory()
        return Runtime(torch.device("cpu"), ranks, precision)
    if ranks.local_world_size > torch.cuda.device_count():
        raise InputError(
            f"torchrun started {ranks.local_world_size} processes on a machine of {torch.cuda.device_count()} GPUs; "
            "give --nproc-per-node that many at the most"
        )
    torch.cuda.set_device(ranks.local_rank)
    if precision == "auto":
        precision = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "tf32"
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    return Runtime(torch.device("cuda"), ranks, precision)


_SWITCH_SECONDS = 5e-4
"""How long a thread waits before it asks another for the interpreter: with Python's 5 ms, those that read data wait for
each other for a twentieth of their time."""


def _keep_memory() -> None:
    """Have freed memory stay with this process, in huge pages: new pages cost a step more than what it does in them.

    By default glibc gives large blocks back when they are freed, and each step takes them anew. Elsewhere than with
    glibc nothing is done.
    """
    libc = ctypes.CDLL(None)
    if not sys.platform.startswith("linux") or not hasattr(libc, "gnu_get_libc_version"):
        return
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3  # names of malloc.h
    libc.mallopt(mmap_threshold, 1 << 30)
    libc.mallopt(trim_threshold, 2**31 - 1)
    libc.mallopt(top_pad, 1 << 28)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    # Room at the end of the heap is marked and freed again: not a page of it is taken before it is used.
    block, huge_page, madv_hugepage = 1 << 29, 1 << 21, 14
    blocks = [start for _ in range(_KEPT_BYTES // block) if (start := libc.malloc(block))]
    for start in blocks:
        aligned = -(-start // huge_page) * huge_page
        libc.madvise(aligned, start + block - aligned, madv_hugepage)
    for start in reversed(blocks):
        libc.free(start)


_KEPT_BYTES = 4 << 30
"""How much of the heap is of huge pages."""


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
