"""Reads chunks for a stream: in this process, in other processes, or on servers. Optionally caches them.

Other processes return their batches in shared memory, not through a pipe.
"""

import os
import signal
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection, parent_process
from typing import Protocol

import pyarrow as pa
import torch
import torch.multiprocessing

from recap.data.batch import assemble
from recap.data.formats.format import Chunk
from recap.data.stream.source import ChunkRows, Loader, join
from recap.errors import RunError


class ChunkLoader(Protocol):
    """Reads chunks in this process, or asks a server to."""

    def load(self, chunks: Sequence[Chunk]) -> ChunkRows:
        """The rows of some chunks, concatenated. Raises DataError for bad data, RunError if no reader is left."""


class Readers:
    """Loads chunks. Thread-safe."""

    def __init__(
        self, loader: ChunkLoader, count: int, *, pool: ProcessPoolExecutor | None = None, cache: bool
    ) -> None:
        """`count`: windows to read ahead. `pool`: processes that replace `loader`. `cache`: read chunks once."""
        self.count, self._loader, self._pool = count, loader, pool
        self._cache: dict[Chunk, ChunkRows] | None = {} if cache else None

    @property
    def caches(self) -> bool:
        """Whether chunks stay in memory after they are read."""
        return self._cache is not None

    def load(self, chunks: Sequence[Chunk]) -> ChunkRows:
        """The rows of some chunks, concatenated. Raises DataError for bad data, RunError if a reading process died."""
        if self._cache is None:
            return self._read(chunks)
        for chunk in chunks:
            if chunk not in self._cache:  # two threads may read the same chunk, with the same result
                rows = self._read([chunk])
                self._cache[chunk] = rows._replace(batches=[batch.clone() for batch in rows.batches])
        return join([self._cache[chunk] for chunk in chunks])

    def _read(self, chunks: Sequence[Chunk]) -> ChunkRows:
        if self._pool is None:
            return self._loader.load(chunks)
        try:
            return _submit(self._pool, chunks).result()
        except BrokenProcessPool:
            raise RunError(
                "a reader process died, perhaps out of memory or shared memory (/dev/shm). "
                "Use fewer processes, a smaller shuffle window, or 'readers: {kind: threads}'"
            ) from None


def start_processes(count: int, loader: Loader) -> ProcessPoolExecutor:
    """A pool of `count` processes, each with a copy of `loader`; they start at the first request."""
    context = torch.multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(count, mp_context=context, initializer=_start_process, initargs=(loader,))


def _submit(pool: ProcessPoolExecutor, chunks: Sequence[Chunk]) -> Future[ChunkRows]:
    """Request some chunks. Processes that start now inherit blocked SIGINT and SIGTERM; the parent handles them."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        return pool.submit(_load_in_process, chunks)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


_LOADER: list[Loader] = []
"""The loader of a reader process, set by `_start_process`; empty in every other process. It is module state because the
tasks of a pool can share an object in no other way."""


def _start_process(loader: Loader) -> None:
    _LOADER[:] = [loader]
    torch.set_num_threads(1)
    pa.set_cpu_count(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    threading.Thread(target=_end_on_signal_of_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Exit when the parent is gone: a killed parent cannot stop its children."""
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def _end_on_signal_of_parent() -> None:
    """Exit on SIGTERM from the parent only: torchrun signals readers too, but the rank still needs them in its step."""
    while True:
        if signal.sigwaitinfo({signal.SIGTERM}).si_pid == os.getppid():
            os._exit(128 + signal.SIGTERM)


def _load_in_process(chunks: Sequence[Chunk]) -> ChunkRows:
    rows = _LOADER[0].load(chunks)
    # Join the batches, so that fewer tensors are sent.
    return rows._replace(batches=[assemble([(batch, slice(None)) for batch in rows.batches])])
