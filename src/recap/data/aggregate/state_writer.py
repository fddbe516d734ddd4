"""Writes the state of aggregates: of each key what a later impression may still see, and no more."""

import json
import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recap.config.aggregates.spec import (
    ALL,
    AggregatesConfig,
    CountConfig,
    LastConfig,
    RateConfig,
    RecencyConfig,
    SumConfig,
    microseconds,
)
from recap.data.aggregate.columns import last_refresh
from recap.data.aggregate.events import SUMMARY, Events, KeyRows, added_by
from recap.data.aggregate.log import Integers, LogRows
from recap.data.aggregate.running import RunningMeans, running_labels
from recap.data.tools.outputs import check_folder
from recap.data.tools.times import shown
from recap.errors import DataError, InputError
from recap.storage import atomic_directory, writing

STATE, RUNNING = "state.json", "running.parquet"


def key_file(key: str) -> str:
    """The file of a key in a state."""
    return f"keys/{key}.parquet"


def check_state(folder: Path, output: Path | None, *, overwrite: bool) -> None:
    """Raise InputError unless a state can be written into `folder`, and the log with its aggregates to `output`."""
    check_folder(folder, "--state")
    if folder.exists() and not (overwrite and (folder / STATE).is_file()):
        advice = "add --overwrite to replace it" if (folder / STATE).is_file() else "it is not a state"
        raise InputError(f"--state: {folder} already exists; {advice}, or choose another folder")
    if output is not None and Path(os.path.realpath(output)).is_relative_to(os.path.realpath(folder)):
        raise InputError(f"--state: {folder} would replace --output {output}; choose another folder")


class StateWriter:
    """Writes the state of a log at a time."""

    def __init__(self, spec: AggregatesConfig, folder: Path, at: int | None, together: ExitStack) -> None:
        """`at`: in microseconds; None: after the last row. The folder appears when `together` closes."""
        self._spec, self._at, self._last = spec, at, SUMMARY
        self._running = RunningMeans(running_labels(spec))
        self._folder = together.enter_context(atomic_directory(folder))
        self._files: dict[str, pq.ParquetWriter] = {}
        self.rows = dict.fromkeys(spec.keys, 0)
        """Key → how many rows were written."""
        with writing(self._folder / "keys") as keys:
            keys.mkdir()

    @property
    def at(self) -> int:
        """The time of the state, after all rows were seen. Raises DataError if none is before it."""
        if self._last == SUMMARY:
            raise DataError(f"--at: the log holds no row before {shown(self._at or 0)}; choose a later time")
        return self._last + 1 if self._at is None else self._at

    def add(self, rows: LogRows) -> None:
        """See rows of the log."""
        earlier = rows if self._at is None else rows.before(self._at)
        self._last = max(self._last, int(earlier.times.max(initial=SUMMARY)))
        self._running.add(earlier)

    def take(self, key: str, numbers: Integers, rows: KeyRows) -> None:
        """Write what is needed of a part of a key. Raises DataError if the log has no row before the state."""
        earlier = rows.take(np.flatnonzero(rows.times < self.at))
        table = _to_table(self._spec, key, compact(self._spec, key, earlier, self.at))
        with writing(self._folder / key_file(key)) as file:
            if key not in self._files:
                self._files[key] = pq.ParquetWriter(file, table.schema, compression="zstd")
            self._files[key].write_table(table)
        self.rows[key] += table.num_rows

    def finish(self) -> None:
        """Write the rest, after all parts. Raises RunError."""
        content = {"at": self.at, "spec": self._spec.model_dump(mode="json")}
        with writing(self._folder):
            for file in self._files.values():
                file.close()
            pq.write_table(self._running.to_table(), self._folder / RUNNING)
            (self._folder / STATE).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def compact(spec: AggregatesConfig, key: str, rows: KeyRows, at: int) -> KeyRows:
    """What impressions at `at` or later need of `rows`, all of which are earlier."""
    aggregates = spec.of(key)
    windows = [
        window
        for aggregate in aggregates
        if isinstance(aggregate, CountConfig | SumConfig | RateConfig)
        for window in aggregate.windows
    ]
    longest = max((microseconds(window) for window in windows if window != ALL), default=0)
    seen = int(last_refresh(spec, np.array([at]))[0]) - microseconds(spec.delay)
    events = Events(rows)
    needed = events.times >= seen - longest
    for aggregate in aggregates:
        if isinstance(aggregate, RecencyConfig | LastConfig):
            length = aggregate.length if isinstance(aggregate, LastConfig) else 1
            for label in aggregate.engagements:
                _add_last(events, label, length, seen, needed)
    listed = rows.take(np.sort(events.order[needed]))
    others = rows.take(events.order[~needed])
    return _joined(_summary(others), listed) if ALL in windows and len(others.times) else listed


