"""TFRecord files of `tf.train.Example`, plain or gzip, without TensorFlow: a chunk is a block of records.

A record is framed as length (8 bytes), masked crc32c of the length, data, masked crc32c of the data. The columns are
those of a schema file: {"schema": [{"feature_name", "dtype": int64_list|float_list|bytes_list, "length"}]}, where a
length of -1 varies.
"""

import json
import struct
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recap.data.sources.blocks import BLOCK_BYTES, Block, is_gzip, read_bytes
from recap.data.sources.example import Values, parse_example
from recap.data.sources.files import stamp
from recap.data.sources.format import Format
from recap.errors import DataError

_TYPES = {"int64_list": pa.int64(), "float_list": pa.float32(), "bytes_list": pa.binary()}
_HEAD, _FOOT = 12, 4
"""Bytes before and after the data of a record."""


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
        return [block.rows for block in _blocks(file, *stamp(file))]

    def read(self, file: str, chunk: int, columns: Sequence[str]) -> pa.Table:
        """One block of records."""
        block = _blocks(file, *stamp(file))[chunk]
        data = read_bytes(file, block.offset, block.length)
        fields = [self.columns.field(name) for name in dict.fromkeys(columns)]
        names = {field.name.encode(): field.name for field in fields}
        rows = [self._parse(file, block.first_row + row, record, names) for row, record in _records(file, block, data)]
        arrays = [_column(file, block, field, [row.get(field.name.encode()) for row in rows]) for field in fields]
        return pa.Table.from_arrays(arrays, schema=pa.schema(fields))

    def _parse(self, file: str, row: int, record: bytes, names: dict[bytes, str]) -> dict[bytes, Values]:
        try:
            return parse_example(record, names)
        except ValueError as error:
            raise DataError(f"{file}: row {row}: no tf.train.Example ({error})") from None


def read_schema(path: str) -> pa.Schema:
    """The columns that a schema file lists. Raises DataError."""
    accepted = '{"schema": [{"feature_name": …, "dtype": int64_list, float_list or bytes_list, "length": …}, …]}'
    try:
        entries = json.loads(Path(path).read_text(encoding="utf-8"))["schema"]
        return pa.schema([pa.field(entry["feature_name"], _type(entry)) for entry in entries])
    except OSError as error:
        raise DataError(f"{path}: the schema cannot be read ({error.strerror}); see source.schema_path") from None
    except (ValueError, KeyError, TypeError, RecursionError, pa.ArrowException):
        raise DataError(f"{path}: expected JSON {accepted}") from None


def _type(entry: dict[str, Any]) -> pa.DataType:
    kind, length = _TYPES[entry["dtype"]], int(entry["length"])
    if length == 1:
        return kind
    return pa.list_(kind, length) if length > 1 else pa.list_(kind)


@lru_cache(maxsize=4096)
def _blocks(file: str, modified: int, size: int) -> tuple[Block, ...]:
    """A gzip file is one block; a plain one is cut by the lengths of its records, whose data is not read."""
    if is_gzip(file):
        data = read_bytes(file)
        ends = list(_ends(file, data))
        return (Block(0, len(data), len(ends), 0),) if ends else ()
    blocks: list[Block] = []
    offset = rows = first_row = 0
    with open(file, "rb") as stream:
        position = 0
        while position < size:
            head = stream.read(_HEAD)
            position += _length(file, first_row + rows, head) + _HEAD + _FOOT
            rows += 1
            if position > size:
                raise DataError(f"{file}: row {first_row + rows - 1}: the file ends in the middle of the record")
            stream.seek(position)
            if position - offset >= BLOCK_BYTES or position == size:
                blocks.append(Block(offset, position - offset, rows, first_row))
                offset, first_row, rows = position, first_row + rows, 0
    return tuple(blocks)


def _ends(file: str, data: bytes) -> Iterator[int]:
    position = row = 0
    while position < len(data):
        position += _length(file, row, data[position : position + _HEAD]) + _HEAD + _FOOT
        if position > len(data):
            raise DataError(f"{file}: row {row}: the file ends in the middle of the record")
        yield position
        row += 1


def _length(file: str, row: int, head: bytes) -> int:
    """The length of a record's data, by its head."""
    if len(head) < _HEAD:
        raise DataError(f"{file}: row {row}: the file ends in the middle of the record")
    length, check = struct.unpack("<QI", head)
    if check != masked_crc(head[:8]):
        raise DataError(f"{file}: row {row}: the length of the record is damaged (crc32c); is this a TFRecord file?")
    return int(length)


def _records(file: str, block: Block, data: bytes) -> Iterator[tuple[int, bytes]]:
    """The data of each record of a block, verified."""
    position = 0
    for row in range(block.rows):
        length = _length(file, block.first_row + row, data[position : position + _HEAD])
        start = position + _HEAD
        record = data[start : start + length]
        (check,) = struct.unpack_from("<I", data, start + length)
        if check != masked_crc(record):
            raise DataError(f"{file}: row {block.first_row + row}: the record is damaged (crc32c)")
        yield row, record
        position = start + length + _FOOT


def masked_crc(data: bytes) -> int:
    """crc32c as TFRecord masks it: rotated right by 15 bits, plus a constant."""
    value = google_crc32c.value(data)
    return int(((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _column(file: str, block: Block, field: pa.Field, values: Sequence[Values | None]) -> pa.Array:
    """The values of one feature of every record of a block."""
    kind = field.type
    length = kind.list_size if pa.types.is_fixed_size_list(kind) else -1 if pa.types.is_list(kind) else 1
    scalar = kind if length == 1 else kind.value_type
    for row, found in enumerate(values):
        if found is not None and len(found) and not _is(scalar, found):
            what = f"holds {_found(found)}, the schema says {scalar}"
            raise DataError(f"{file}: column {field.name!r}, row {block.first_row + row}: {what}")
        if length >= 0 and found is not None and len(found) not in (0, length):
            what = f"holds {len(found)} values, the schema says {length}"
            raise DataError(f"{file}: column {field.name!r}, row {block.first_row + row}: {what}")
    if pa.types.is_binary(scalar):
        texts = [list(found) if found is not None and len(found) else [b""] * max(length, 0) for found in values]
        return pa.array([text[0] for text in texts] if length == 1 else texts, kind)
    dtype: Any = np.int64 if pa.types.is_integer(scalar) else np.float32
    if length < 0:
        parts = [np.asarray(found, dtype) if found is not None else np.empty(0, dtype) for found in values]
        offsets = np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int32)
        flat = np.concatenate(parts) if parts else np.empty(0, dtype)
        return pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat, scalar))
    rows: npt.NDArray[Any] = np.zeros((len(values), length), dtype)
    for row, found in enumerate(values):
        if found is not None and len(found):
            rows[row] = found
    flat_array = pa.array(rows.reshape(-1), scalar)
    return flat_array if length == 1 else pa.FixedSizeListArray.from_arrays(flat_array, length)


def _is(scalar: pa.DataType, found: Values) -> bool:
    if isinstance(found, list):
        return bool(pa.types.is_binary(scalar))
    return bool(pa.types.is_integer(scalar) if found.dtype == np.int64 else pa.types.is_floating(scalar))


def _found(found: Values) -> str:
    return "bytes" if isinstance(found, list) else "integers" if found.dtype == np.int64 else "floats"
