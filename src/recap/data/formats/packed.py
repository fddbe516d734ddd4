"""Packed columns: lists of one length stored as binary, the values of a row end to end.

Parquet stores levels with every value of a list, and decoding them takes longer than everything else. The bytes of a
packed row are the values themselves, so reading them back only reinterprets the memory as lists.

In columns with many zeros, zstd decompresses each short run of zeros by itself, which again takes longer than all
else. Sparse packing stores a bit per value, set if it is not zero, and only the values that are not zero.
"""

import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from recap.errors import DataError
from recap.native.buffers import new_array

KEY = b"recap.packed"
"""Key in the metadata of a packed column; its value is the list type, such as float[6000]. Values are little-endian."""
SPARSE = " without zeros"
"""Suffix of the list type if only nonzero values are stored, with a bitmap of them, lowest bit first."""
_BITMAP = "there"
"""Name in files of the bitmap of a sparse row."""
MANY_ZEROS = 0.25
"""The share of zeros above which floats are stored sparse."""

_BLOCK_ROWS = 64
"""Rows unpacked together; their values fit the processor's cache."""

_INTEGERS = [pa.int8(), pa.int16(), pa.int32(), pa.int64()]
_TYPES = {str(kind): kind for kind in [*_INTEGERS, pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()]}
_TYPES |= {str(kind): kind for kind in (pa.float16(), pa.float32(), pa.float64())}


def can_pack(kind: pa.DataType) -> bool:
    """Whether a type is lists of numbers of one length."""
    return bool(pa.types.is_fixed_size_list(kind) and kind.list_size and str(kind.value_type) in _TYPES)


@dataclass
class Survey:
    """Statistics of a list column, which decide how to pack it."""

    kind: pa.FixedSizeListType
    low: int = 0
    high: int = 0
    zeros: int = 0
    values: int = 0

    def add(self, lists: pa.FixedSizeListArray) -> None:
        """Add rows."""
        flat = lists.flatten().drop_null()
        self.values += len(flat)
        if pa.types.is_floating(flat.type):
            self.zeros += len(flat) - int(np.count_nonzero(_bits_of(flat.to_numpy(zero_copy_only=False))))
        elif len(flat):
            low, high = (bound.as_py() for bound in pc.min_max(flat).values())
            self.low, self.high = min(self.low, low), max(self.high, high)

    @property
    def best(self) -> pa.FixedSizeListType:
        """The list type, with the narrowest integers that hold the values."""
        if not pa.types.is_integer(self.kind.value_type):
            return self.kind
        return pa.list_(narrowest(self.low, self.high), self.kind.list_size)

    @property
    def sparse(self) -> bool:
        """Whether to store only nonzero values."""
        return self.zeros > MANY_ZEROS * self.values


def narrowest(low: int, high: int) -> pa.DataType:
    """The smallest signed integer type that holds `low` to `high`, or uint64."""
    fitting = (kind for kind in _INTEGERS if -(2 ** (kind.bit_width - 1)) <= low <= high < 2 ** (kind.bit_width - 1))
    return next(fitting, pa.uint64())


def pack_field(field: pa.Field, *, sparse: bool = False) -> pa.Field:
    """The packed form of a list column; `sparse`: without its zeros."""
    list_type = f"{field.type.value_type}[{field.type.list_size}]{SPARSE if sparse else ''}"
    metadata = (field.metadata or {}) | {KEY: list_type.encode()}
    return pa.field(field.name, _packed_type(field.type, sparse=sparse), field.nullable, metadata)


