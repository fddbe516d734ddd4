"""Where rows stand in the data, for the errors that are about them."""

from collections.abc import Sequence
from dataclasses import dataclass

from recap.errors import DataError


@dataclass(frozen=True)
class Location:
    """Where the rows of a table stand: errors count rows of the file from 0."""

    file: str
    first_row: int = 0
    """The row of the file where what is read begins."""
    without: tuple[int, ...] = ()
    """Rows from there on that the table was read without, rising."""

    def error(self, column: str, text: str, rows: Sequence[int] = ()) -> DataError:
        """A DataError that begins with the file, the column and the first of the table's `rows` that are wrong."""
        found = [self._before(row) for row in rows]
        at = f", row {self.first_row + found[0]}" if found else ""
        return DataError(f"{self.file}: column {column!r}{at}: {text}", found)

    def _before(self, row: int) -> int:
        """Where a row of the table stood before others were left out."""
        for left_out in self.without:
            row += left_out <= row
        return row
