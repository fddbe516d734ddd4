"""Packed columns: lists of one length as binary, the values of a row end to end.

Parquet keeps levels beside every value of a list, and going through them takes longer than all the rest. The bytes of
a packed row are the values themselves, so that reading it back is naming the same memory a list.

Of columns that are full of zeros, zstd takes apart the zeros between the values one run at a time, which again takes
longer than all the rest. There a row is a bit for each value, whether it is there or zero, and those that are there.
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
"""In the metadata of a packed column: what it stands for, such as float[6000]; the values are little-endian."""
SPARSE = " without zeros"
"""Behind it: only values other than 0 are there, and a bit for each, the lowest first, says which."""
MANY_ZEROS = 0.25
"""The share of zeros from which on floats are kept without them."""

_AT_ONCE = 64
"""Rows whose zeros are put back together: few enough that what it takes stays in the processor's cache."""

_INTEGERS = [pa.int8(), pa.int16(), pa.int32(), pa.int64()]
_TYPES = {str(kind): kind for kind in [*_INTEGERS, pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()]}
_TYPES |= {str(kind): kind for kind in (pa.float16(), pa.float32(), pa.float64())}


def can_pack(kind: pa.DataType) -> bool:
    """Whether a column is lists of one length, of numbers."""
    return bool(pa.types.is_fixed_size_list(kind) and kind.list_size and str(kind.value_type) in _TYPES)


@dataclass
class Survey:
    """What the values of a column that can be packed are like, which says how it is packed best."""

    kind: pa.FixedSizeListType
    low: int = 0
    high: int = 0
    zeros: int = 0
    values: int = 0

    def add(self, lists: pa.FixedSizeListArray) -> None:
        """The next rows."""
        flat = lists.flatten().drop_null()
        self.values += len(flat)
        if pa.types.is_floating(flat.type):
            self.zeros += len(flat) - int(np.count_nonzero(_bits_of(flat.to_numpy(zero_copy_only=False))))
        elif len(flat):
            low, high = (bound.as_py() for bound in pc.min_max(flat).values())
            self.low, self.high = min(self.low, low), max(self.high, high)

    @property
    def best(self) -> pa.FixedSizeListType:
        """The lists, of integers in the narrowest type that holds them."""
        if not pa.types.is_integer(self.kind.value_type):
            return self.kind
        return pa.list_(narrowest(self.low, self.high), self.kind.list_size)

    @property
    def sparse(self) -> bool:
        """Whether to leave out zeros."""
        return self.zeros > MANY_ZEROS * self.values


def narrowest(low: int, high: int) -> pa.DataType:
    """The smallest type of signed integers that holds `low` to `high`, or else unsigned ones of 64 bits."""
    fitting = (kind for kind in _INTEGERS if -(2 ** (kind.bit_width - 1)) <= low <= high < 2 ** (kind.bit_width - 1))
    return next(fitting, pa.uint64())


def pack_field(field: pa.Field, *, sparse: bool = False) -> pa.Field:
    """A column of lists as a packed one; `sparse`: without its zeros."""
    said = f"{field.type.value_type}[{field.type.list_size}]{SPARSE if sparse else ''}"
    metadata = (field.metadata or {}) | {KEY: said.encode()}
    return pa.field(field.name, _packed_type(field.type, sparse=sparse), field.nullable, metadata)


