"""Writers of every file format; they append one table at a time."""

import gzip
import json
import math
import re
import struct
from abc import ABC, abstractmethod
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal, Self, assert_never

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from recap.config.data import SourceKind
from recap.data.formats.parquet.packed import is_packed, unpacked_bytes
from recap.data.formats.tfrecord.example import BYTES, FLOATS, INTEGERS, write_example
from recap.data.formats.tfrecord.records import masked_crc
from recap.errors import DataError

StreamKind = Literal["arrow", "csv", "jsonl"]
"""The formats that need no seeking."""
ROW_GROUP_BYTES = 64 * 2**20
"""Maximum size of a Parquet row group in memory. A shuffle window has at least one, and three windows are in memory."""


class Writer(ABC):
    """Writes one file; a context manager that closes it."""

    @abstractmethod
    def write(self, table: pa.Table) -> None:
        """Append rows. Raises DataError for values that the format cannot hold."""

    @abstractmethod
    def close(self) -> None:
        """Finish the file."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def open_writer(kind: SourceKind, path: Path, schema: pa.Schema) -> Writer:
    """A writer of format `kind` for the columns of `schema`. Raises DataError for columns the format cannot hold."""
    match kind:
        case "parquet":
            return _ParquetWriter(path, schema)
        case "arrow":
            return _ArrowWriter(pa.ipc.new_file(path, schema))
        case "csv":
            _check_csv(schema)
            return _CsvWriter(pa.OSFile(str(path), "wb"), schema)
        case "jsonl":
            return _JsonLinesWriter(path.open("wb"))
        case "tfrecord":
            return _TfRecordWriter(path, schema)
        case _:
            assert_never(kind)


def open_stream_writer(kind: StreamKind, stream: BinaryIO, schema: pa.Schema) -> Writer:
    """A writer of format `kind` to a stream that cannot seek, such as a pipe; `close` leaves the stream open.

    Each `write` is flushed. Raises DataError for columns the format cannot hold.
    """
    open_stream = pa.PythonFile(_Unclosed(stream), mode="w")
    match kind:
        case "arrow":
            return _ArrowWriter(pa.ipc.new_stream(open_stream, schema))
        case "csv":
            _check_csv(schema)
            return _CsvWriter(open_stream, schema)
        case "jsonl":
            return _JsonLinesWriter(open_stream)
        case _:
            assert_never(kind)


class _Unclosed:
    """What writes to a binary stream, without closing it."""

    closed = False

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def write(self, data: Any) -> int:
        self._stream.write(bytes(data))  # Arrow may use the memory again before a buffered stream has written it
        self._stream.flush()
        return len(data)

    def flush(self) -> None:
        self._stream.flush()

    def close(self) -> None:
        self._stream.flush()


def _check_csv(schema: pa.Schema) -> None:
    """Raise DataError for columns that CSV cannot hold."""
    lists = [field.name for field in schema if pa.types.is_nested(field.type)]
    if lists:
        raise DataError(f"CSV cannot hold lists, such as {', '.join(lists)}; choose another format")
    broken = next((name for name in schema.names if re.search(r"[\r\n\0]", name)), None)
    if broken is not None:
        raise DataError(f"column {broken!r}: CSV cannot hold a name with a line break or NUL; choose another format")


class _ArrowWriter(Writer):
    """Wraps a writer of pyarrow."""

    def __init__(self, writer: Any) -> None:
        self.writer = writer

    def write(self, table: pa.Table) -> None:
        self.writer.write_table(table)

    def close(self) -> None:
        self.writer.close()


class _CsvWriter(Writer):
    """CSV, one line per row."""

    def __init__(self, stream: pa.NativeFile, schema: pa.Schema) -> None:
        self.stream = stream
        pyarrow.csv.write_csv(schema.empty_table(), self.stream)  # the names

    def write(self, table: pa.Table) -> None:
        columns = [_with_integers(column) for column in table.columns]
        for name, column in zip(table.column_names, columns, strict=True):
            if (
                _is_text(column.type)
                and pc.any(pc.match_substring_regex(column.cast(pa.large_string()), "[\\r\\n]")).as_py()
            ):
                raise DataError(
                    f"column {name!r} holds text with a line break, but recap reads one line per CSV row; "
                    "choose another format"
                )
        table = pa.table(columns, names=table.column_names)
        table = table.combine_chunks()  # for an empty chunk, Arrow writes memory it did not fill (26.0)
        pyarrow.csv.write_csv(table, self.stream, pyarrow.csv.WriteOptions(include_header=False))

    def close(self) -> None:
        self.stream.close()


def _with_integers(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Floats and decimals as integers if all are whole.

    Arrow would write 1.23456789012e+11 or 7.00, which as text is not the id that the number is.
    """
    if pa.types.is_decimal(column.type):
        numbers = column.to_pylist()
        if all(number is None or number == number.to_integral_value() for number in numbers):
            texts = pa.array([None if number is None else f"{number:.0f}" for number in numbers], pa.string())
            try:
                return pa.chunked_array([texts.cast(pa.int64())])
            except pa.ArrowInvalid:
                return pa.chunked_array([texts])
    elif pa.types.is_floating(column.type):
        doubles = column.to_numpy().astype(np.float64)
        known = doubles[~np.isnan(doubles)]
        exact = (known == np.trunc(known)) & (np.abs(known) <= 2.0**53) & ~(np.signbit(known) & (known == 0))
        if exact.all():
            missing = np.isnan(doubles)
            return pa.chunked_array([pa.array(np.where(missing, 0, doubles).astype(np.int64), mask=missing)])
    return column


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


