"""Text shared by messages."""

from difflib import get_close_matches


def suggest(name: str, known: list[str]) -> str:
    """`Known: a, b.`, and `Did you mean 'a'?` if one of them is close to `name`."""
    near = get_close_matches(name, known, n=1)
    listed = ", ".join(known) if known else "none"
    return f"Known: {listed}." + (f" Did you mean {near[0]!r}?" if near else "")
