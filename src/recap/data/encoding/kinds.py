"""Arrow's many types as the few kinds of values that columns hold: numbers, integers, texts and lists."""

from decimal import Decimal
from typing import Any
from uuid import UUID

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from recap.data.formats.location import Location
from recap.errors import DataError
from recap.text import shorten

Rows = npt.NDArray[np.int64]
"""The row of each value, for messages."""
_WHOLE = r"^[+-]?[0-9]+(\.0*)?\z"
"""Text of a whole number; pandas writes integers with nulls as 5.0."""
TEXT_OR_WHOLE = "text or a whole number"
_UUID_BYTES = 16


def decoded(values: pa.Array) -> pa.Array:
    """The same values without dictionaries, run-end encoding, views and extension types."""
    kind = values.type
    if isinstance(kind, pa.BaseExtensionType):
        return decoded(values.storage)
    if pa.types.is_dictionary(kind):
        return decoded(values.dictionary_decode())
    if pa.types.is_run_end_encoded(kind):
        return decoded(pc.run_end_decode(values))
    if pa.types.is_string_view(kind):
        return values.cast(pa.large_string())
    if pa.types.is_binary_view(kind):
        return values.cast(pa.large_binary())
    if pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind):
        return _lists_of_views(values)
    if is_list(kind):  # Arrow cannot flatten lists of views with nulls (26.0)
        plain = _without_views(kind)
        return values if plain == kind else values.cast(plain)
    return values


def _without_views(kind: pa.DataType) -> pa.DataType:
    """The type of decoded values for a list type, or for the type of the values in it."""
    if pa.types.is_string_view(kind) or pa.types.is_binary_view(kind):
        return pa.large_string() if pa.types.is_string_view(kind) else pa.large_binary()
    inner = _without_views(kind.value_type) if is_list(kind) else None
    if inner is None or inner == kind.value_type:
        return kind
    return pa.list_(inner, kind.list_size if pa.types.is_fixed_size_list(kind) else -1)


def _uuid_texts(values: pa.Array) -> pa.Array:
    """16 bytes each → their canonical text, such as 1b4e28ba-2fa1-11d2-883f-0016d3cca427."""
    return pa.array([None if value is None else str(UUID(bytes=value)) for value in values.to_pylist()], pa.string())


def _lists_of_views(values: pa.Array) -> pa.Array:
    """Views of lists → lists. Arrow's own cast loses values of arrays with nulls (26.0)."""
    lengths = pc.list_value_length(values).fill_null(0).to_numpy(zero_copy_only=False)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return pa.LargeListArray.from_arrays(
        pa.array(offsets, pa.int64()), decoded(values.flatten()), mask=values.is_null() if values.null_count else None
    )


def is_list(kind: pa.DataType) -> bool:
    """Whether values of this type, decoded, are lists, of a fixed length or not."""
    return bool(pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind))


def is_number(kind: pa.DataType) -> bool:
    """Whether values of this type are numbers; booleans count as 0 and 1, and a column without a type as missing."""
    checks = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_decimal, pa.types.is_null)
    return any(check(kind) for check in checks)


def floats_of(numbers: pa.Array) -> pa.Array:
    """Numbers as float32, each rounded from the nearest double: the same as from their text, bit for bit."""
    kind = numbers.type
    if pa.types.is_decimal(kind):
        numbers = numbers.cast(pa.string()).cast(pa.float64())  # Arrow's cast to floats is inexact (26.0)
    elif pa.types.is_integer(kind) and kind.bit_width == 64:
        numbers = numbers.cast(pa.float64(), safe=False)
    return numbers.cast(pa.float32(), safe=False)


