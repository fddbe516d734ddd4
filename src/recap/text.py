"""Phrases that messages share."""

import textwrap
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import PurePath

from recap.errors import InputError

_MAX_LISTED = 100
"""Known names in a message."""
_MAX_COMPARED = 2000
"""Known names that are compared with a wrong one; a comparison takes about 10 µs."""
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def suggest(name: str, known: list[str]) -> str:
    """`Known: a, b.`, followed by `Did you mean 'a'?` if a known name is close to `name`.

    If a known name is empty or has spaces around it, all are in quotes.
    """
    near = get_close_matches(name, known, n=1) if len(known) <= _MAX_COMPARED else []
    needs_quotes = any(not text or text != text.strip() for text in known)
    listed = ", ".join(map(repr if needs_quotes else str, known[:_MAX_LISTED])) if known else "none"
    if len(known) > _MAX_LISTED:
        listed += f", … ({len(known):,} in all)"
    return f"Known: {listed}." + (f" Did you mean {near[0]!r}?" if near else "")


def as_texts(value: object, name: str) -> list[str]:
    """An argument of the Python API that is a text or path, or a list of them. Raises InputError, which names it."""
    values = [value] if isinstance(value, str | PurePath) else value
    if isinstance(values, Sequence) and all(isinstance(item, str | PurePath) for item in values):
        return [str(item) for item in values]
    raise InputError(f"{name}: expected text or a list of texts, found {shorten(repr(value))}")


def plural(count: int, noun: str) -> str:
    """A count with its noun, such as `1 file` or `2,000 files`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def duration(seconds: float) -> str:
    """A duration as text, such as 4.2 s, 3 min 20 s or 5 h 02 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def size_text(count: float) -> str:
    """Bytes in the unit that fits, such as `37.3 GiB`."""
    unit = 0
    while count >= 999.95 and unit < len(_UNITS) - 1:
        count, unit = count / 1024, unit + 1
    return f"{count:.1f} {_UNITS[unit]}" if unit else f"{count:.0f} B"


def shorten(text: str, length: int = 60) -> str:
    """The text, cut to at most `length` characters."""
    return text if len(text) <= length else text[: length - 1] + "…"


def wrapped(text: str, width: int) -> str:
    """`text` with its lines broken at words, to at most `width` columns; a longer word, such as a path, stays whole."""
    wrap = textwrap.TextWrapper(
        max(width, 20), break_long_words=False, break_on_hyphens=False, replace_whitespace=False, drop_whitespace=True
    )
    lines = [line if len(line) <= width else "\n".join(wrap.wrap(line)) for line in text.split("\n")]
    return "\n".join(lines)
