"""Settings of a process: how long threads hold the interpreter, and whether freed memory stays.

The command line calls `tune_process`; a library caller keeps the settings of its own process.
"""

import ctypes
import sys

import torch

from recap.native import plain

SWITCH_SECONDS = 5e-4
"""How long a thread runs before it hands over the interpreter. With Python's 5 ms, threads that read data wait for each
other for a twentieth of their time."""
HEAP_BYTES = 4 << 30
"""Size of the heap in huge pages; address space, of which only used pages take memory."""


def tune_process() -> None:
    """Tune this process for training and scoring: thread switches, and without a GPU also freed memory."""
    if plain():
        return
    sys.setswitchinterval(SWITCH_SECONDS)
    if not torch.cuda.is_available():
        _keep_memory()


def _keep_memory() -> None:
    """Keep freed memory in the process, in huge pages. Does nothing without glibc.

    By default glibc returns large blocks to the system when they are freed, and each training step takes them again:
    mapping new pages costs more than the work done in them.
    """
    libc = ctypes.CDLL(None)
    if not sys.platform.startswith("linux") or not hasattr(libc, "gnu_get_libc_version"):
        return
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3  # constants of malloc.h
    libc.mallopt(mmap_threshold, 1 << 30)
    libc.mallopt(trim_threshold, 2**31 - 1)
    libc.mallopt(top_pad, 1 << 28)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    # Blocks at the end of the heap are marked for huge pages and freed again: no page is taken before it is used.
    block_bytes, huge_page, madv_hugepage = 1 << 29, 1 << 21, 14
    blocks = [start for _ in range(HEAP_BYTES // block_bytes) if (start := libc.malloc(block_bytes))]
    for start in blocks:
        aligned = -(-start // huge_page) * huge_page
        libc.madvise(aligned, start + block_bytes - aligned, madv_hugepage)
    for start in reversed(blocks):
        libc.free(start)
