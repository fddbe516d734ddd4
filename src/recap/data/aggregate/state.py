"""The state of aggregates at a time, from which a server looks up the columns of impressions to come.

A folder with a manifest: `state.json` (the time and the spec), `keys/KEY.parquet` and `running.parquet`. A key holds
the impressions that a later one may still see one by one: those in its longest window, the last ones that lists and
recencies need, and one row with the sums of all others. So lookups are exact at any later time, with what the log held.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Self
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from recap.config.aggregates.spec import (
    ALL,
    AggregatesConfig,
    CountConfig,
    LastConfig,
    RateConfig,
    RecencyConfig,
    SumConfig,
    TimeConfig,
    microseconds,
)
from recap.data.aggregate.columns import columns_of, last_refresh
from recap.data.aggregate.events import SUMMARY, Events, KeyRows
from recap.data.aggregate.log import Integers, Log, LogRows, microseconds_in
from recap.data.aggregate.run import scratch_folder
from recap.data.aggregate.running import RunningMeans, running_labels
from recap.data.aggregate.shuffle import Shuffle
from recap.data.encoding.hashing import ids_of
from recap.data.encoding.kinds import decoded
from recap.data.formats.location import Location
from recap.data.formats.tables import TableFiles
from recap.data.tools.outputs import check_folder
from recap.data.tools.split import parse_time
from recap.data.tools.times import shown
from recap.errors import CheckpointError, DataError, InputError
from recap.storage import atomic_directory, check_format, verify, writing
from recap.text import suggest

_STATE, _RUNNING = "state.json", "running.parquet"


def write_state(
    spec: AggregatesConfig,
    inputs: Sequence[str],
    folder: Path,
    at: int | None = None,
    schema_path: str | None = None,
    *,
    overwrite: bool = False,
    after_rows: Callable[[int], None] = lambda rows: None,
) -> tuple[int, dict[str, int]]:
    """Write the state of the log at `at` (microseconds; default: after its last row); return `at` and key → rows.

    Rows at or after `at` are left out. Raises DataError for a log that cannot be read or has no row before `at`,
    InputError for a folder that exists, RunError if it cannot be written.
    """
    try:
        check_folder(folder)
    except InputError as error:
        raise InputError(str(error).replace("--output", "--state")) from None
    if folder.exists() and not (overwrite and (folder / _STATE).is_file()):
        advice = "add --overwrite to replace it" if (folder / _STATE).is_file() else "it is not a state"
        raise InputError(f"--state: {folder} already exists; {advice}, or choose another folder")
    files = TableFiles.open(inputs, schema_path)
    log, running = Log(files, spec), RunningMeans(running_labels(spec))
    last = SUMMARY

    def add(rows: LogRows) -> LogRows:
        nonlocal last
        earlier = rows if at is None else rows.before(at)
        last = max(last, int(earlier.times.max(initial=SUMMARY)))
        running.add(earlier)
        return earlier

    with scratch_folder(folder) as scratch:
        shuffle = Shuffle(log, spec, scratch)
        shuffle.fill(log, add, after_rows)
        if last == SUMMARY:
            raise DataError(f"{files.files[0]}: the log holds no row before {shown(at or 0)}; choose a later --at")
        at = last + 1 if at is None else at
        with atomic_directory(folder) as temporary, writing(temporary):
            rows = {key: _write_key(spec, key, shuffle, at, temporary / "keys" / f"{key}.parquet") for key in spec.keys}
            pq.write_table(running.to_table(), temporary / _RUNNING)
            content = {"at": at, "spec": spec.model_dump(mode="json")}
            (temporary / _STATE).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return at, rows


def _write_key(spec: AggregatesConfig, key: str, shuffle: Shuffle, at: int, file: Path) -> int:
    """Write the rows of a key, part by part; return how many there are."""
    file.parent.mkdir(exist_ok=True)
    written = 0
    writer: pq.ParquetWriter | None = None
    for part in range(shuffle.parts[key]):
        _, rows = shuffle.take(key, part)
        table = _to_table(spec, key, compact(spec, key, rows, at))
        writer = writer or pq.ParquetWriter(file, table.schema, compression="zstd")
        writer.write_table(table)
        written += table.num_rows
    assert writer is not None, "a key has at least one part"
    writer.close()
    return written


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
    codes, size = events.row_codes, events.index.size
    first = events.order[events.first(np.arange(size))]
    return KeyRows(
        [part[first] for part in rows.parts],
        np.full(size, SUMMARY),
        np.bincount(codes, rows.shown).astype(np.int64),
        {name: np.bincount(codes, values).astype(np.float64) for name, values in rows.sums.items()},
        {name: np.bincount(codes, numbers).astype(np.int64) for name, numbers in rows.known.items()},
        {name: pa.nulls(size, values.type) for name, values in rows.items.items()},
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


def _from_table(spec: AggregatesConfig, key: str, table: pa.Table) -> KeyRows:
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


def parse_at(text: str, spec: AggregatesConfig) -> int:
    """The time of `--at` in microseconds. Raises InputError."""
    if text.isascii() and text.isdigit() and spec.time.unit is not None:
        return int(microseconds_in(pa.chunked_array([[int(text)]]), spec.time)[0])
    return parse_time(text, ZoneInfo("UTC"), "--at")


class State:
    """What a log says about impressions at a time or later."""

    def __init__(self, spec: AggregatesConfig, at: int, events: Mapping[str, Events], running: RunningMeans) -> None:
        self.spec, self.at = spec, at
        """`at`: microseconds since 1970; impressions before it cannot be looked up."""
        self._events, self._running = dict(events), running

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """Read a state into memory. Raises CheckpointError if it is missing or damaged."""
        path = Path(folder)
        if not (path / _STATE).is_file():
            raise CheckpointError(f"{path}: not a state, which `recap data aggregate --state` writes")
        manifest = verify(path, _STATE, _RUNNING)
        check_format(path, manifest)
        try:
            content = json.loads((path / _STATE).read_text(encoding="utf-8"))
            spec = AggregatesConfig.model_validate(content["spec"])
            names = {key: f"keys/{key}.parquet" for key in spec.keys}
            tables = {key: pq.read_table(path / name) for key, name in names.items() if manifest.files[name]}
            events = {key: Events(_from_table(spec, key, table)) for key, table in tables.items()}
            running = RunningMeans.from_table(running_labels(spec), pq.read_table(path / _RUNNING))
            return cls(spec, int(content["at"]), events, running)
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowException, ValidationError) as error:
            raise CheckpointError(f"{path}: damaged ({error}); write the state again") from None

    def columns(self, values: Mapping[str, Any], at: Any) -> dict[str, pa.Array]:
        """The columns of Q impressions, as `recap data aggregate` writes them; null where a part of a key is null.

        `values`: column of a key → [Q] its values, or one for all. Keys of which a column is absent are left out. `at`:
        [Q] times, or one for all: datetimes, or numbers as in the log. Raises InputError for times before that of the
        state, for unknown columns, and for columns of unequal lengths; DataError for values that are no ids.
        """
        lengths = {name: len(column) for name, column in values.items() if not _is_one(column)}
        count = next(iter(lengths.values()), 1)
        known = list(dict.fromkeys(name for names in self.spec.keys.values() for name in names))
        for name in values:
            if name not in known:
                raise InputError(f"values: {name!r} is in no key. {suggest(name, known)}")
            if lengths.get(name, count) != count:
                raise InputError(f"values: {name!r} holds {lengths[name]} values, another column {count}")
        keys = [key for key, names in self.spec.keys.items() if set(names) <= values.keys()]
        if not keys:
            raise InputError(f"values: holds no complete key; give all columns of one of {dict(self.spec.keys)}")
        times = self._times(at, count)
        given = {name: values[name] if name in lengths else [values[name]] * count for name in values}
        ids = {name: ids_of(_array(column), name, Location("values")) for name, column in given.items()}
        columns: dict[str, pa.Array] = {}
        for key in keys:
            columns |= self._of_key(key, [ids[name] for name in self.spec.keys[key]], times)
        return columns

    def _of_key(self, key: str, parts: Sequence[Any], times: Integers) -> dict[str, pa.Array]:
        events = self._events[key]
        codes = events.index.codes([ids for ids, _ in parts])
        columns = columns_of(self.spec, key, events, codes, times, self._running)
        missing = np.logical_or.reduce([np.zeros(len(times), bool) if mask is None else mask for _, mask in parts])
        if not missing.any():
            return columns
        rows = pa.array(np.arange(len(times)), mask=missing)
        return {name: column.take(rows) for name, column in columns.items()}

    def _times(self, at: Any, count: int) -> Integers:
        given = [at] * count if _is_one(at) else list(at)
        if len(given) != count:
            raise InputError(f"at: holds {len(given)} times for {count} impressions; give one time, or one for each")
        unit = None if given and isinstance(given[0], datetime | str) else self.spec.time.unit
        try:
            times = microseconds_in(pa.chunked_array([_array(given)]), TimeConfig(column="at", unit=unit))
        except DataError as error:
            raise InputError(f"at: {error}") from None
        if len(times) and times.min() < self.at:
            raise InputError(
                f"at: {shown(int(times.min()))} is before the state, which is of {shown(self.at)}; "
                "give that time or a later one"
            )
        return times


def _is_one(value: Any) -> bool:
    """Whether it is one value, not a list or an array of them."""
    return isinstance(value, str | bytes) or not hasattr(value, "__len__") or getattr(value, "shape", None) == ()


def _array(values: Sequence[Any]) -> pa.Array:
    try:
        return decoded(values if isinstance(values, pa.Array) else pa.array(values, from_pandas=True))
    except (pa.ArrowException, ValueError, TypeError) as error:
        raise InputError(f"values: {error}; give a list of one type") from None
