"""The table of `recap data compare`."""

from rich.markup import escape
from rich.table import Table

from recap.cli.terminal.tables import MAX_NAME_WIDTH, plain_table, shortened
from recap.evaluation.drift import Pair
from recap.evaluation.skew.by_key import Difference
from recap.evaluation.skew.distributions import Distribution
from recap.evaluation.skew.run import Skew

_MAX_ROWS = 50
"""Columns that are shown."""


def skew_table(skew: Skew) -> Table:
    """The columns that differ most."""
    by_key = any(isinstance(column, Difference) for column in skew.columns)
    title = (
        f"{skew.rows[1]:,} rows that both have, of {skew.rows[0]:,}"
        if by_key
        else f"{skew.rows[0]:,} rows → {skew.rows[1]:,} rows"
    )
    table = plain_table(title)
    table.add_column("column", no_wrap=True)
    names = ("rows that differ", "largest", "for example") if by_key else ("PSI", "missing", "mean", "length", "new")
    for name in names:
        table.add_column(name, justify="left" if name == "for example" else "right", no_wrap=True)
    for column in skew.columns[:_MAX_ROWS]:
        cells = _differences(column) if isinstance(column, Difference) else _distributions(column)
        table.add_row(escape(shortened(column.column, 2 * MAX_NAME_WIDTH)), *map(escape, cells))
    if len(skew.columns) > _MAX_ROWS:
        table.add_row(f"and {len(skew.columns) - _MAX_ROWS} more")
    return table


def _differences(column: Difference) -> tuple[str, ...]:
    key, one, other = column.example or ("", "", "")
    example = f"{key}: {one} → {other}" if column.example else ""
    return f"{column.share:.2%}", "" if column.largest is None else f"{column.largest:.4g}", example


def _distributions(column: Distribution) -> tuple[str, ...]:
    return (
        f"{column.psi:.4f}",
        _arrow(column.missing, ".2%"),
        "" if column.mean is None else _arrow(column.mean, ".5g"),
        "" if column.length is None else _arrow(column.length, ".3g"),
        "" if column.new is None else f"{column.new:.2%}",
    )


def _arrow(pair: Pair, format_: str) -> str:
    return " → ".join(format(value, format_) for value in pair)
