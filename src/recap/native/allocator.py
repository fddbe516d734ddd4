"""Settings of the process: the interval of thread switches, and how freed memory is kept.

The command line calls `tune_process`; a program that imports recap keeps its own settings.
"""

import ctypes
import sys

import torch

from recap.native import plain

SWITCH_SECONDS = 5e-4
"""How long a thread runs before it releases the interpreter. With Python's 5 ms, threads that read data spend 5% of
their time waiting for each other."""
HEAP_BYTES = 4 << 30
"""Size of the heap in huge pages. It is address space: only pages that are used take memory."""


def tune_process() -> None:
    """Tune this process for training and scoring: thread switches and, without a GPU, freed memory."""
    if plain():
        return
    sys.setswitchinterval(SWITCH_SECONDS)
    if not torch.cuda.is_available():
        _keep_memory()


def _keep_memory() -> None:
    """Keep freed memory in the process, in huge pages. Does nothing without glibc.

    By default glibc returns large blocks to the system when they are freed, and every training step maps new pages,
    which costs more than the work done in them.
    """
    libc = ctypes.CDLL(None)
    if not sys.platform.startswith("linux") or not hasattr(libc, "gnu_get_libc_version"):
        return
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3  # M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD of malloc.h
    libc.mallopt(mmap_threshold, 1 << 30)
    libc.mallopt(trim_threshold, 2**31 - 1)
    libc.mallopt(top_pad, 1 << 28)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    # Mark blocks at the end of the heap for huge pages and free them again; no page is mapped before it is used.
    block_bytes, huge_page, madv_hugepage = 1 << 29, 1 << 21, 14
    blocks = [start for _ in range(HEAP_BYTES // block_bytes) if (start := libc.malloc(block_bytes))]
    for start in blocks:
        aligned = -(-start // huge_page) * huge_page
        libc.madvise(aligned, start + block_bytes - aligned, madv_hugepage)
    for start in reversed(blocks):
        libc.free(start)