def pack(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The rows of `table` as `schema` has them, in which some are packed. Raises DataError for a null inside a list."""
    columns = [
        pa.chunked_array([_pack(chunk, field) for chunk in column.chunks], field.type) if is_packed(field) else column
        for column, field in zip(table.columns, schema, strict=True)
    ]
    return pa.table(columns, schema=schema)


def unpack_schema(schema: pa.Schema, file: str) -> pa.Schema:
    """The columns of `schema`, packed ones as the lists they stand for. Raises DataError where they are none."""
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
    """The rows of `table`, packed columns as lists: in the same memory, unless zeros were left out."""
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
    """The memory that `unpack` gives the rows of a table."""
    total = 0
    for column, field in zip(table.columns, table.schema, strict=True):
        kind = _list_type(field) if is_packed(field) else None
        total += column.nbytes if kind is None else len(column) * kind.list_size * kind.value_type.bit_width // 8
    return total


def _pack(lists: pa.FixedSizeListArray, field: pa.Field) -> pa.Array:
    kind = _list_type(field)
    if lists.flatten().null_count:
        raise DataError(
            f"column {field.name!r} holds null inside a list, for which packed bytes have no place; fill it (NaN is "
            "one way to say that a float is missing), or convert without --pack"
        )
    size, width = kind.list_size, kind.value_type.bit_width // 8
    values = lists.values.slice(lists.offset * size, len(lists) * size)
    values = values.cast(kind.value_type, safe=False)  # what lies under a null row may be anything
    bytes_ = values.buffers()[1].slice(values.offset * width, len(values) * width)
    rows = lists.is_valid().to_numpy(zero_copy_only=False)
    valid = pa.array(rows).buffers()[1] if lists.null_count else None
    if not pa.types.is_struct(field.type):
        return pa.Array.from_buffers(field.type, len(lists), [valid, bytes_])
    flat = np.frombuffer(bytes_, f"u{width}")
    there = (flat != 0).reshape(len(lists), size)
    there[~rows] = False
    ends = np.cumsum(np.count_nonzero(there, axis=1), dtype=np.int64) * width
    bits = pa.py_buffer(np.packbits(there, axis=1, bitorder="little"))
    present = pa.Array.from_buffers(field.type.field("there").type, len(lists), [None, bits])
    offsets = pa.py_buffer(np.append(np.int64(0), ends))
    kept = pa.py_buffer(flat[np.flatnonzero(there)])
    rest = pa.Array.from_buffers(pa.large_binary(), len(lists), [None, offsets, kept])
    return pa.Array.from_buffers(field.type, len(lists), [valid], children=[present, rest])


def _unpack(packed: pa.Array, kind: pa.FixedSizeListType) -> pa.Array:
    if pa.types.is_struct(packed.type):
        return _with_zeros(packed, kind)
    valid, bytes_ = packed.buffers()
    values = pa.Array.from_buffers(kind.value_type, (packed.offset + len(packed)) * kind.list_size, [None, bytes_])
    return pa.Array.from_buffers(kind, len(packed), [valid], packed.null_count, packed.offset, [values])


def _with_zeros(packed: pa.StructArray, kind: pa.FixedSizeListType) -> pa.Array:
    present, kept = packed.field("there"), packed.field("values")
    rows, size, width = len(packed), kind.list_size, kind.value_type.bit_width // 8
    stride = present.type.byte_width
    bits = np.frombuffer(present.buffers()[1], np.uint8)[present.offset * stride :][: rows * stride]
    valid = packed.is_valid().to_numpy(zero_copy_only=False) if packed.null_count else None
    ends = np.frombuffer(kept.buffers()[1], np.int64)[kept.offset :][: rows + 1] // width
    values = np.frombuffer(kept.buffers()[2] or b"", f"u{width}")
    flat = new_array((rows * size,), f"u{width}")
    for first in range(0, rows, _AT_ONCE):
        last = min(first + _AT_ONCE, rows)
        there = _there(bits[first * stride : last * stride].reshape(-1, stride), size)
        if valid is not None:  # what lies under a null row may be anything
            there[~valid[first:last]] = False
        part = flat[first * size : last * size]
        part.fill(0)
        places, found = np.flatnonzero(there), values[ends[first] : ends[last]]
        if len(places) != len(found):
            raise ValueError(f"{len(found)} packed values, but bits for {len(places)}")
        part[places] = found
    numbers = pa.Array.from_buffers(kind.value_type, len(flat), [None, pa.py_buffer(flat)])
    return pa.FixedSizeListArray.from_arrays(numbers, type=kind, mask=None if valid is None else pa.array(~valid))


def _there(bits: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.bool_]:
    """[rows, bytes] → [rows, size]: which values are there."""
    if size % 8 == 0:  # the same as below, several times faster
        return np.unpackbits(bits.reshape(-1), bitorder="little").view(bool).reshape(-1, size)
    return np.unpackbits(bits, axis=1, count=size, bitorder="little").view(bool)


def is_packed(field: pa.Field) -> bool:
    """Whether a column of a file is packed."""
    return KEY in (field.metadata or {})


def _packed_type(kind: pa.FixedSizeListType, *, sparse: bool) -> pa.DataType:
    if not sparse:
        return pa.binary(kind.value_type.bit_width // 8 * kind.list_size)
    bits = pa.field("there", pa.binary((kind.list_size + 7) // 8), nullable=False)
    return pa.struct([bits, pa.field("values", pa.large_binary(), nullable=False)])


def _list_type(field: pa.Field) -> pa.FixedSizeListType:
    """What a packed column stands for. Raises ValueError where its metadata or its type do not say it."""
    said = field.metadata[KEY].decode(errors="replace")
    match = re.fullmatch(rf"(\w+)\[([1-9][0-9]{{0,8}})\]({SPARSE})?", said)
    if match is None or match[1] not in _TYPES:
        raise ValueError(f"says that it is packed, but {said!r} is no list of numbers, such as float[64]")
    kind = pa.list_(_TYPES[match[1]], int(match[2]))
    if field.type != _packed_type(kind, sparse=match[3] is not None):
        raise ValueError(f"says that it is packed {said}, which {field.type} cannot be")
    return kind


def _bits_of(values: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """Numbers as their bits, in which -0 is no zero."""
    return values.view(f"u{values.itemsize}")
