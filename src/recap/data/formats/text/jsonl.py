"""JSON lines: one object per line. Arrow reads a block at once; one that it refuses is read line by line."""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.json

from recap.data.formats.location import Location
from recap.data.formats.text.lines import BadLines, TextFormat, count_lines
from recap.data.formats.text.values import Misfit, convert, misfit, parse_integer, parse_number
from recap.errors import DataError

_MAX_DEPTH = 100
"""Levels of nesting that Arrow's reader is given; thousands overflow its stack, which ends the process."""
_MAX_TYPE_DEPTH = 20
"""Levels of nesting that types are inferred for; deeper values are text."""
_MAX_TYPE_KEYS = 1000
"""Keys of objects in columns that types are inferred for, in all lines together; objects of more keys are text."""
_MAX_COLUMNS = 100_000
_PEEKED_LINES = 20
"""Lines of a block that tell whether its ids are written as numbers or strings."""
_NAMED_LINES = 1000
"""Lines of a file whose keys are its columns, besides the configured ones."""
_LONG_INTEGER = re.compile(rb"[^.0-9\"][0-9]{17}")
"""A number that a double may not hold exactly."""

Value = Any
"""A decoded value: None, bool, str, list, dict, or a number as the bytes that are written in the file."""


class JsonLinesFormat(TextFormat):
    """Files with a JSON object per line; a missing key is null."""

    kind = "jsonl"
    name = "JSON lines"
    header_lines = 0

    def _names(self, file: str) -> list[str]:
        blocks = self.blocks(file)
        if not blocks:
            return []
        first = next(self.texts(file, blocks[0]))
        names = dict.fromkeys(name for value in _peek(first, _NAMED_LINES) for name in value if _is_unicode(name))
        missing = {name for name in self.types if name not in names}
        for block in blocks:
            if not missing:
                break
            for text in self.texts(file, block):
                missing -= {name for name in missing if _occurs(name, text)}
        names |= dict.fromkeys(name for name in self.types if name not in missing)
        if not names:
            self._check_first_line(file, first)
        return list(names)

    def _check_first_line(self, file: str, text: bytes) -> None:
        """Raise DataError if the first line of `text` does not hold an object."""
        try:
            _decode(text.partition(b"\n")[0])
        except Misfit as error:
            raise Location(file, header_lines=self.header_lines).error(None, str(error), [0]) from None

    def _infer(self, file: str, names: Sequence[str]) -> pa.Schema:
        kind: pa.DataType = pa.struct([])
        for block in self.blocks(file):
            for text in self.texts(file, block):
                kind = _common(kind, _infer_block(text), _MAX_COLUMNS)
                if not pa.types.is_struct(kind):
                    raise DataError(f"{file}: its lines have more than {_MAX_COLUMNS:,} keys, the limit")
        return pa.schema(list(kind))

    def _parse(self, file: str, text: bytes, count: int, schema: pa.Schema) -> pa.Table:
        if not count:
            return schema.empty_table()
        if _is_regular(text, count):
            kinds = [(field.name, _written_type(field, _peek(text, _PEEKED_LINES))) for field in schema]
            with suppress(pa.ArrowInvalid):  # the lines are read one by one below
                table = _read(text, pa.schema(kinds))
                if table.num_rows == count:
                    if not text.isascii():
                        table.validate(full=True)  # Arrow's reader does not check that strings are UTF-8
                    return table.select(schema.names).cast(schema)
        return self._parse_slowly(text, schema)

    def _parse_slowly(self, text: bytes, schema: pa.Schema) -> pa.Table:
        """Like `_parse`, but finds the lines and values that are bad, and reads ids of numbers and strings."""
        misfits: dict[int, tuple[str | None, str]] = {}
        columns: dict[str, list[Value]] = {name: [] for name in schema.names}
        for line, content in enumerate(text.removesuffix(b"\n").split(b"\n")):
            try:
                row = _decode(content)
            except Misfit as error:
                misfits[line] = (None, str(error))
                row = {}
            for name, values in columns.items():
                values.append(row.get(name))
                if isinstance(row, _Ambiguous) and name in row.repeated:
                    misfits.setdefault(line, (name, "the key appears twice in the line"))
        arrays: list[pa.Array] = []
        for field in schema:
            as_text = None if self.types else _json_text
            array, wrong = convert(columns[field.name], field.type, partial(_as, field.type, as_text))
            misfits |= {line: (field.name, message) for line, message in wrong.items() if line not in misfits}
            arrays.append(array)
        if misfits:
            raise BadLines(misfits)
        return pa.Table.from_arrays(arrays, schema=schema)


