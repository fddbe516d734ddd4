"""Arrow IPC files (Feather 2): a chunk is a record batch; local files are memory-mapped."""

from collections.abc import Sequence
from functools import lru_cache

import pyarrow as pa

from recap.data.formats.files import open_file, stamp
from recap.data.formats.format import Format, drop_rows
from recap.data.formats.object_stores import is_remote
from recap.errors import DataError


class ArrowFormat(Format):
    """Arrow IPC files."""

    name = "Arrow IPC"

    def schema(self, file: str) -> pa.Schema:
        return _open(file, *stamp(file)).schema

    def chunk_rows(self, file: str) -> Sequence[int]:
        return _rows(file, *stamp(file))

    def read(self, file: str, chunk: int, columns: Sequence[str], skip: Sequence[int] = ()) -> pa.Table:
        names = list(dict.fromkeys(columns))
        fields = [self.schema(file).get_field_index(name) for name in names] if is_remote(file) else []
        try:
            batch = _reader(file, fields).get_batch(chunk)  # a new reader: readers are not thread-safe
            return drop_rows(pa.Table.from_batches([batch]).select(names), skip)
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{file}: record batch {chunk} cannot be read ({error})") from None


def _reader(file: str, fields: Sequence[int] = ()) -> pa.ipc.RecordBatchFileReader:
    """Memory-map a local file. Of a remote file, fetch only the columns of these indices; default: all."""
    if not is_remote(file):
        return pa.ipc.open_file(pa.memory_map(file))
    return pa.ipc.open_file(open_file(file), options=pa.ipc.IpcReadOptions(included_fields=list(fields)))


@lru_cache(maxsize=64)
def _open(file: str, modified: int, size: int) -> pa.ipc.RecordBatchFileReader:
    try:
        return _reader(file)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{file}: not readable as an Arrow IPC file ({error})") from None


@lru_cache(maxsize=4096)
def _rows(file: str, modified: int, size: int) -> list[int]:
    """The number of rows of each record batch, from its header."""
    reader = _open(file, modified, size)
    try:
        if is_remote(file) and reader.schema:  # fetch one column only
            reader = _reader(file, [0])
        return [reader.get_batch(index).num_rows for index in range(reader.num_record_batches)]
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{file}: not readable as an Arrow IPC file ({error})") from None
