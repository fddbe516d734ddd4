"""Where rows come from, for error messages."""

from collections.abc import Sequence
from dataclasses import dataclass

from recap.errors import DataError


@dataclass(frozen=True)
class Location:
    """The position of a table in a file; rows of the file are counted from 0."""

    file: str
    first_row: int = 0
    """Row of the file at which reading started."""
    skipped: tuple[int, ...] = ()
    """Rows, counted from `first_row`, that are missing from the table, ascending."""

    def error(self, column: str, text: str, rows: Sequence[int] = ()) -> DataError:
        """A DataError that names the file, the column and the first of the table's bad `rows`."""
        positions = [self._position(row) for row in rows]
        at = f", row {self.first_row + positions[0]}" if positions else ""
        return DataError(f"{self.file}: column {column!r}{at}: {text}", positions)

    def _position(self, row: int) -> int:
        """The row, counted from `first_row`, that is row `row` of the table."""
        for skipped in self.skipped:
            row += skipped <= row
        return row
