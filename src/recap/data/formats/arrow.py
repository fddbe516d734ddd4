"""Arrow IPC files (Feather 2): a chunk is a record batch.

Files are read, not memory-mapped: a mapped file that another program rewrites in place ends the process by SIGBUS.
Record batches are validated: an offset or index beyond its buffer would end it by SIGSEGV.
"""

from collections.abc import Sequence
from functools import lru_cache

import pyarrow as pa

from recap.data.formats.files import open_file, stamp
from recap.data.formats.format import DAMAGE, Format, check_names, drop_rows
from recap.data.formats.object_stores import reason
from recap.data.formats.recognize import not_readable
from recap.errors import DataError


class ArrowFormat(Format):
    """Arrow IPC files."""

    kind = "arrow"
    name = "Arrow IPC"

    def schema(self, file: str) -> pa.Schema:
        return _schema(file, *stamp(file))

    def chunk_rows(self, file: str) -> Sequence[int]:
        return _rows(file, *stamp(file))

    def read(self, file: str, chunk: int, columns: Sequence[str], skip: Sequence[int] = ()) -> pa.Table:
        names = list(dict.fromkeys(columns))
        schema = self.schema(file)
        try:
            reader = _reader(file, [schema.get_field_index(name) for name in names])  # readers are not thread-safe
            batch = reader.get_batch(chunk)
            batch.validate(full=True)
            return drop_rows(pa.Table.from_batches([batch]).select(names), skip)
        except DAMAGE as error:
            raise DataError(f"{file}: record batch {chunk} cannot be read ({reason(error)})") from None


def _reader(file: str, fields: Sequence[int] = ()) -> pa.ipc.RecordBatchFileReader:
    """A reader of the columns of these indices only; default: all."""
    options = pa.ipc.IpcReadOptions(included_fields=list(fields), use_threads=False)
    return pa.ipc.open_file(open_file(file), options=options)


@lru_cache(maxsize=4096)
def _schema(file: str, modified: int, size: int) -> pa.Schema:
    try:
        return check_names(_reader(file).schema)
    except DAMAGE as error:
        raise not_readable(file, ArrowFormat.name, error) from None


@lru_cache(maxsize=4096)
def _rows(file: str, modified: int, size: int) -> list[int]:
    """The number of rows of each record batch; reads the narrowest column, as the header of a batch has no API."""
    schema = _schema(file, modified, size)
    try:
        reader = _reader(file, [_narrowest(schema)] if len(schema) else [])
        return [reader.get_batch(index).num_rows for index in range(reader.num_record_batches)]
    except DAMAGE as error:
        raise DataError(f"{file}: its record batches cannot be read ({reason(error)})") from None


def _narrowest(schema: pa.Schema) -> int:
    """The index of the column with the fewest bytes per row, as far as its type says."""

    def bits(index: int) -> int:
        try:
            return int(schema.field(index).type.bit_width)
        except ValueError:  # of any width
            return 1 << 20

    return min(range(len(schema)), key=bits)
