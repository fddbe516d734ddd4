"""Arrow IPC files (Feather 2): a chunk is a record batch, mapped into memory."""

from collections.abc import Sequence
from functools import lru_cache

import pyarrow as pa

from recap.data.sources.files import stamp
from recap.data.sources.format import Format, leave_out
from recap.errors import DataError


class ArrowFormat(Format):
    """Arrow IPC files."""

    name = "Arrow IPC"

    def schema(self, file: str) -> pa.Schema:
        """From the footer."""
        return _open(file, *stamp(file)).schema

    def chunk_rows(self, file: str) -> Sequence[int]:
        """From the headers of the batches."""
        return _rows(file, *stamp(file))

    def read(self, file: str, chunk: int, columns: Sequence[str], without: Sequence[int] = ()) -> pa.Table:
        """One record batch."""
        try:
            batch = pa.ipc.open_file(pa.memory_map(file)).get_batch(chunk)  # one reader cannot serve two threads
            return leave_out(pa.Table.from_batches([batch]).select(list(dict.fromkeys(columns))), without)
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{file}: record batch {chunk} cannot be read ({error})") from None


@lru_cache(maxsize=64)
def _open(file: str, modified: int, size: int) -> pa.ipc.RecordBatchFileReader:
    try:
        return pa.ipc.open_file(pa.memory_map(file))
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{file}: not readable as an Arrow IPC file ({error})") from None


@lru_cache(maxsize=4096)
def _rows(file: str, modified: int, size: int) -> list[int]:
    opened = _open(file, modified, size)
    try:
        return [opened.get_batch(index).num_rows for index in range(opened.num_record_batches)]
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{file}: not readable as an Arrow IPC file ({error})") from None
