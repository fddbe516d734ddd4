"""The names of the numbers of a record."""

from collections.abc import Iterator

from recap.reporting import Record


def named_values(record: Record, separator: str = "/") -> Iterator[tuple[str, float | int]]:
    """The numbers of a record, named `split/value` or `split/task/value`; `separator` replaces `/` within a value."""
    for name, value in record.items():
        if isinstance(value, int | float) and name != "step":
            task = f"{record['task']}/" if "task" in record else ""
            yield f"{record['split']}/{task}{name.replace('/', separator)}", value
