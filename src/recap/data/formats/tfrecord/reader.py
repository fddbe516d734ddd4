"""TFRecord files of `tf.train.Example`, plain or gzip, without TensorFlow: a chunk is a block of records.

The columns are those of a schema file: {"schema": [{"feature_name", "dtype": int64_list|float_list|bytes_list,
"length"}]}, where a length of -1 varies.
"""

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa

from recap.data.formats.blocks import Block, Cut, block_bytes
from recap.data.formats.files import read_whole, stamp
from recap.data.formats.filesystem import reason
from recap.data.formats.format import Format
from recap.data.formats.index_cache import remembered
from recap.data.formats.inflate import Damaged, borrowed_range, pieces
from recap.data.formats.location import Location
from recap.data.formats.tfrecord.columns import feature_column
from recap.data.formats.tfrecord.records import cut_records, damaged_records, record_spans
from recap.data.formats.tfrecord.spans import Bytes, find_spans
from recap.errors import DataError

_TYPES = {"int64_list": pa.int64(), "float_list": pa.float32(), "bytes_list": pa.binary()}
_PIECE = 4 << 20
"""Bytes that are read at once when a file is cut into blocks."""


class TfRecordFormat(Format):
    """TFRecord files, all of one schema. A feature that is absent from a record is zeros, or empty where it varies."""

    name = "TFRecord"

    def __init__(self, schema_path: str) -> None:
        """Raises DataError where the schema cannot be read."""
        self.columns = read_schema(schema_path)

    def schema(self, file: str) -> pa.Schema:
        """That of the schema file."""
        stamp(file)
        return self.columns

    def chunk_rows(self, file: str) -> Sequence[int]:
        """Records of each block; found by one pass over the file."""
        return [block.rows for block in _cut(file, *stamp(file)).blocks]

    def torn_end(self, file: str) -> DataError | None:
        """A record that is cut, a head that does not tell where the next record is, or a gzip stream damaged there."""
        cut = _cut(file, *stamp(file))
        return DataError(f"{file}: row {cut.rows}: {cut.torn}") if cut.torn is not None else None

    def read(self, file: str, chunk: int, columns: Sequence[str], without: Sequence[int] = ()) -> pa.Table:
        """One block of records."""
        block = _cut(file, *stamp(file)).blocks[chunk]
        with borrowed_range(file, block.offset, block.length) as data:
            return self._table(file, block, data, columns, without)

    def _table(self, file: str, block: Block, data: Bytes, columns: Sequence[str], without: Sequence[int]) -> pa.Table:
        try:
            records = record_spans(data, block.rows)
        except Damaged as error:
            raise DataError(f"{file}: rows from {block.first_row} on: {error}") from None
        kept = np.delete(np.arange(block.rows), list(without))
        records = records[kept]

        def refuse(wrong: Sequence[int], text: str) -> None:
            if wrong:
                rows = kept[list(wrong)].tolist()
                raise DataError(f"{file}: row {block.first_row + rows[0]}: {text}", rows)

        refuse(damaged_records(data, records), "the record is damaged (crc32c)")
        fields = [self.columns.field(name) for name in dict.fromkeys(columns)]
        names = {field.name.encode(): place for place, field in enumerate(fields)}
        spans, wrong = find_spans(data, records[:, 0], records[:, 1], names)
        refuse(sorted(wrong), f"no tf.train.Example ({wrong[min(wrong)]})" if wrong else "")
        place = Location(file, block.first_row, tuple(without))
        arrays = [feature_column(place, field, data, spans, number) for number, field in enumerate(fields)]
        return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def read_schema(path: str) -> pa.Schema:
    """The columns that a schema file lists. Raises DataError."""
    accepted = '{"schema": [{"feature_name": …, "dtype": int64_list, float_list or bytes_list, "length": …}, …]}'
    try:
        entries = json.loads(read_whole(path))["schema"]
        return pa.schema([pa.field(entry["feature_name"], _type(entry)) for entry in entries])
    except OSError as error:
        raise DataError(f"{path}: the schema cannot be read ({reason(error)}); see source.schema_path") from None
    except (ValueError, KeyError, TypeError, RecursionError, pa.ArrowException):
        raise DataError(f"{path}: expected JSON {accepted}") from None


def _type(entry: dict[str, Any]) -> pa.DataType:
    kind, length = _TYPES[entry["dtype"]], int(entry["length"])
    if length == 1:
        return kind
    return pa.list_(kind, length) if length > 1 else pa.list_(kind)


@lru_cache(maxsize=4096)
def _cut(file: str, modified: int, size: int) -> Cut:
    """The blocks of a file, cut by the lengths of its records."""
    return remembered(file, (modified, size), "records", lambda: cut_records(pieces(file, _PIECE), block_bytes(file)))
