"""Reads chunks for the stream: in this process, in other processes, or on servers; optionally caches them.

Batches of other processes arrive in shared memory; their rows are not copied through a pipe.
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
from recap.data.formats.open import Chunk
from recap.data.stream.source import ChunkRows, Loader, join
from recap.errors import RunError


class ChunkLoader(Protocol):
    """Reads chunks in this process, or asks a server to."""

    def load(self, chunks: Sequence[Chunk]) -> ChunkRows:
        """The rows of some chunks, concatenated. Raises DataError for bad data, RunError if no reader is left."""


class Readers:
    """Loads chunks; may be called from several threads at once."""

    def __init__(
        self, loader: ChunkLoader, count: int, *, pool: ProcessPoolExecutor | None = None, cache: bool
    ) -> None:
        """`count`: windows read ahead. `pool`: processes that read instead. `cache`: keep chunks after reading them."""
        self.count, self._loader, self._pool = count, loader, pool
        self._cache: dict[Chunk, ChunkRows] | None = {} if cache else None

    @property
    def caches(self) -> bool:
        """Whether the rows stay in memory after they are read."""
        return self._cache is not None

    def load(self, chunks: Sequence[Chunk]) -> ChunkRows:
        """The rows of some chunks, concatenated. Raises DataError for bad data, RunError if a reading process died."""
        if self._cache is None:
            return self._read(chunks)
        for chunk in chunks:
            if chunk not in self._cache:  # two threads may both read it, with the same result
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
                "a process that reads data died, perhaps out of memory or of shared memory (/dev/shm). "
                "Use fewer processes, a smaller shuffle window, or 'readers: {kind: threads}'"
            ) from None


def start_processes(count: int, loader: Loader) -> ProcessPoolExecutor:
    """`count` processes, each with a copy of `loader`; they start with the first request."""
    context = torch.multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(count, mp_context=context, initializer=_begin, initargs=(loader,))


def _submit(pool: ProcessPoolExecutor, chunks: Sequence[Chunk]) -> Future[ChunkRows]:
    """Request some chunks. Processes that start for it inherit blocked SIGINT and SIGTERM; the parent handles them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        return pool.submit(_load, chunks)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_LOADER: list[Loader] = []
"""The loader of this process, if it is one that reads: set once, by the pool's initializer `_begin`. Module state,
because a pool offers its tasks no other way to share an object; the list is empty in every other process."""


def _begin(loader: Loader) -> None:
    _LOADER[:] = [loader]
    torch.set_num_threads(1)
    pa.set_cpu_count(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    threading.Thread(target=_end_on_signal_of_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End when the parent is gone: a killed parent cannot end its children."""
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def _end_on_signal_of_parent() -> None:
    """End on SIGTERM of the parent only: torchrun signals readers too, but the rank needs them to finish its step."""
    while True:
        if signal.sigwaitinfo({signal.SIGTERM}).si_pid == os.getppid():
            os._exit(128 + signal.SIGTERM)


def _load(chunks: Sequence[Chunk]) -> ChunkRows:
    rows = _LOADER[0].load(chunks)
    # One batch, so that fewer tensors have to be sent.
    return rows._replace(batches=[assemble([(batch, slice(None)) for batch in rows.batches])])
