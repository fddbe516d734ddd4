"""What the name of a column tells about it."""

import re

_OUTCOME = re.compile("(play|playback|stay|dwell|watch)(ed)?")


def words(name: str) -> list[str]:
    """The words of a name, such as `is` and `clicked` of `isClicked`."""
    return re.findall(r"[a-z]+|[0-9]+", re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()) or [name]


def is_named(name: str, pattern: re.Pattern[str]) -> bool:
    """Whether a word of the name matches."""
    return any(map(pattern.fullmatch, words(name)))


def is_named_like_outcome(name: str) -> bool:
    """Whether the name is that of a measurement which is known only after the impression, such as `dwell_seconds`."""
    return is_named(name, _OUTCOME)