def is_text(kind: pa.DataType) -> bool:
    """Whether values of this type, decoded, are strings."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def is_bytes(kind: pa.DataType) -> bool:
    """Whether values of this type, decoded, are bytes."""
    checks = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)
    return any(check(kind) for check in checks)


def is_uuid(kind: pa.DataType) -> bool:
    """Whether values of this type, decoded, are UUIDs."""
    return bool(pa.types.is_fixed_size_binary(kind) and kind.byte_width == _UUID_BYTES)


def is_fractional(kind: pa.DataType) -> bool:
    """Whether values of this type are numbers that may have a fraction."""
    return bool(pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def hint_for(kind: pa.DataType) -> str:
    """What to do with values of this type, which are no numbers, after a semicolon."""
    if is_text(kind) or is_bytes(kind):
        return "; read text under discrete, with a vocabulary or a hash"
    if pa.types.is_temporal(kind):
        return "; derive a number from it, such as an age in hours or an hour of the day"
    if is_list(kind):
        return "; set its length"
    return ""


def integers_of(values: pa.Array, name: str, location: Location, expected: str, rows: Rows | None = None) -> pa.Array:
    """Integers, booleans, whole numbers and their text as an array of integers; NaN is null.

    `expected`: what the column should hold, for messages. `rows`: default: one value per row. Raises DataError for
    other types and values, with all bad rows.
    """
    kind = values.type
    if pa.types.is_integer(kind):
        return values
    if pa.types.is_null(kind):
        return values.cast(pa.int64())
    if pa.types.is_boolean(kind):
        return values.cast(pa.int8())
    if is_fractional(kind):
        values = whole_numbers(values, name, location, rows)
        if pa.types.is_integer(values.type):
            return values
    elif is_uuid(kind) or not (is_text(kind) or is_bytes(kind)):
        raise location.error(name, f"holds {kind}, expected {expected}")
    return _parsed(as_text(values, name, location, rows), name, location, expected, rows)


def texts_of(values: pa.Array, name: str, location: Location, expected: str, rows: Rows | None = None) -> pa.Array:
    """Text, bytes, UUIDs, and integers and whole numbers by their decimal text, as an array of text; NaN is null.

    Arguments and errors are those of `integers_of`.
    """
    if pa.types.is_null(values.type):
        return values.cast(pa.string())
    if is_fractional(values.type):
        values = whole_numbers(values, name, location, rows, TEXT_OR_WHOLE)
    values = as_text(values, name, location, rows)
    if pa.types.is_integer(values.type):
        return values.cast(pa.string())
    if not is_text(values.type):
        raise location.error(name, f"holds {values.type}, expected {expected}")
    return values


def integers_or_texts(values: pa.Array, name: str, location: Location, rows: Rows | None = None) -> pa.Array:
    """Integers and whole numbers as int64, text and larger integers as text: what a vocabulary lists.

    Arguments and errors are those of `integers_of`.
    """
    if is_fractional(values.type):
        values = whole_numbers(values, name, location, rows)
    if pa.types.is_integer(values.type) and not has_large_integers(values):
        return values.cast(pa.int64())
    return texts_of(values, name, location, "strings or integers", rows)


def has_large_integers(values: pa.Array) -> bool:
    """Whether an array of integers holds some beyond int64."""
    return bool(pa.types.is_uint64(values.type) and (pc.max(values).as_py() or 0) >= 2**63)


def _parsed(texts: pa.Array, name: str, location: Location, expected: str, rows: Rows | None) -> pa.Array:
    """Text of whole numbers → int64. Raises DataError for other texts."""
    whole = pc.match_substring_regex(texts, _WHOLE)
    if pc.all(whole).as_py() is False:
        wrong = pc.invert(whole).fill_null(False).to_numpy(zero_copy_only=False)
        raise _misfit(texts, wrong, name, location, expected, rows)
    digits = pc.replace_substring_regex(texts, r"^\+|\.0*$", "")
    try:
        return digits.cast(pa.int64())
    except pa.ArrowInvalid:
        large = [text is not None and not -(2**63) <= int(text) < 2**63 for text in digits.to_pylist()]
        raise _misfit(texts, np.array(large), name, location, "a whole number of 64 bits", rows) from None


def whole_numbers(
    values: pa.Array, name: str, location: Location, rows: Rows | None = None, expected: str = "a whole number"
) -> pa.Array:
    """Floats and decimals as an array of integers; NaN is null. `expected`: in place of a fraction, for messages.

    Decimals beyond 64 bits give an array of text. Raises DataError for fractions, infinities, and floats too large to
    tell neighbouring integers apart, with all bad rows.
    """
    if pa.types.is_decimal(values.type):
        return _whole_decimals(values, name, location, rows, expected)
    numbers = values.cast(pa.float64()).to_numpy(zero_copy_only=False)
    missing = np.isnan(numbers)
    known = np.where(missing, 0.0, numbers)
    fraction = known != np.trunc(known)
    if fraction.any() or np.isinf(known).any():
        raise _misfit(values, fraction | np.isinf(known), name, location, expected, rows)
    exact = 2.0 ** _MANTISSA_BITS[values.type]
    if (np.abs(known) > exact).any():
        limit = f"at most {exact:,.0f}: a {values.type} cannot hold larger integers exactly; store integers or text"
        raise _misfit(values, np.abs(known) > exact, name, location, limit, rows)
    return pa.array(known.astype(np.int64), mask=missing)


_MANTISSA_BITS = {pa.float16(): 11, pa.float32(): 24, pa.float64(): 53}


def _whole_decimals(values: pa.Array, name: str, location: Location, rows: Rows | None, expected: str) -> pa.Array:
    try:
        # Arrow 26 cannot cast decimal32 to integers.
        return (values.cast(pa.decimal64(18, values.type.scale)) if values.type.bit_width == 32 else values).cast(
            pa.int64()
        )
    except pa.ArrowInvalid:
        numbers: list[Decimal | None] = values.to_pylist()
        wrong = np.array([number is not None and number != number.to_integral_value() for number in numbers])
        if wrong.any():
            raise _misfit(values, wrong, name, location, expected, rows) from None
        return pa.array([None if number is None else f"{number:.0f}" for number in numbers], pa.string())


def as_text(values: pa.Array, name: str, location: Location, rows: Rows | None = None) -> pa.Array:
    """Bytes as UTF-8 text, and UUIDs (16 bytes) as their canonical text; other types unchanged.

    Raises DataError for bytes that are not UTF-8.
    """
    if is_uuid(values.type):
        return _uuid_texts(values)
    if not is_bytes(values.type):
        return values
    try:
        return values.cast(pa.large_binary()).cast(pa.large_string())
    except pa.ArrowException:
        wrong = np.array([text is not None and not _is_utf8(text) for text in values.to_pylist()])
        raise location.error(name, "holds bytes that are not UTF-8 text", _bad_rows(wrong, rows)) from None


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def value_at(values: pa.Array, index: int) -> Any:
    """A value for a message; bytes for a string that is not UTF-8, as damaged Parquet files hold."""
    try:
        return values[index].as_py()
    except UnicodeDecodeError:
        return values.cast(pa.large_binary())[index].as_py()


def _misfit(
    values: pa.Array, wrong: npt.NDArray[np.bool_], name: str, location: Location, expected: str, rows: Rows | None
) -> DataError:
    """A DataError that shows the first of the `wrong` values."""
    value = value_at(values, int(np.flatnonzero(wrong)[0]))
    shown = shorten(repr(value) if isinstance(value, str) else str(value))
    return location.error(name, f"found {shown}, expected {expected}", _bad_rows(wrong, rows))


def _bad_rows(wrong: npt.NDArray[np.bool_], rows: Rows | None) -> list[int]:
    indices = np.flatnonzero(wrong)
    return list(dict.fromkeys((indices if rows is None else rows[indices]).tolist()))
