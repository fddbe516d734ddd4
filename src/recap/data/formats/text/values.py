"""Values as they are written in text → Arrow arrays, one by one, where Arrow's own reader refuses some of them."""

import re
from collections.abc import Callable, Iterable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from recap.text import shorten

_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|[+-]?(inf(inity)?|nan)", re.ASCII | re.I)
_DECIMAL_COMMA = re.compile(r"[+-]?([0-9]*|[0-9]{1,3}(\.[0-9]{3})+),[0-9]+", re.ASCII)
_WHOLE = re.compile(r"([+-]?[0-9]+)(\.0*)?")
_BOOLEANS = {"true": True, "false": False}
_EXACT = 2**53
"""Integers up to this are exact in a double."""


class Misfit(ValueError):
    """A value that cannot be read as the type of its column; the message says what was found and expected."""


def misfit(value: str, expected: str) -> Misfit:
    """`value`: as it is written in the file."""
    return Misfit(f"found {shorten(value)}, expected {expected}")


def parse_number(text: str) -> float:
    """The number in a text; booleans are 1 and 0. Raises Misfit."""
    text = text.strip()
    if _NUMBER.fullmatch(text):
        return float(text)
    if text.lower() in _BOOLEANS:
        return float(_BOOLEANS[text.lower()])
    raise misfit(repr(text), f"a number{decimal_comma(text)}")


def decimal_comma(text: str) -> str:
    """A hint for a number that is written with a decimal comma, such as `18,49`; else nothing."""
    if not _DECIMAL_COMMA.fullmatch(text.strip()):
        return ""
    point = text.strip().replace(".", "").replace(",", ".")
    return f"; if its comma is a decimal comma, write {shorten(point)}"


def parse_integer(text: str) -> int:
    """The integer of 64 bits in a text such as `7`, `7.0` or `7e0`; booleans are 1 and 0. Raises Misfit."""
    text = text.strip()
    whole = _WHOLE.fullmatch(text)
    if whole is not None and len(whole[1]) <= 20 and -(2**63) <= int(whole[1]) < 2**63:
        return int(whole[1])
    number = float(text) if whole is None and _NUMBER.fullmatch(text) else 0.5
    if number.is_integer() and abs(number) <= _EXACT:
        return int(number)
    if text.lower() in _BOOLEANS:
        return int(_BOOLEANS[text.lower()])
    raise misfit(repr(text), f"a whole number of 64 bits{decimal_comma(text)}")


def parse_boolean(text: str) -> bool:
    """The value of true or false, in any case. Raises Misfit."""
    if text.strip().lower() in _BOOLEANS:
        return _BOOLEANS[text.strip().lower()]
    raise misfit(repr(text), "true or false")


def parser_of(kind: pa.DataType) -> Callable[[str], Any]:
    """Parses the text of one value of a type: a number, boolean or string."""
    if pa.types.is_floating(kind):
        return parse_number
    if pa.types.is_integer(kind):
        return parse_integer
    return parse_boolean if pa.types.is_boolean(kind) else str


def convert(
    values: Iterable[Any], kind: pa.DataType, convert_one: Callable[[Any], Any]
) -> tuple[pa.Array, dict[int, str]]:
    """Values as an array of a type; and the message of each value that does not fit, by its index."""
    wrong: dict[int, str] = {}
    converted: list[Any] = []
    for index, value in enumerate(values):
        try:
            converted.append(None if value is None else convert_one(value))
        except Misfit as error:
            wrong[index] = str(error)
            converted.append(None)
    return pa.array(converted, kind), wrong


def cast_texts(texts: pa.Array, kind: pa.DataType) -> pa.Array | None:
    """Strings → an array of a type, if all are written as Arrow writes them; else None."""
    if pa.types.is_null(kind):  # inferred: only bad lines hold values
        return pa.nulls(len(texts))
    try:
        return texts if pa.types.is_string(kind) else pc.utf8_trim_whitespace(texts).cast(kind)
    except pa.ArrowInvalid:
        return None


def parse_texts(texts: pa.Array, kind: pa.DataType, nulls: Iterable[str]) -> tuple[pa.Array, dict[int, str]]:
    """Strings → an array of numbers or booleans; and the message of each value that does not fit, by its index.

    `nulls`: texts that mean null.
    """
    missing, parse = frozenset(nulls), parser_of(kind)
    distinct = pc.utf8_trim_whitespace(texts).dictionary_encode()
    known = (None if text in missing else text for text in distinct.dictionary.to_pylist())
    values, wrong = convert(known, kind, parse)
    if not wrong:
        return values.take(distinct.indices), {}
    indices = distinct.indices.to_pylist()
    return values.take(distinct.indices), {row: wrong[index] for row, index in enumerate(indices) if index in wrong}
