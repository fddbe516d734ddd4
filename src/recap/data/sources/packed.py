"""Packed columns: lists of one length as fixed-size binary, the values of a row end to end.

Parquet keeps levels beside every value of a list, and going through them takes longer than all the rest. The bytes of
a packed row are the values themselves, so that reading it back is naming the same memory a list.
"""

import re

import pyarrow as pa

from recap.errors import DataError

KEY = b"recap.packed"
"""In the metadata of a packed column: what it stands for, such as float[6000]; the values are little-endian."""

_INTEGERS = [pa.int8(), pa.int16(), pa.int32(), pa.int64()]
_TYPES = {str(kind): kind for kind in [*_INTEGERS, pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()]}
_TYPES |= {str(kind): kind for kind in (pa.float16(), pa.float32(), pa.float64())}


def can_pack(kind: pa.DataType) -> bool:
    """Whether a column is lists of one length, of numbers."""
    return bool(pa.types.is_fixed_size_list(kind) and kind.list_size and str(kind.value_type) in _TYPES)


def narrowest(low: int, high: int) -> pa.DataType:
    """The smallest type of signed integers that holds `low` to `high`, or else unsigned ones of 64 bits."""
    fitting = (kind for kind in _INTEGERS if -(2 ** (kind.bit_width - 1)) <= low <= high < 2 ** (kind.bit_width - 1))
    return next(fitting, pa.uint64())


def pack_schema(schema: pa.Schema) -> pa.Schema:
    """The columns of `schema`, those that can be packed."""
    fields = []
    for field in schema:
        if can_pack(field.type):
            said = (field.metadata or {}) | {KEY: f"{field.type.value_type}[{field.type.list_size}]".encode()}
            width = field.type.value_type.bit_width // 8 * field.type.list_size
            field = pa.field(field.name, pa.binary(width), field.nullable, said)
        fields.append(field)
    return pa.schema(fields, schema.metadata)


def pack(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The rows of `table` as a packed `schema` has them. Raises DataError for a null inside a list."""
    columns = [
        pa.chunked_array([_pack(chunk, field) for chunk in column.chunks], field.type)
        if KEY in (field.metadata or {})
        else column
        for column, field in zip(table.columns, schema, strict=True)
    ]
    return pa.table(columns, schema=schema)


def _pack(lists: pa.FixedSizeListArray, field: pa.Field) -> pa.Array:
    kind = _list_type(field)
    if lists.flatten().null_count:
        raise DataError(
            f"column {field.name!r} holds null inside a list, for which packed bytes have no place; fill it (NaN is "
            "one way to say that a float is missing), or convert without --pack"
        )
    size = kind.list_size
    values = lists.values.slice(lists.offset * size, len(lists) * size)
    values = values.cast(kind.value_type, safe=False)  # what lies under a null row may be anything
    width = kind.value_type.bit_width // 8
    bytes_ = values.buffers()[1].slice(values.offset * width, len(values) * width)
    valid = None
    if lists.null_count:  # by way of numpy, which leaves no offset in the bits
        valid = pa.array(lists.is_valid().to_numpy(zero_copy_only=False)).buffers()[1]
    return pa.Array.from_buffers(field.type, len(lists), [valid, bytes_])


def unpack_schema(schema: pa.Schema, file: str) -> pa.Schema:
    """The columns of `schema`, packed ones as the lists they stand for. Raises DataError where they are none."""
    fields = []
    for field in schema:
        if KEY in (field.metadata or {}):
            try:
                kind = _list_type(field)
            except ValueError as error:
                raise DataError(f"{file}, column {field.name!r}: {error}; write the file again") from None
            rest = {key: value for key, value in field.metadata.items() if key != KEY}
            field = pa.field(field.name, kind, field.nullable, rest or None)
        fields.append(field)
    return pa.schema(fields, schema.metadata)


def unpack(table: pa.Table, file: str) -> pa.Table:
    """The rows of `table`, packed columns as lists in the same memory."""
    schema = unpack_schema(table.schema, file)
    columns = [
        column
        if column.type == field.type
        else pa.chunked_array([_unpack(chunk, field.type) for chunk in column.chunks], field.type)
        for column, field in zip(table.columns, schema, strict=True)
    ]
    return pa.table(columns, schema=schema)


def _unpack(packed: pa.Array, kind: pa.FixedSizeListType) -> pa.Array:
    valid, bytes_ = packed.buffers()
    values = pa.Array.from_buffers(kind.value_type, (packed.offset + len(packed)) * kind.list_size, [None, bytes_])
    return pa.Array.from_buffers(kind, len(packed), [valid], packed.null_count, packed.offset, [values])


def _list_type(field: pa.Field) -> pa.FixedSizeListType:
    """What a packed column stands for. Raises ValueError where its metadata or its width do not say it."""
    said = field.metadata[KEY].decode(errors="replace")
    match = re.fullmatch(r"(\w+)\[([1-9][0-9]{0,8})\]", said)
    if match is None or match[1] not in _TYPES:
        raise ValueError(f"says that it is packed, but {said!r} is no list of numbers, such as float[64]")
    kind, size = _TYPES[match[1]], int(match[2])
    if field.type != pa.binary(kind.bit_width // 8 * size):
        raise ValueError(f"says that it is packed {said}, which {field.type} cannot be")
    return pa.list_(kind, size)