def _occurs(name: str, text: bytes) -> bool:
    return json.dumps(name).encode() in text or json.dumps(name, ensure_ascii=False).encode() in text


def _is_regular(text: bytes, count: int) -> bool:
    """Whether each of `count` lines begins and ends like an object, and none is nested deeply.

    Arrow's reader crashes at other lines, such as `null`.
    """
    if not (text.startswith(b"{") and text.endswith((b"}\n", b"}\r\n", b"}"))):
        return False
    breaks = text.count(b"}\n{")
    if breaks != count - 1 and breaks + text.count(b"}\r\n{") != count - 1:
        return False
    characters = np.frombuffer(text, np.uint8)
    opens = (characters | 32) == ord("{")  # also [
    if np.count_nonzero(opens) <= count + _MAX_DEPTH:
        return True
    starts = np.concatenate([[0], np.flatnonzero(characters[:-1] == ord("\n")) + 1])
    return int(np.add.reduceat(opens, starts, dtype=np.int64).max()) <= _MAX_DEPTH or _depth(characters) <= _MAX_DEPTH


def _colons(text: bytes) -> int:
    """The most colons in a line, as many as its keys or more."""
    characters = np.frombuffer(text, np.uint8)
    starts = np.concatenate([[0], np.flatnonzero(characters[:-1] == ord("\n")) + 1])
    return int(np.add.reduceat(characters == ord(":"), starts, dtype=np.int64).max())


def _depth(characters: npt.NDArray[np.uint8]) -> int:
    """The deepest nesting; brackets in strings count too."""
    opens = ((characters | 32) == ord("{")).astype(np.int8)
    opens -= ((characters | 32) == ord("}")).view(np.int8)
    return int(np.cumsum(opens, dtype=np.int32).max())


def _peek(text: bytes, lines: int) -> list[dict[str, Value]]:
    """The objects in the first lines of a block, without bad lines."""
    objects: list[dict[str, Value]] = []
    start = 0
    for _ in range(lines):
        end = text.find(b"\n", start)
        value = _decode_or_none(text[start : end if end >= 0 else len(text)])
        if value is not None:
            objects.append(value)
        if end < 0:
            break
        start = end + 1
    return objects


def _written_type(field: pa.Field, objects: Iterable[dict[str, Value]]) -> pa.DataType:
    """A type to read a column as before its cast to `field.type`: integers for ids, booleans for numbers, else that.

    A wrong choice makes a block slow, but not wrong: Arrow's reader refuses other values.
    """
    kind = field.type
    is_list = pa.types.is_list(kind)
    inner = kind.value_type if is_list else kind
    values: Iterable[Value] = (value.get(field.name) for value in objects)
    if is_list:
        values = (element for value in values if isinstance(value, list) for element in value)
    first = next((value for value in values if value is not None), None)
    if pa.types.is_string(inner) and isinstance(first, bytes):
        inner = pa.int64()
    elif pa.types.is_floating(inner) and isinstance(first, bool):
        inner = pa.bool_()
    return pa.list_(inner) if is_list else inner


