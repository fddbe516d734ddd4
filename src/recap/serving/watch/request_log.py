"""`RequestLog`: Parquet files of what was served, a row per candidate, with the columns that training reads."""

import fcntl
import os
import re
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from time import monotonic
from typing import IO, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from recap.config.serving.server import RequestLogConfig
from recap.errors import InputError
from recap.serving.contract import RankRequest, RankResponse
from recap.serving.watch.log_types import uniform
from recap.text import shorten

PREFIX = "served."
"""Of the columns that the log adds."""
_UNFINISHED = ".unfinished"
_FILE = re.compile(r".+-\d{8}T\d{12}Z-\d+\.parquet")
_GROUP_BYTES = 8 << 20
"""Memory of the rows of an open file that are not written yet."""
_MAX_OPEN = 8
"""Open files: one for each model and set of column types."""
Count = Callable[[Literal["written", "failed"], int], None]
PROPENSITY = 1.0
"""The probability of the order that was served. The server sorts by score, so it is certain; a policy that explores
would give its own here, per candidate."""


def is_logged(key: str, share: float) -> bool:
    """Whether a request belongs to the share that is logged: by a hash of its key."""
    return int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "big") < share * 2**64


def positions(scores: npt.NDArray[np.float64]) -> pa.Array:
    """[M] int32: 1 for the highest score, equal ones in the order of the request; null where a score is not finite."""
    ranks = np.empty(len(scores), np.int32)
    ranks[np.argsort(np.where(np.isfinite(scores), -scores, np.inf), kind="stable")] = np.arange(1, len(scores) + 1)
    return pa.array(ranks, mask=~np.isfinite(scores))


def rows_of(
    request: RankRequest,
    response: RankResponse,
    time: datetime,
    *,
    returned: bool,
    leave_out: Collection[str] = (),
    types: Mapping[str, pa.DataType] | None = None,
) -> pa.Table:
    """The rows of the M scored candidates: the columns of the request, then those of the response.

    `types`: from `log_types`; None: columns are logged as they came.
    """
    count = len(response.scores)
    zeros = pa.array(np.zeros(count, np.int64))
    columns = {name: request.user[name].take(zeros) for name in request.user.column_names}
    candidates = request.candidates.slice(0, count)
    columns |= {name: candidates[name] for name in candidates.column_names}
    columns = columns if types is None else uniform(columns, types, count)
    columns = {
        name: values for name, values in columns.items() if name not in leave_out and not name.startswith(PREFIX)
    }
    one = {
        "request": (request.key, pa.string()),
        "id": (request.id, pa.string()),
        "time": (time, pa.timestamp("ms", "UTC")),
        "model": (response.model, pa.string()),
        "version": (response.version, pa.string()),
        "returned": (returned, pa.bool_()),
        "candidates": (response.candidates, pa.int32()),
    }
    columns |= {PREFIX + name: pa.repeat(pa.scalar(*value), count) for name, value in one.items()}
    columns[PREFIX + "position"] = positions(response.scores)
    columns[PREFIX + "propensity"] = pa.array(np.full(count, PROPENSITY))
    columns[PREFIX + "score"] = pa.array(response.scores)
    for task, probabilities in zip(response.tasks, response.probabilities.T, strict=True):
        columns[f"{PREFIX}probability.{task}"] = pa.array(np.ascontiguousarray(probabilities))
    return pa.table(columns)


@dataclass
class _File:
    """A file that is being written."""

    path: Path
    stream: IO[bytes]
    writer: pq.ParquetWriter
    opened: float
    rows: int = 0
    waiting: list[pa.Table] = field(default_factory=list)
    waiting_bytes: int = 0


