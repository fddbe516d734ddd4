"""TFRecord files of `tf.train.Example`, plain or gzip, without TensorFlow: a chunk is a block of records.

A record is framed as length (8 bytes), masked crc32c of the length, data, masked crc32c of the data. The columns are
those of a schema file: {"schema": [{"feature_name", "dtype": int64_list|float_list|bytes_list, "length"}]}, where a
length of -1 varies.
"""

import json
import struct
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recap.data.place import Place
from recap.data.sources.blocks import BLOCK_BYTES, Block, is_gzip, read_bytes
from recap.data.sources.example import (
    BYTES,
    FLOATS,
    INTEGERS,
    Span,
    byte_values,
    decode_varints,
    find_features,
    loose_numbers,
)
from recap.data.sources.files import read_whole, stamp
from recap.data.sources.filesystem import reason
from recap.data.sources.format import Format, leave_out
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

    def read(self, file: str, chunk: int, columns: Sequence[str], without: Sequence[int] = ()) -> pa.Table:
        """One block of records."""
        block = _blocks(file, *stamp(file))[chunk]
        fields = [self.columns.field(name) for name in dict.fromkeys(columns)]
        names = {field.name.encode(): place for place, field in enumerate(fields)}
        records: list[bytes] = []
        spans: list[list[Span | None]] = []
        for row, record in enumerate(_records(file, block, read_bytes(file, block.offset, block.length))):
            found: list[Span | None] = [None] * len(fields)
            try:
                find_features(record, names, found)
            except (ValueError, IndexError) as error:
                raise DataError(f"{file}: row {block.first_row + row}: no tf.train.Example ({error})") from None
            records.append(record)
            spans.append(found)
        arrays = [
            _column(Place(file, block.first_row), field, records, [found[place] for found in spans])
            for place, field in enumerate(fields)
        ]
        return leave_out(pa.Table.from_arrays(arrays, schema=pa.schema(fields)), without)


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


def _records(file: str, block: Block, data: bytes) -> Iterator[bytes]:
    """The data of each record of a block, verified."""
    position = 0
    for row in range(block.first_row, block.first_row + block.rows):
        length = _length(file, row, data[position : position + _HEAD])
        start = position + _HEAD
        record = data[start : start + length]
        (check,) = struct.unpack_from("<I", data, start + length)
        if check != masked_crc(record):
            raise DataError(f"{file}: row {row}: the record is damaged (crc32c)")
        yield record
        position = start + length + _FOOT


def masked_crc(data: bytes) -> int:
    """crc32c as TFRecord masks it: rotated right by 15 bits, plus a constant."""
    value = google_crc32c.value(data)
    return int(((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _column(place: Place, field: pa.Field, records: Sequence[bytes], spans: Sequence[Span | None]) -> pa.Array:
    """The values of one feature of every record of a block, which stands at `place`."""
    kind = field.type
    length = kind.list_size if pa.types.is_fixed_size_list(kind) else -1 if pa.types.is_list(kind) else 1
    scalar = kind if length == 1 else kind.value_type
    asked = BYTES if pa.types.is_binary(scalar) else INTEGERS if pa.types.is_integer(scalar) else FLOATS
    for row, span in enumerate(spans):
        if span is not None and abs(span[0]) != asked:
            raise place.error(field.name, f"holds {_KINDS[abs(span[0])]}, the schema says {scalar}", [row])
    if asked == BYTES:
        texts = [byte_values(record, span) if span else [] for record, span in zip(records, spans, strict=True)]
        counts = np.array(list(map(len, texts)))
        _check_lengths(place, field.name, counts, length)
        texts = [text or [b""] * max(length, 0) for text in texts]
        return pa.array([text[0] for text in texts] if length == 1 else texts, kind)
    parts = [
        b"" if span is None else record[span[1] : span[2]] if span[0] > 0 else loose_numbers(record, span)
        for record, span in zip(records, spans, strict=True)
    ]
    values, counts = _numbers(place, field.name, parts, asked)
    _check_lengths(place, field.name, counts, length)
    if length < 0:
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
        return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values, scalar))
    if (counts == 0).any():  # what is absent is zeros
        rows = np.zeros((len(counts), length), values.dtype)
        rows[counts > 0] = values.reshape(-1, length)
        values = rows.reshape(-1)
    flat = pa.array(values, scalar)
    return flat if length == 1 else pa.FixedSizeListArray.from_arrays(flat, length)


_KINDS = {BYTES: "bytes", FLOATS: "floats", INTEGERS: "integers"}


def _numbers(
    place: Place, name: str, parts: Sequence[bytes], kind: int
) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    """The numbers of all rows end to end, and how many each row has."""
    sizes = np.array(list(map(len, parts)))
    data = np.frombuffer(b"".join(parts), np.uint8)
    if kind == FLOATS:
        if (sizes % 4).any():
            raise place.error(name, "a float is cut short", np.flatnonzero(sizes % 4).tolist())
        return data.view("<f4"), sizes // 4
    try:
        values = decode_varints(data)
    except ValueError as error:
        raise place.error(name, str(error)) from None
    ends = np.concatenate([[0], np.cumsum(sizes)])
    below = np.concatenate([[0], np.cumsum(data < 128)])  # each integer ends in a byte below 128
    return values, below[ends[1:]] - below[ends[:-1]]


def _check_lengths(place: Place, name: str, counts: npt.NDArray[np.int64], length: int) -> None:
    wrong = (counts != length) & (counts != 0)
    if length >= 0 and wrong.any():
        row = int(np.argmax(wrong))
        raise place.error(name, f"holds {counts[row]} values, the schema says {length}", [row])