class _ParquetWriter(Writer):
    """zstd Parquet with the settings that read fastest."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        columns = _parquet_columns(schema)
        packed = {field.name for field in schema if is_packed(field)}
        bytes_ = {path for path in columns if path in packed or path.rpartition(".")[0] in packed}
        self.writer = pq.ParquetWriter(
            path,
            schema,
            compression="zstd",
            # Level 1 makes packed bytes a tenth smaller than level -1, but decompression takes twice as long.
            compression_level={path: -1 if path in bytes_ else 1 for path in columns},
            # Floats and packed bytes rarely repeat, so a dictionary would only add a lookup per value.
            use_dictionary=[
                path for path, kind in columns.items() if path not in bytes_ and kind not in ("FLOAT", "DOUBLE")
            ],
            # The minimum and maximum of packed bytes would be as long as a row, and useless.
            write_statistics=[path for path in columns if path not in bytes_],
        )

    def write(self, table: pa.Table) -> None:
        rows = ROW_GROUP_BYTES * table.num_rows // max(1, unpacked_bytes(table))
        self.writer.write_table(table, row_group_size=max(1, rows))

    def close(self) -> None:
        self.writer.close()


def _parquet_columns(schema: pa.Schema) -> dict[str, str]:
    """The leaf columns that Parquet stores for `schema` → their physical types."""
    sink = pa.BufferOutputStream()
    pq.write_table(schema.empty_table(), sink)
    columns = pq.ParquetFile(pa.BufferReader(sink.getvalue())).schema
    leaves = [columns.column(index) for index in range(len(columns))]
    return {leaf.path: leaf.physical_type for leaf in leaves}


class _JsonLinesWriter(Writer):
    """A JSON object per row; NaN becomes null, decimals become numbers, and times become text."""

    def __init__(self, stream: BinaryIO | pa.NativeFile) -> None:
        self.stream = stream

    def write(self, table: pa.Table) -> None:
        for index, kind in enumerate(table.schema.types):
            if pa.types.is_temporal(kind) and getattr(kind, "unit", "") == "ns":  # Python's times have none
                table = table.set_column(index, table.field(index).name, table.column(index).cast(pa.string()))
        lines = []
        for row in table.to_pylist():
            values = {name: _without_nan(value) for name, value in row.items()}
            lines.append(json.dumps(values, ensure_ascii=False, default=_as_json) + "\n")
        self.stream.write("".join(lines).encode())

    def close(self) -> None:
        self.stream.close()


def _without_nan(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_nan(item) for item in value] if any(map(_is_nan, value)) else value
    return None if _is_nan(value) else value


def _is_nan(value: Any) -> bool:
    return (isinstance(value, list) and any(map(_is_nan, value))) or bool(value != value)  # for floats of every width


def _as_json(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    return str(value)


class _TfRecordWriter(Writer):
    """gzip TFRecord of tf.train.Example. A missing float is NaN, and a null list of any length is an absent feature."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.kinds = {field.name: _list_kind(field) for field in schema}
        self.widths = {field.name: _width(field.type) for field in schema}
        self.stream = gzip.GzipFile(path, "wb", compresslevel=6)

    def write(self, table: pa.Table) -> None:
        for field, column in zip(table.schema, table.columns, strict=True):
            self._check(field, column)
        for row in table.to_pylist():
            features = {
                name.encode(): (
                    kind,
                    _as_list([math.nan] * self.widths[name] if row[name] is None else row[name], kind),
                )
                for name, kind in self.kinds.items()
                if row[name] is not None or self.widths[name]
            }
            record = write_example(features)
            length = struct.pack("<Q", len(record))
            self.stream.write(length + struct.pack("<I", masked_crc(length)))
            self.stream.write(record + struct.pack("<I", masked_crc(record)))

    def _check(self, field: pa.Field, column: pa.ChunkedArray) -> None:
        """Raise DataError for values that would read back differently."""
        name, kind, problem = field.name, self.kinds[field.name], None
        flat = pc.list_flatten(column) if pa.types.is_nested(field.type) else column
        if kind != FLOATS and column.null_count and self.widths[name]:
            problem = "null, which TFRecord does not tell from 0; fill it, or"
        elif kind != FLOATS and flat.null_count > (0 if flat is not column else column.null_count):
            problem = "null inside a list, which TFRecord has only for floats; fill it, or"
        elif pa.types.is_uint64(flat.type) and (pc.max(flat).as_py() or 0) >= 2**63:
            problem = "integers of 2^63 or more, beyond TFRecord's int64;"
        elif pa.types.is_float64(flat.type) and _loses_integers(flat):
            problem = "whole numbers beyond 2^24, which TFRecord's float32 would change; make them integers, or"
        if problem is not None:
            raise DataError(f"column {name!r} holds {problem} choose another format")

    def close(self) -> None:
        self.stream.close()


