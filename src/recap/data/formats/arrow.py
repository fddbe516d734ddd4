"""Arrow IPC files (Feather 2): a chunk is a record batch, mapped into memory where the file is local."""

from collections.abc import Sequence
from functools import lru_cache

import pyarrow as pa

from recap.data.formats.files import open_file, stamp
from recap.data.formats.filesystem import is_remote
from recap.data.formats.format import Format, leave_out
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
        wanted = list(dict.fromkeys(columns))
        places = [self.schema(file).get_field_index(name) for name in wanted] if is_remote(file) else []
        try:
            batch = _reader(file, places).get_batch(chunk)  # one reader cannot serve two threads
            return leave_out(pa.Table.from_batches([batch]).select(wanted), without)
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{file}: record batch {chunk} cannot be read ({error})") from None


def _reader(file: str, places: Sequence[int] = ()) -> pa.ipc.RecordBatchFileReader:
    """A local file is mapped; from a store the columns at those places are fetched, all of them if there are none."""
    if not is_remote(file):
        return pa.ipc.open_file(pa.memory_map(file))
    return pa.ipc.open_file(open_file(file), options=pa.ipc.IpcReadOptions(included_fields=list(places)))


@lru_cache(maxsize=64)
def _open(file: str, modified: int, size: int) -> pa.ipc.RecordBatchFileReader:
    try:
        return _reader(file)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{file}: not readable as an Arrow IPC file ({error})") from None


@lru_cache(maxsize=4096)
def _rows(file: str, modified: int, size: int) -> list[int]:
    opened = _open(file, modified, size)
    try:
        if is_remote(file) and opened.schema:  # of a file that is not mapped, one column is enough to fetch
            opened = _reader(file, [0])
        return [opened.get_batch(index).num_rows for index in range(opened.num_record_batches)]
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{file}: not readable as an Arrow IPC file ({error})") from None
