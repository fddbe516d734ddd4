"""The messages for pydantic's errors."""

import re
from typing import Any

from recap.config.file.environment import hide
from recap.config.file.node import Node
from recap.text import suggest


def message(item: Any, known: list[str], node: Node | None) -> str:
    """The message for an error of pydantic: what was found, and what is accepted.

    `known`: the keys or kinds accepted there. `node`: the value, if it exists.
    """
    context = item.get("ctx", {})
    shown = node.reference if node is not None and node.secret and node.reference else _show(item["input"])
    match item["type"]:
        case "extra_forbidden":
            name = str(item["loc"][-1])
            return f"{name!r} is unknown. {suggest(name, known)}"
        case "missing":
            return "is required, but missing"
        case "union_tag_invalid":
            return _unknown(_show(context["tag"]), context["tag"], context["expected_tags"])
        case "union_tag_not_found":
            return f"needs a 'kind', found {shown}. Known: {', '.join(known)}."
        case "literal_error":
            return _unknown(shown, item["input"], context["expected"])
        case "value_error":
            return f"{context['error']}, found {shown}"
        case "model_type" | "dict_type" | "model_attributes_type":
            return f"expected a mapping, found {shown}"
        case "too_short" | "string_too_short":
            is_column = item["loc"][0] == "features" and item["loc"][-1] in _COLUMN_FIELDS
            return f"must not be empty, found {shown}{'; name the column in the file' if is_column else ''}"
        case kind if kind in _EXPECTED:
            separated = kind == "int_type" and re.fullmatch(r"\d+(_\d+)+", str(item["input"]))
            advice = f"; write {separated[0].replace('_', '')}" if separated else ""
            return f"expected {_EXPECTED[kind]}, found {shown}{advice}"
        case kind if kind in _BOUNDS:
            word, bound = _BOUNDS[kind]
            limit = context[bound]
            return f"must be {word} {limit if isinstance(limit, int) else f'{limit:g}'}, found {shown}"
        case "string_pattern_mismatch":
            return f"must match {context['pattern']}, found {shown}"
        case "one_of":
            return f"{item['msg']}; found {', '.join(map(str, item['input'])) or shown}"
        case _:
            return f"{item['msg']}, found {shown}"


_COLUMN_FIELDS = ("name", "column", "user", "timestamp", "request")
_EXPECTED = {
    "list_type": "a list",
    "string_type": "text",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "finite_number": "a finite number",
}
_BOUNDS = {
    "greater_than": ("above", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("below", "lt"),
    "less_than_equal": ("at most", "le"),
}
"""Type of error → the word for the bound, and its key in the error."""
_MAX_SHOWN = 60


def _show(value: Any) -> str:
    """A value for messages: shortened, without secrets."""
    if isinstance(value, dict):
        return "a mapping" if value else "an empty mapping"
    if isinstance(value, list):
        items = "1 item" if len(value) == 1 else f"{len(value)} items"
        return f"a list of {items}" if value else "an empty list"
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    text = repr(hide(value) if isinstance(value, str) else value)
    return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 3]}..."


def _unknown(shown: str, value: Any, listed: str) -> str:
    """Message for a value that is not among the words `listed` by pydantic."""
    known = [name.strip(" '") for name in listed.replace(" or ", ",").split(",")]
    if not isinstance(value, str):
        return f"expected one of {', '.join(known)}; found {shown}"
    return f"{shown} is unknown. {suggest(value, known)}"