def _read(text: bytes, schema: pa.Schema | None) -> pa.Table:
    """Parse lines, with inferred types without a schema. Raises pa.ArrowInvalid."""
    return pyarrow.json.read_json(
        BytesIO(text),
        read_options=pyarrow.json.ReadOptions(use_threads=False, block_size=len(text)),
        parse_options=pyarrow.json.ParseOptions(
            explicit_schema=schema, unexpected_field_behavior="infer" if schema is None else "ignore"
        ),
    )


class _Ambiguous(dict[str, Value]):
    """An object in which keys appear more than once."""

    repeated: set[str]


def _object(pairs: list[tuple[str, Value]]) -> dict[str, Value]:
    value = dict(pairs)
    if len(value) == len(pairs):
        return value
    ambiguous = _Ambiguous(value)
    counts = Counter(name for name, _ in pairs)
    ambiguous.repeated = {name for name, count in counts.items() if count > 1}
    return ambiguous


_DECODER = json.JSONDecoder(
    parse_int=str.encode,
    parse_float=str.encode,
    parse_constant={"NaN": None, "Infinity": b"Infinity", "-Infinity": b"-Infinity"}.__getitem__,
    object_pairs_hook=_object,
)
"""Keeps numbers as they are written, as bytes, which tells them from strings. NaN is null."""


def _decode(line: bytes) -> dict[str, Value]:
    """The object in a line. Raises Misfit."""
    try:
        value = _DECODER.decode(line.decode(errors="surrogateescape"))  # values that are not read may be anything
    except json.JSONDecodeError as error:
        if not line.strip():
            raise Misfit("the line is empty, expected a JSON object") from None
        raise Misfit(f"not readable as JSON ({error.msg} at character {error.pos + 1})") from None
    except RecursionError:
        raise Misfit("lists and objects are nested too deeply") from None
    if not isinstance(value, dict):
        raise misfit(_noun(value), "a JSON object in each line")
    return value


def _decode_or_none(line: bytes) -> dict[str, Value] | None:
    try:
        return _decode(line)
    except Misfit:
        return None


def _noun(value: Value) -> str:
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    return f"the text {value!r}" if isinstance(value, str) else _json_text(value)


def _json_text(value: Value) -> str:
    """A value as JSON; text of its own is unchanged."""
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, list):
        return f"[{', '.join(map(_quoted, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{json.dumps(name)}: {_quoted(item)}' for name, item in value.items())}}}"
    return value if isinstance(value, str) else json.dumps(value)


def _quoted(value: Value) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else _json_text(value)


def _as(kind: pa.DataType, as_text: Callable[[Value], str] | None, value: Value) -> Any:
    """A decoded value as a Python value of an Arrow type. Raises Misfit.

    `as_text` makes text of lists and objects where a column may hold several kinds of values; None: they are errors.
    """
    if value is None:
        return None
    if pa.types.is_string(kind):
        return _as_text(value, as_text)
    if pa.types.is_list(kind):
        if not isinstance(value, list):
            raise misfit(_noun(value), "a list")
        return [_as(kind.value_type, as_text, element) for element in value]
    if pa.types.is_struct(kind):
        if not isinstance(value, dict):
            raise misfit(_noun(value), "an object")
        return {field.name: _as(field.type, as_text, value.get(field.name)) for field in kind}
    return _as_scalar(kind, value)


def _as_text(value: Value, as_text: Callable[[Value], str] | None) -> str:
    if isinstance(value, list | dict) and as_text is None:
        raise misfit(_noun(value), "a string or a number")
    text = "0" if value == b"-0" else _json_text(value)  # as Arrow reads integers
    if not _is_unicode(text):
        raise misfit(repr(text), "Unicode text; save the file as UTF-8")
    return text


