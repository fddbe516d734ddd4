"""`metrics.jsonl`: one JSON object per line."""

import json
from pathlib import Path

from recap.reporting import Record
from recap.storage import _Appended


class JsonLines:
    """`metrics.jsonl`: a JSON object a line, written through at once."""

    def __init__(self, path: Path, step: int) -> None:
        """Continue after `step`: lines of later steps, left by a killed run, are dropped."""
        kept = [line for line in _lines(path) if _has_step_until(line, step)]
        temporary = path.with_name(path.name + ".tmp")
        temporary.write_text("".join(f"{line}\n" for line in kept))
        temporary.replace(path)
        self._file = _Appended(path)

    def log(self, record: Record) -> None:
        """Append one line."""
        self._file.append((json.dumps(record) + "\n").encode())

    def close(self, *, finished: bool) -> None:
        """Close the file."""
        self._file.close()


def _lines(path: Path) -> list[str]:
    """The whole lines of a file; a last line without its end, cut by a kill, does not count."""
    if not path.exists():
        return []
    text = path.read_text(errors="replace")
    return text[: text.rfind("\n") + 1].splitlines()


def _has_step_until(line: str, step: int) -> bool:
    """Whether a line is a record of `step` or before; a crash of the machine may leave lines that are none."""
    try:
        return bool(json.loads(line)["step"] <= step)
    except (ValueError, KeyError, TypeError):
        return False
