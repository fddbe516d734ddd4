"""TFRecord files of `tf.train.Example`, plain or gzip, without TensorFlow: a chunk is a block of records.

A schema file lists the columns: {"schema": [{"feature_name", "dtype": int64_list|float_list|bytes_list, "length"}]},
where length -1 is a list of any length.
"""

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa

from recap.data.formats.blocks import Block, BlockIndex, block_bytes
from recap.data.formats.content import Damaged, borrowed_range, pieces
from recap.data.formats.files import read_bytes, stamp
from recap.data.formats.format import Format
from recap.data.formats.index_cache import cached_index
from recap.data.formats.location import Location
from recap.data.formats.object_stores import reason
from recap.data.formats.tfrecord.columns import feature_column
from recap.data.formats.tfrecord.records import damaged_records, index_records, record_spans
from recap.data.formats.tfrecord.spans import Bytes, find_spans
from recap.errors import DataError

_TYPES = {"int64_list": pa.int64(), "float_list": pa.float32(), "bytes_list": pa.binary()}
_PIECE_BYTES = 4 << 20
"""Bytes read at a time to index a file."""


class TfRecordFormat(Format):
    """TFRecord files of one schema. An absent feature is read as zeros, or as an empty list if its length varies."""

    kind = "tfrecord"
    name = "TFRecord"

    def __init__(self, schema_path: str) -> None:
        """Raises DataError if the schema cannot be read."""
        self.columns = read_schema(schema_path)

    def schema(self, file: str) -> pa.Schema:
        stamp(file)
        return self.columns

    def chunk_rows(self, file: str) -> Sequence[int]:
        return [block.rows for block in _index(file, *stamp(file)).blocks]

    def torn_end(self, file: str) -> DataError | None:
        """The error of an incomplete last record, a damaged record length, or a damaged gzip stream."""
        index = _index(file, *stamp(file))
        return DataError(f"{file}: row {index.rows}: {index.torn}") if index.torn is not None else None

    def read(self, file: str, chunk: int, columns: Sequence[str], skip: Sequence[int] = ()) -> pa.Table:
        block = _index(file, *stamp(file)).blocks[chunk]
        with borrowed_range(file, block.offset, block.length) as data:
            return self._table(file, block, data, columns, skip)

    def _table(self, file: str, block: Block, data: Bytes, columns: Sequence[str], skip: Sequence[int]) -> pa.Table:
        try:
            records = record_spans(data, block.rows)
        except Damaged as error:
            raise DataError(f"{file}: rows from {block.first_row} on: {error}") from None
        rows = np.delete(np.arange(block.rows), list(skip))
        records = records[rows]
        damaged = rows[damaged_records(data, records)].tolist()
        if damaged:
            row = block.first_row + damaged[0]
            raise DataError(f"{file}: row {row}: the record is damaged (crc32c)", damaged)
        fields = [self.columns.field(name) for name in dict.fromkeys(columns)]
        names = {field.name.encode(): index for index, field in enumerate(fields)}
        spans, errors = find_spans(data, records[:, 0], records[:, 1], names)
        if errors:
            bad = rows[sorted(errors)].tolist()
            row = block.first_row + bad[0]
            raise DataError(f"{file}: row {row}: not a tf.train.Example ({errors[min(errors)]})", bad)
        location = Location(file, block.first_row, tuple(skip))
        arrays = [feature_column(location, field, data, spans, index) for index, field in enumerate(fields)]
        return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def read_schema(path: str) -> pa.Schema:
    """The columns in a schema file. Raises DataError."""
    expected = '{"schema": [{"feature_name": …, "dtype": int64_list, float_list or bytes_list, "length": …}, …]}'
    try:
        entries = json.loads(read_bytes(path))["schema"]
        return pa.schema([pa.field(entry["feature_name"], _type(entry)) for entry in entries])
    except OSError as error:
        raise DataError(f"{path}: the schema cannot be read ({reason(error)}); see source.schema_path") from None
    except (ValueError, KeyError, TypeError, RecursionError, pa.ArrowException):
        raise DataError(f"{path}: expected JSON {expected}") from None


def _type(entry: dict[str, Any]) -> pa.DataType:
    kind, length = _TYPES[entry["dtype"]], int(entry["length"])
    if length == 1:
        return kind
    return pa.list_(kind, length) if length > 1 else pa.list_(kind)


@lru_cache(maxsize=4096)
def _index(file: str, modified: int, size: int) -> BlockIndex:
    return cached_index(
        file, (modified, size), "records", lambda: index_records(pieces(file, _PIECE_BYTES), block_bytes(file))
    )
