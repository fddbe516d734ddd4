"""The record of a finished run of a board: what was evaluated, what it took, and where."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from recap.boards.environment import Environment
from recap.errors import InputError
from recap.evaluation.plain import to_plain
from recap.storage import replace_text


@dataclass(frozen=True)
class Record:
    """What is known of a run besides its metrics. None: unknown."""

    model: str
    """Its checkpoint; `PREDICTIONS` of a rival."""
    seconds: float | None = None
    """To take its training steps, without evaluations; of a rival, to fit and predict."""
    examples_per_second: float | None = None
    parameters: int | None = None
    finished: str | None = None
    """The time at which it was finished, in UTC."""
    environment: Environment | None = None
    """None if it was not this board that trained it."""
    note: str = ""
    """What a reader should know of it, such as how it was tuned."""
    evaluated: str | None = None
    """A digest of what its evaluation depends on besides the model; None in records of an earlier recap."""

    @classmethod
    def read(cls, file: Path) -> Self | None:
        """The record in a file; None if there is none. Raises InputError if it is damaged."""
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            environment = content.pop("environment")
            return cls(**content, environment=None if environment is None else Environment(**environment))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise InputError(f"{file}: damaged; delete it") from None

    def write(self, file: Path) -> None:
        """Replace the record in a file. Raises RunError."""
        replace_text(file, json.dumps(to_plain(self), indent=1) + "\n")


PREDICTIONS = "predictions"
"""The `model` of a rival."""


def training_pace(records: Sequence[Mapping[str, Any]], rows_per_step: int) -> tuple[float, float] | None:
    """Seconds of all steps, and examples a second, from the lines of `metrics.jsonl`; None if they do not say.

    Evaluations and checkpoints do not count, nor does what a killed process did in vain.
    """
    seconds, examples, before = 0.0, 0, 0
    for record in records:
        if record.get("split") != "train":
            continue
        count = (record["step"] - before) * rows_per_step
        before = record["step"]
        if record.get("examples_per_second"):
            examples += count
            seconds += count / record["examples_per_second"]
    return (seconds, examples / seconds) if seconds else None
