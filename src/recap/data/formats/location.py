"""`Location`: the file and rows that a table was read from, for error messages."""

from collections.abc import Sequence
from dataclasses import dataclass

from recap.errors import DataError


@dataclass(frozen=True)
class Location:
    """The rows of a file that a table holds; rows of a file are counted from 0."""

    file: str
    first_row: int = 0
    """The row of the file at which reading started."""
    skipped: tuple[int, ...] = ()
    """Rows left out of the table, counted from `first_row`, ascending."""
    header_lines: int | None = None
    """Lines before row 0 if a row is a line, which errors then name as editors count it; None in other formats."""

    def error(self, column: str | None, text: str, rows: Sequence[int] = ()) -> DataError:
        """A DataError that names the file, the column and the first of the bad `rows`, which count in the table.

        `column`: None if the rows as a whole are wrong. `DataError.rows` are all of them, counted from `first_row`.
        """
        file_rows = [self._with_skipped(row) for row in rows]
        parts = [f"column {column!r}"] if column is not None else []
        where = self.file
        if file_rows:
            row = self.first_row + file_rows[0]
            parts.append(f"row {row}")
            where += f":{self.header_lines + row + 1}" if self.header_lines is not None else ""
        return DataError(": ".join(filter(None, (where, ", ".join(parts), text))), file_rows, column, text)

    def _with_skipped(self, row: int) -> int:
        """Row `row` of the table, counted from `first_row` with the skipped rows."""
        for skipped in self.skipped:
            if skipped <= row:
                row += 1
        return row