class RequestLog:
    """The files of a folder. All methods but the constructor belong to one thread.

    A file has its name once it is complete; the oldest are deleted when the folder is full.
    """

    def __init__(self, config: RequestLogConfig, count: Count = lambda result, rows: None) -> None:
        """`count` is called with the rows of each file that is complete (`written`) or lost (`failed`).

        Raises InputError for a folder that cannot be written, or that another server writes.
        """
        self._config, self._folder, self._count_rows = config, Path(config.folder), count
        self._files: dict[tuple[str, pa.Schema], _File] = {}
        self._count = 0
        self._lock = self._locked()
        for leftover in self._folder.glob(f"*.parquet{_UNFINISHED}"):
            leftover.unlink()

    def _locked(self) -> int:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            lock = os.open(self._folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise InputError(
                f"request_log.folder: cannot write to {shorten(str(self._folder))} ({error.strerror}); choose another"
            ) from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            raise InputError(
                f"request_log.folder: another server writes to {shorten(str(self._folder))}; each needs its own folder"
            ) from None
        return lock

    def write(self, table: pa.Table, model: str) -> None:
        """Add rows. Raises OSError and ArrowException; the rows of the open file are then lost, not those before."""
        key = (model, table.schema)
        try:
            file = self._files.get(key) or self._open(key)
        except BaseException:
            self._count_rows("failed", table.num_rows)
            raise
        file.rows += table.num_rows
        file.waiting.append(table)
        file.waiting_bytes += table.nbytes
        try:
            if file.waiting_bytes >= _GROUP_BYTES:
                self._flush(file)
            if file.stream.tell() >= self._config.file_mib << 20:
                self._finish(key)
        except BaseException:
            self._drop(key)
            raise

    def tick(self) -> None:
        """Complete the files that are old enough. Raises as `write`."""
        for key, file in list(self._files.items()):
            if monotonic() - file.opened >= self._config.file_minutes * 60:
                self._finish(key)

    def close(self) -> None:
        """Complete all files; raises as `write`, after it has tried each."""
        failure: Exception | None = None
        for key in list(self._files):
            try:
                self._finish(key)
            except (OSError, pa.ArrowException) as error:
                failure = error
        os.close(self._lock)
        if failure is not None:
            raise failure

    def _open(self, key: tuple[str, pa.Schema]) -> _File:
        if len(self._files) >= _MAX_OPEN:
            self._finish(min(self._files, key=lambda other: self._files[other].opened))
        self._count += 1
        model, schema = key
        path = self._folder / f"{model}-{datetime.now(UTC):%Y%m%dT%H%M%S%f}Z-{self._count}.parquet"
        unfinished = path.with_name(path.name + _UNFINISHED)
        stream = unfinished.open("wb")
        try:
            writer = pq.ParquetWriter(stream, schema, compression="zstd")
        except BaseException:
            stream.close()
            unfinished.unlink()
            raise
        self._files[key] = _File(path, stream, writer, monotonic())
        return self._files[key]

    def _flush(self, file: _File) -> None:
        if file.waiting:
            file.writer.write_table(pa.concat_tables(file.waiting).combine_chunks())
            file.waiting, file.waiting_bytes = [], 0

    def _finish(self, key: tuple[str, pa.Schema]) -> None:
        file = self._files[key]
        try:
            self._flush(file)
            file.writer.close()
            file.stream.flush()
            os.fsync(file.stream.fileno())
            file.stream.close()
            file.path.with_name(file.path.name + _UNFINISHED).rename(file.path)
        except BaseException:
            self._drop(key)
            raise
        del self._files[key]
        self._count_rows("written", file.rows)
        self._delete_old()

    def _drop(self, key: tuple[str, pa.Schema]) -> None:
        """Give up a file that cannot be written."""
        file = self._files.pop(key, None)
        if file is not None:
            self._count_rows("failed", file.rows)
            file.writer.is_open = False  # its footer has no place to go
            with suppress(OSError):
                file.stream.close()
            file.path.with_name(file.path.name + _UNFINISHED).unlink(missing_ok=True)

    def _delete_old(self) -> None:
        """Delete the oldest files until the folder is within its size; never the last."""
        files = sorted(
            (path for path in self._folder.iterdir() if _FILE.fullmatch(path.name)),
            key=lambda path: path.name.rsplit("-", 2)[1:],
        )
        sizes = [path.stat().st_size for path in files]
        total = sum(sizes)
        for path, size in list(zip(files, sizes, strict=True))[:-1]:
            if total <= self._config.max_gib * 2**30:
                return
            path.unlink(missing_ok=True)
            total -= size