def _is_unicode(text: str) -> bool:
    """Whether a decoded string is without bytes that are not UTF-8, and without halves of surrogate pairs."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _as_scalar(kind: pa.DataType, value: Value) -> Any:
    if pa.types.is_boolean(kind) and isinstance(value, bool):
        return value
    if pa.types.is_floating(kind) and isinstance(value, bool | bytes):
        return float(value) if isinstance(value, bool) else parse_number(value.decode().replace("Infinity", "inf"))
    if pa.types.is_integer(kind) and isinstance(value, bool | bytes | str):
        return parse_integer(value.decode() if isinstance(value, bytes) else str(value))
    nouns = {"bool": "true or false", "null": "null"}
    expected = "a whole number of 64 bits" if pa.types.is_integer(kind) else nouns.get(str(kind), "a number")
    raise misfit(_noun(value), expected)


def _infer_block(text: bytes) -> pa.DataType:
    """The keys of some lines with the types of their values, as a struct; without bad lines."""
    count = count_lines(text)
    if _is_regular(text, count) and _colons(text) <= _MAX_TYPE_KEYS and not _LONG_INTEGER.search(text):
        with suppress(pa.ArrowInvalid, UnicodeDecodeError):  # the lines are read one by one below
            table = _read(text, None)
            if table.num_rows == count:
                return pa.struct([(field.name, _settled(field.type)) for field in table.schema])
    kind: pa.DataType = pa.struct([])
    for line in text.removesuffix(b"\n").split(b"\n"):
        value = _decode_or_none(line)
        if value is not None:
            kind = _common(kind, _type_of(value), _MAX_COLUMNS)
    return kind


def _settled(kind: pa.DataType) -> pa.DataType:
    """The type with text for times, which Arrow makes of strings that look like dates, and for objects of many keys."""
    if pa.types.is_timestamp(kind) or pa.types.is_time(kind) or pa.types.is_date(kind):
        return pa.string()
    if pa.types.is_list(kind):
        return pa.list_(_settled(kind.value_type))
    if pa.types.is_struct(kind):
        if kind.num_fields > _MAX_TYPE_KEYS:
            return pa.string()
        return pa.struct([(field.name, _settled(field.type)) for field in kind])
    return kind


_EMPTY_LIST = pa.list_(pa.null())


def _type_of(value: Value, depth: int = 0) -> pa.DataType:
    """The type that keeps a decoded value exactly."""
    if depth > _MAX_TYPE_DEPTH or isinstance(value, str):
        return pa.string()
    if isinstance(value, dict) and len(value) <= (_MAX_TYPE_KEYS if depth else _MAX_COLUMNS):
        return pa.struct([(name, _type_of(item, depth + 1)) for name, item in value.items() if _is_unicode(name)])
    if isinstance(value, list):
        kind = pa.null()
        for element in value:
            kind = _common(kind, _type_of(element, depth + 1))
        return pa.list_(kind) if value else _EMPTY_LIST
    if isinstance(value, bytes):
        if value.lstrip(b"-").isdigit():
            return pa.int64() if -(2**63) <= int(value[:21]) < 2**63 else pa.string()
        return pa.float64()
    if isinstance(value, dict):
        return pa.string()
    return pa.null() if value is None else pa.bool_()


def _common(first: pa.DataType, second: pa.DataType, max_keys: int = _MAX_TYPE_KEYS) -> pa.DataType:
    """The type of a column that holds values of two types: text unless both are numbers, lists or objects.

    Objects of more than `max_keys` keys together are text.
    """
    if first is second or first == second or pa.types.is_null(second):  # `is` is much faster
        return first
    if pa.types.is_null(first):
        return second
    if {first, second} == {pa.int64(), pa.float64()}:
        return pa.float64()
    if pa.types.is_list(first) and pa.types.is_list(second):
        return pa.list_(_common(first.value_type, second.value_type))
    if pa.types.is_struct(first) and pa.types.is_struct(second):
        kinds = {field.name: field.type for field in first}
        for field in second:
            kinds[field.name] = _common(kinds.get(field.name, pa.null()), field.type)
        return pa.struct(list(kinds.items())) if len(kinds) <= max_keys else pa.string()
    return pa.string()
