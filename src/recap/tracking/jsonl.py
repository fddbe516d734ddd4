"""The file `metrics.jsonl`: one JSON object per line."""

import json
from pathlib import Path

from recap.reporting import Record
from recap.storage import AppendOnlyFile, atomic_write


class JsonLines:
    """Appends records to `metrics.jsonl`, unbuffered."""

    def __init__(self, path: Path, step: int) -> None:
        """Continue after `step`; lines of later steps, which a killed run left, are dropped."""
        lines = [line for line in _complete_lines(path) if _is_record_until(line, step)]
        with atomic_write(path) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in lines))
        self._file = AppendOnlyFile(path)

    def log(self, record: Record) -> None:
        self._file.append((json.dumps(record) + "\n").encode())

    def close(self, *, finished: bool) -> None:
        self._file.close()


def _complete_lines(path: Path) -> list[str]:
    """The lines of a file, without an incomplete last line, as a killed process may leave."""
    if not path.exists():
        return []
    text = path.read_text(errors="replace")
    return text[: text.rfind("\n") + 1].splitlines()


def _is_record_until(line: str, step: int) -> bool:
    """Whether a line is a record of `step` or before; a machine that crashed may leave invalid lines."""
    try:
        return bool(json.loads(line)["step"] <= step)
    except (ValueError, KeyError, TypeError):
        return False