def _width(kind: pa.DataType) -> int:
    """The number of values of every row; 0 for lists of any length."""
    if pa.types.is_nested(kind):
        return int(kind.list_size) if pa.types.is_fixed_size_list(kind) else 0
    return 1


def _loses_integers(column: pa.ChunkedArray) -> bool:
    """Whether a column of doubles holds only whole numbers, such as ids, and float32 would change some."""
    numbers = column.drop_null().to_numpy()
    numbers = numbers[np.isfinite(numbers)]
    return bool((numbers == np.trunc(numbers)).all() and (numbers != numbers.astype(np.float32)).any())


def tfrecord_schema(schema: pa.Schema) -> dict[str, Any]:
    """The content of `source.schema_path` for TFRecord files with the columns of `schema`."""
    dtypes = {BYTES: "bytes_list", FLOATS: "float_list", INTEGERS: "int64_list"}
    entries = []
    for field in schema:
        kind = field.type
        length = kind.list_size if pa.types.is_fixed_size_list(kind) else -1 if pa.types.is_nested(kind) else 1
        entries.append({"feature_name": field.name, "dtype": dtypes[_list_kind(field)], "length": length})
    return {"schema": entries}


def _list_kind(field: pa.Field) -> int:
    kind = field.type.value_type if pa.types.is_nested(field.type) and hasattr(field.type, "value_type") else field.type
    if pa.types.is_floating(kind) or pa.types.is_null(kind):
        return FLOATS
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return INTEGERS
    binary = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_binary_view)
    if _is_text(kind) or any(is_binary(kind) for is_binary in binary):
        return BYTES
    raise DataError(f"TFRecord cannot hold column {field.name!r} of type {field.type}; choose another format")


def _as_list(value: Any, kind: int) -> list[Any]:
    values = value if isinstance(value, list) else [value]
    if kind == BYTES:
        return [text.encode() if isinstance(text, str) else text for text in values]
    return [math.nan if number is None else number for number in values] if kind == FLOATS else values
