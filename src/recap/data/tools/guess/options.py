"""What a user states about the columns: labels, the user, the item and the time."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from recap.errors import InputError

LABEL_KINDS = "binary, regression or at_least=NUMBER"


@dataclass(frozen=True)
class StatedLabel:
    """A label named by the user, `--label COLUMN[:KIND]`."""

    column: str
    kind: Literal["binary", "regression"] = "binary"
    at_least: float | None = None
    """The number from which on the label of a binary task is 1."""

    @classmethod
    def parse(cls, text: str) -> "StatedLabel":
        """Parse COLUMN, COLUMN:binary, COLUMN:regression or COLUMN:at_least=NUMBER. Raises InputError."""
        column, colon, kind = text.rpartition(":")
        if not colon:
            return cls(text)
        name, _, number = kind.partition("=")
        if kind == "binary":
            return cls(column)
        if kind == "regression":
            return cls(column, "regression")
        try:
            at_least = float(number)
        except ValueError:
            at_least = math.nan
        if name != "at_least" or not math.isfinite(at_least):
            raise InputError(f"--label {text}: expected {LABEL_KINDS} after the colon, found {kind!r}")
        return cls(column, at_least=at_least)

    @property
    def task(self) -> str:
        """The name of its task."""
        return self.column if self.at_least is None else f"{self.column}_at_least_{self.at_least:g}"


@dataclass(frozen=True)
class StatedColumns:
    """The roles that the user states; all others are guessed."""

    labels: Sequence[StatedLabel] = ()
    user: str | None = None
    item: str | None = None
    time: str | None = None

    def named(self) -> list[tuple[str, str]]:
        """Each stated column with its option."""
        options = (("--user", self.user), ("--item", self.item), ("--time", self.time))
        columns = [*(("--label", label.column) for label in self.labels), *options]
        return [(option, column) for option, column in columns if column is not None]
