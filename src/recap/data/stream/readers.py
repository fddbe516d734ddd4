"""What reads chunks ahead: this process, or others; and what keeps the rows that were read.

Batches of other processes come through shared memory, nothing of them is copied through a pipe.
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
from recap.data.stream.source import LoadedChunks, Loader, join
from recap.errors import RunError


class ChunkLoader(Protocol):
    """Reads chunks here, or has a server read them."""

    def load(self, chunks: Sequence[Chunk]) -> LoadedChunks:
        """The rows of some chunks, end to end. Raises DataError for bad data, RunError where nobody is left to read."""


class Readers:
    """Loads chunks for any number of threads that ask at once."""

    def __init__(
        self, loader: ChunkLoader, count: int, *, pool: ProcessPoolExecutor | None = None, cache: bool
    ) -> None:
        """`count`: windows read ahead. `pool`: processes that read instead. `cache`: read every chunk only once."""
        self.count, self._loader, self._pool = count, loader, pool
        self._cache: dict[Chunk, LoadedChunks] | None = {} if cache else None

    @property
    def caches(self) -> bool:
        """Whether what was read stays in memory."""
        return self._cache is not None

    def load(self, chunks: Sequence[Chunk]) -> LoadedChunks:
        """The rows of some chunks, end to end. Raises DataError for bad data, RunError where those that read died."""
        if self._cache is None:
            return self._read(chunks)
        for chunk in chunks:
            if chunk not in self._cache:  # two threads may read the same; what they read is the same
                found = self._read([chunk])
                self._cache[chunk] = found._replace(parts=[part.clone() for part in found.parts])
        return join([self._cache[chunk] for chunk in chunks])

    def _read(self, chunks: Sequence[Chunk]) -> LoadedChunks:
        if self._pool is None:
            return self._loader.load(chunks)
        try:
            return _submit(self._pool, chunks).result()
        except BrokenProcessPool:
            raise RunError(
                "a process that reads data ended all of a sudden: out of memory, or of shared memory (/dev/shm)? "
                "Take fewer of them or a smaller shuffle window, or 'readers: {kind: threads}'"
            ) from None


def start_processes(count: int, loader: Loader) -> ProcessPoolExecutor:
    """`count` processes, each with a copy of `loader`; they start when they are first asked."""
    context = torch.multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(count, mp_context=context, initializer=_begin, initargs=(loader,))


def _submit(pool: ProcessPoolExecutor, chunks: Sequence[Chunk]) -> Future[LoadedChunks]:
    """Ask for some chunks; processes that begin for it inherit that Ctrl-C and SIGTERM are the parent's to answer."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        return pool.submit(_load, chunks)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_LOADER: list[Loader] = []
"""What a process that reads was begun with."""


def _begin(loader: Loader) -> None:
    _LOADER[:] = [loader]
    torch.set_num_threads(1)
    pa.set_cpu_count(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    threading.Thread(target=_end_when_parent_says, daemon=True).start()


def _end_with_parent() -> None:
    """A parent that is killed cannot end its children; they see it go."""
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def _end_when_parent_says() -> None:
    """torchrun sends SIGTERM to all processes of a rank, which still reads to finish its step; the pool's is meant."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(128 + signal.SIGTERM)


def _load(chunks: Sequence[Chunk]) -> LoadedChunks:
    found = _LOADER[0].load(chunks)
    return found._replace(parts=[assemble([(part, slice(None)) for part in found.parts])])  # few tensors are to be sent