def _add_last(events: Events, label: str | None, length: int, seen: int, needed: np.ndarray) -> None:
    """Mark the last `length` engagements of each key that every later impression sees; later ones are marked."""
    engagements = events.engagements(label)
    codes = np.arange(events.index.size)
    ends = events.first_at_or_after(codes, np.array([seen]), np.zeros_like(codes))
    first, end = engagements.last(events.first(codes), ends, length)
    marks = np.zeros(len(engagements.events) + 1, np.int64)
    np.add.at(marks, first, 1)
    np.add.at(marks, end, -1)
    needed[engagements.events[np.cumsum(marks[:-1]) > 0]] = True


def _summary(rows: KeyRows) -> KeyRows:
    """One row for each key."""
    events = Events(rows)
    codes = np.arange(events.index.size)
    all_of_key = events.first(codes), events.first(codes + 1)
    first = events.order[all_of_key[0]]
    return KeyRows(
        [part[first] for part in rows.parts],
        np.full(len(codes), SUMMARY),
        added_by(events.shown, all_of_key),
        {name: sums.over(all_of_key) for name, sums in events.sums.items()},
        {name: added_by(numbers, all_of_key) for name, numbers in events.known.items()},
        {name: pa.nulls(len(codes), values.type) for name, values in rows.items.items()},
    )


def _joined(one: KeyRows, other: KeyRows) -> KeyRows:
    def join(name: str) -> dict[str, Any]:
        return {key: np.concatenate([values, getattr(other, name)[key]]) for key, values in getattr(one, name).items()}

    return KeyRows(
        [np.concatenate(pair) for pair in zip(one.parts, other.parts, strict=True)],
        np.concatenate([one.times, other.times]),
        np.concatenate([one.shown, other.shown]),
        join("sums"),
        join("known"),
        {name: pa.concat_arrays([values, other.items[name]]) for name, values in one.items.items()},
    )


def _to_table(spec: AggregatesConfig, key: str, rows: KeyRows) -> pa.Table:
    columns: dict[str, pa.Array] = {
        f"id:{name}": pa.array(part) for name, part in zip(spec.keys[key], rows.parts, strict=True)
    }
    columns |= {"time": pa.array(rows.times), "shown": pa.array(rows.shown)}
    columns |= {f"sum:{name}": pa.array(values) for name, values in rows.sums.items()}
    columns |= {f"known:{name}": pa.array(values) for name, values in rows.known.items()}
    return pa.table(columns | {f"item:{name}": values for name, values in rows.items.items()})


def from_table(spec: AggregatesConfig, key: str, table: pa.Table) -> KeyRows:
    """The rows of a key from its table in a state. Raises KeyError for a column that is missing."""
    columns = {name: table.column(name) for name in table.column_names}

    def numbers(prefix: str, names: Sequence[str]) -> dict[str, Any]:
        return {name: columns[f"{prefix}:{name}"].to_numpy() for name in names}

    return KeyRows(
        list(numbers("id", spec.keys[key]).values()),
        columns["time"].to_numpy(),
        columns["shown"].to_numpy(),
        numbers("sum", spec.labels(key)),
        numbers("known", spec.labels(key)),
        {name: columns[f"item:{name}"].combine_chunks() for name in spec.items(key)},
    )