def pack(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Pack the columns of `table` that `schema` declares packed. Raises DataError for a null inside a list."""
    columns = [
        pa.chunked_array([_pack(chunk, field) for chunk in column.chunks], field.type) if is_packed(field) else column
        for column, field in zip(table.columns, schema, strict=True)
    ]
    return pa.table(columns, schema=schema)


def unpack_schema(schema: pa.Schema, file: str) -> pa.Schema:
    """`schema` with packed columns as lists. Raises DataError for invalid metadata."""
    fields = []
    for field in schema:
        if is_packed(field):
            try:
                kind = _list_type(field)
            except ValueError as error:
                raise DataError(f"{file}, column {field.name!r}: {error}; write the file again") from None
            rest = {key: value for key, value in field.metadata.items() if key != KEY}
            field = pa.field(field.name, kind, field.nullable, rest or None)
        fields.append(field)
    return pa.schema(fields, schema.metadata)


def unpack(table: pa.Table, file: str) -> pa.Table:
    """`table` with packed columns as lists: without a copy, unless they are sparse."""
    schema = unpack_schema(table.schema, file)
    columns = []
    for column, packed, field in zip(table.columns, table.schema, schema, strict=True):
        if is_packed(packed):
            try:
                column = pa.chunked_array([_unpack(chunk, field.type) for chunk in column.chunks], field.type)
            except ValueError as error:
                raise DataError(f"{file}, column {field.name!r}: {error}; write the file again") from None
        columns.append(column)
    return pa.table(columns, schema=schema)


def unpacked_bytes(table: pa.Table) -> int:
    """The memory of a table after `unpack`."""
    total = 0
    for column, field in zip(table.columns, table.schema, strict=True):
        kind = _list_type(field) if is_packed(field) else None
        total += column.nbytes if kind is None else len(column) * kind.list_size * kind.value_type.bit_width // 8
    return total


def _pack(lists: pa.FixedSizeListArray, field: pa.Field) -> pa.Array:
    kind = _list_type(field)
    if lists.flatten().null_count:
        raise DataError(
            f"column {field.name!r} holds null inside a list, which cannot be packed; fill it (a missing float "
            "with NaN, for example), or convert without --pack"
        )
    size, width = kind.list_size, kind.value_type.bit_width // 8
    values = lists.values.slice(lists.offset * size, len(lists) * size)
    values = values.cast(kind.value_type, safe=False)  # values under a null row are undefined
    bytes_ = values.buffers()[1].slice(values.offset * width, len(values) * width)
    rows = lists.is_valid().to_numpy(zero_copy_only=False)
    valid = pa.array(rows).buffers()[1] if lists.null_count else None
    if not pa.types.is_struct(field.type):
        return pa.Array.from_buffers(field.type, len(lists), [valid, bytes_])
    flat = np.frombuffer(bytes_, f"u{width}")
    mask = (flat != 0).reshape(len(lists), size)
    mask[~rows] = False
    ends = np.cumsum(np.count_nonzero(mask, axis=1), dtype=np.int64) * width
    bits = pa.py_buffer(np.packbits(mask, axis=1, bitorder="little"))
    bitmaps = pa.Array.from_buffers(field.type.field(_BITMAP).type, len(lists), [None, bits])
    offsets = pa.py_buffer(np.append(np.int64(0), ends))
    nonzero = pa.py_buffer(flat[np.flatnonzero(mask)])
    stored = pa.Array.from_buffers(pa.large_binary(), len(lists), [None, offsets, nonzero])
    return pa.Array.from_buffers(field.type, len(lists), [valid], children=[bitmaps, stored])


def _unpack(packed: pa.Array, kind: pa.FixedSizeListType) -> pa.Array:
    if pa.types.is_struct(packed.type):
        return _unpack_sparse(packed, kind)
    valid, bytes_ = packed.buffers()
    values = pa.Array.from_buffers(kind.value_type, (packed.offset + len(packed)) * kind.list_size, [None, bytes_])
    return pa.Array.from_buffers(kind, len(packed), [valid], packed.null_count, packed.offset, [values])


def _unpack_sparse(packed: pa.StructArray, kind: pa.FixedSizeListType) -> pa.Array:
    bitmaps, stored = packed.field(_BITMAP), packed.field("values")
    rows, size, width = len(packed), kind.list_size, kind.value_type.bit_width // 8
    stride = bitmaps.type.byte_width
    bits = np.frombuffer(bitmaps.buffers()[1], np.uint8)[bitmaps.offset * stride :][: rows * stride]
    valid = packed.is_valid().to_numpy(zero_copy_only=False) if packed.null_count else None
    ends = np.frombuffer(stored.buffers()[1], np.int64)[stored.offset :][: rows + 1] // width
    values = np.frombuffer(stored.buffers()[2] or b"", f"u{width}")
    flat = new_array((rows * size,), f"u{width}")
    for first in range(0, rows, _BLOCK_ROWS):
        last = min(first + _BLOCK_ROWS, rows)
        mask = _unpack_bits(bits[first * stride : last * stride].reshape(-1, stride), size)
        if valid is not None:  # values under a null row are undefined
            mask[~valid[first:last]] = False
        block = flat[first * size : last * size]
        block.fill(0)
        positions, nonzero = np.flatnonzero(mask), values[ends[first] : ends[last]]
        if len(positions) != len(nonzero):
            raise ValueError(f"{len(nonzero)} packed values, but bits for {len(positions)}")
        block[positions] = nonzero
    numbers = pa.Array.from_buffers(kind.value_type, len(flat), [None, pa.py_buffer(flat)])
    return pa.FixedSizeListArray.from_arrays(numbers, type=kind, mask=None if valid is None else pa.array(~valid))


def _unpack_bits(bits: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.bool_]:
    """[B, bytes] → [B, size]."""
    if size % 8 == 0:  # the same as below, several times faster
        return np.unpackbits(bits.reshape(-1), bitorder="little").view(bool).reshape(-1, size)
    return np.unpackbits(bits, axis=1, count=size, bitorder="little").view(bool)


def is_packed(field: pa.Field) -> bool:
    """Whether a column of a file is declared packed."""
    return KEY in (field.metadata or {})


def _packed_type(kind: pa.FixedSizeListType, *, sparse: bool) -> pa.DataType:
    if not sparse:
        return pa.binary(kind.value_type.bit_width // 8 * kind.list_size)
    bits = pa.field(_BITMAP, pa.binary((kind.list_size + 7) // 8), nullable=False)
    return pa.struct([bits, pa.field("values", pa.large_binary(), nullable=False)])


def _list_type(field: pa.Field) -> pa.FixedSizeListType:
    """The list type of a packed column. Raises ValueError if its metadata or its type do not fit."""
    text = field.metadata[KEY].decode(errors="replace")
    match = re.fullmatch(rf"(\w+)\[([1-9][0-9]{{0,8}})\]({SPARSE})?", text)
    if match is None or match[1] not in _TYPES:
        raise ValueError(f"declared packed, but {text!r} is not a list type such as float[64]")
    kind = pa.list_(_TYPES[match[1]], int(match[2]))
    if field.type != _packed_type(kind, sparse=match[3] is not None):
        raise ValueError(f"declared packed {text}, but its type is {field.type}")
    return kind


def _bits_of(values: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """The bits of numbers; those of -0.0 are not zero."""
    return values.view(f"u{values.itemsize}")
