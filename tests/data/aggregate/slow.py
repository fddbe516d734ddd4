"""Aggregates computed row by row, as their definitions say."""

from typing import Any

from recap.config.aggregates.spec import AggregatesConfig, microseconds

Row = dict[str, Any]
HOUR = 3600


def slow_columns(spec: AggregatesConfig, key: str, rows: list[Row], asked: Row) -> Row:
    """The columns of `key` for the impression `asked`, from the `rows` of the log; times are in seconds."""
    names = spec.names(key)
    ids = [asked[name] for name in spec.keys[key]]
    if None in ids:
        return dict.fromkeys(names)
    now = asked["time"]
    refreshed = now
    if spec.refresh is not None:
        every, at = seconds(spec.refresh.every), seconds(spec.refresh.at)
        refreshed = max(moment for moment in range(at - 10 * every, now + 1, every) if moment <= now)
    known_until = refreshed - seconds(spec.delay)
    same = [row for row in rows if [row[name] for name in spec.keys[key]] == ids]
    same.sort(key=lambda row: row["time"])  # stable: equal times keep the order of the log

    def seen(window: str, until: int) -> list[Row]:
        start = -1e18 if window == "all" else until - seconds(window)
        return [row for row in same if start <= row["time"] < until]

    def engaged(label: str | None) -> list[Row]:
        if label is None:
            return seen("all", refreshed)
        return [row for row in seen("all", known_until) if row[label] is not None and row[label] > 0]

    columns: Row = {}
    for aggregate in spec.of(key):
        labels: Any = aggregate.labels or [None]
        if aggregate.kind == "count":
            values: list[Any] = [len(seen(window, refreshed)) for window in aggregate.windows]
        elif aggregate.kind == "sum":
            values = [
                sum(row[label] or 0 for row in seen(window, known_until))
                for label in labels
                for window in aggregate.windows
            ]
        elif aggregate.kind == "rate":
            values = []
            for label, prior in aggregate.priors.items():
                if prior == "running":
                    prior = running_mean(rows, label, known_until)
                for window in aggregate.windows:
                    known = [row[label] for row in seen(window, known_until) if row[label] is not None]
                    rate = None
                    if prior is not None:
                        rate = (sum(known) + prior * aggregate.strength) / (len(known) + aggregate.strength)
                    values.append(rate)
        elif aggregate.kind == "recency":
            values = [now - engaged(label)[-1]["time"] if engaged(label) else None for label in labels]
        else:
            values = [
                [row[column] for row in engaged(label)[-aggregate.length :]]
                for label in labels
                for column in aggregate.columns
            ]
        columns |= zip(aggregate.names(key), values, strict=True)
    assert list(columns) == names
    return columns


def running_mean(rows: list[Row], label: str, until: int) -> float | None:
    known = [row[label] for row in rows if row[label] is not None and row["time"] // HOUR < until // HOUR]
    return sum(known) / len(known) if known else None


def seconds(duration: str) -> int:
    return microseconds(duration) // 1_000_000
