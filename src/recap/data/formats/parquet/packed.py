"""Packed columns: lists of one length stored as binary, the values of a row end to end.

Parquet stores levels with every value of a list, and decoding them dominates reading. The bytes of a packed row are
its values, so reading reinterprets the memory as lists.

In a column with many zeros, zstd decompresses each short run of zeros separately, and that dominates reading. Sparse
packing stores only the nonzero values, and a bitmap of them: one bit per value.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from recap.data.formats.location import Location
from recap.errors import DataError
from recap.native.buffers import new_array

KEY = b"recap.packed"
"""Metadata key of a packed column; its value is the list type, such as float[6000]. Values are little-endian."""
SPARSE = " without zeros"
"""Suffix of the list type in a sparse column. Part of the file format."""
_BITMAP, _NONZERO = "there", "values"
"""Fields of a sparse column: the bitmap of a row, lowest bit first, and its nonzero values. Part of the file format."""
SPARSE_ZERO_SHARE = 0.25
"""A column with a larger share of zeros is packed sparse."""

_BLOCK_ROWS = 64
"""Rows unpacked together; their values fit the CPU cache."""

_INTEGERS = [pa.int8(), pa.int16(), pa.int32(), pa.int64()]
_TYPES = {str(kind): kind for kind in [*_INTEGERS, pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()]}
_TYPES |= {str(kind): kind for kind in (pa.float16(), pa.float32(), pa.float64())}


def can_pack(kind: pa.DataType) -> bool:
    """Whether values of this type are lists of numbers, all of one length."""
    return bool(pa.types.is_fixed_size_list(kind) and kind.list_size and str(kind.value_type) in _TYPES)


@dataclass
class Survey:
    """Statistics of a list column, from which its packed form is chosen."""

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
    def narrowest_kind(self) -> pa.FixedSizeListType:
        """The list type with the narrowest integers that hold the values; floats stay unchanged."""
        if not pa.types.is_integer(self.kind.value_type):
            return self.kind
        return pa.list_(narrowest(self.low, self.high), self.kind.list_size)

    @property
    def sparse(self) -> bool:
        """Whether enough values are zero to store only the others."""
        return self.zeros > SPARSE_ZERO_SHARE * self.values


def narrowest(low: int, high: int) -> pa.DataType:
    """The smallest signed integer type that holds `low` to `high`, or uint64."""
    fitting = (kind for kind in _INTEGERS if -(2 ** (kind.bit_width - 1)) <= low <= high < 2 ** (kind.bit_width - 1))
    return next(fitting, pa.uint64())


def pack_field(field: pa.Field, *, sparse: bool = False) -> pa.Field:
    """The packed form of a list column; `sparse`: only nonzero values are stored."""
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
            with _locate_errors(file, field):
                kind = _list_type(field)
            metadata = {key: value for key, value in field.metadata.items() if key != KEY}
            field = pa.field(field.name, kind, field.nullable, metadata or None)
        fields.append(field)
    return pa.schema(fields, schema.metadata)


def unpack(table: pa.Table, file: str) -> pa.Table:
    """`table` with packed columns as lists; only sparse columns are copied. Raises DataError for invalid content."""
    schema = unpack_schema(table.schema, file)
    columns = []
    for column, packed, field in zip(table.columns, table.schema, schema, strict=True):
        if is_packed(packed):
            with _locate_errors(file, field):
                column = pa.chunked_array([_unpack(chunk, field.type) for chunk in column.chunks], field.type)
        columns.append(column)
    return pa.table(columns, schema=schema)


@contextmanager
def _locate_errors(file: str, field: pa.Field) -> Iterator[None]:
    """Raise a ValueError about a packed column as a DataError with its location."""
    try:
        yield
    except ValueError as error:
        raise Location(file).error(field.name, f"{error}; write the file again") from None


def unpacked_bytes(table: pa.Table) -> int:
    """Bytes of a table in memory after `unpack`."""
    total = 0
    for column, field in zip(table.columns, table.schema, strict=True):
        if is_packed(field):
            kind = _list_type(field)
            total += len(column) * kind.list_size * kind.value_type.bit_width // 8
        else:
            total += column.nbytes
    return total


def _pack(lists: pa.FixedSizeListArray, field: pa.Field) -> pa.Array:
    kind = _list_type(field)
    if lists.flatten().null_count:
        raise DataError(
            f"column {field.name!r} holds null inside a list, which cannot be packed; fill it (floats with NaN, "
            "for example), or convert without --pack"
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
    bitmaps, stored = packed.field(_BITMAP), packed.field(_NONZERO)
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
            raise ValueError(f"holds {len(nonzero)} nonzero values, but its bitmap {len(positions)}")
        block[positions] = nonzero
    numbers = pa.Array.from_buffers(kind.value_type, len(flat), [None, pa.py_buffer(flat)])
    return pa.FixedSizeListArray.from_arrays(numbers, type=kind, mask=None if valid is None else pa.array(~valid))


def _unpack_bits(bits: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.bool_]:
    """[B, bytes] → [B, size]."""
    if size % 8 == 0:  # same result, several times faster
        return np.unpackbits(bits.reshape(-1), bitorder="little").view(bool).reshape(-1, size)
    return np.unpackbits(bits, axis=1, count=size, bitorder="little").view(bool)


def is_packed(field: pa.Field) -> bool:
    """Whether the metadata of a column declares it packed."""
    return KEY in (field.metadata or {})


def _packed_type(kind: pa.FixedSizeListType, *, sparse: bool) -> pa.DataType:
    if not sparse:
        return pa.binary(kind.value_type.bit_width // 8 * kind.list_size)
    bits = pa.field(_BITMAP, pa.binary((kind.list_size + 7) // 8), nullable=False)
    return pa.struct([bits, pa.field(_NONZERO, pa.large_binary(), nullable=False)])


def _list_type(field: pa.Field) -> pa.FixedSizeListType:
    """The list type of a packed column. Raises ValueError if its metadata are invalid or do not fit its type."""
    text = field.metadata[KEY].decode(errors="replace")
    match = re.fullmatch(rf"(\w+)\[([1-9][0-9]{{0,8}})\]({SPARSE})?", text)
    if match is None or match[1] not in _TYPES:
        raise ValueError(f"is declared packed, but {text!r} is not a list type such as float[64]")
    kind = pa.list_(_TYPES[match[1]], int(match[2]))
    if field.type != _packed_type(kind, sparse=match[3] is not None):
        raise ValueError(f"is declared packed {text}, but its type is {field.type}")
    return kind


def _bits_of(values: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """The bits of numbers as unsigned integers; those of -0.0 are not zero."""
    return values.view(f"u{values.itemsize}")
