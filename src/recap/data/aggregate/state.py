"""The state of aggregates at a time, from which a server looks up the columns of impressions to come.

A folder with a manifest: `state.json` (the time and the spec), `keys/KEY.parquet` and `running.parquet`. A key holds
the impressions that a later one may still see one by one: those in its longest window, the last ones that lists and
recencies need, and one row with the sums of all others. So lookups are exact at any later time, with what the log held.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from recap.config.aggregates.spec import AggregatesConfig, TimeConfig
from recap.data.aggregate.columns import columns_of
from recap.data.aggregate.events import Events
from recap.data.aggregate.log import Integers, microseconds_in
from recap.data.aggregate.running import RunningMeans, running_labels
from recap.data.aggregate.state_writer import RUNNING, STATE, from_table, key_file
from recap.data.encoding.hashing import ids_of
from recap.data.encoding.kinds import decoded, is_number
from recap.data.formats.location import Location
from recap.data.tools.split import parse_time
from recap.data.tools.times import shown
from recap.errors import CheckpointError, DataError, InputError
from recap.storage import check_format, verify
from recap.text import suggest


def parse_at(text: str, spec: AggregatesConfig) -> int:
    """The time of `--at` in microseconds: a number as in the log, or a date or time in UTC. Raises InputError."""
    if spec.time.unit is None or not re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", text):
        return parse_time(text, ZoneInfo("UTC"), "--at")
    try:
        return int(microseconds_in(pa.chunked_array([[text]]), spec.time)[0])
    except DataError as error:
        raise InputError(f"--at: {error}") from None


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
        if not (path / STATE).is_file():
            raise CheckpointError(f"{path}: not a state, which `recap data aggregate --state` writes")
        manifest = verify(path, STATE, RUNNING)
        check_format(path, manifest)
        try:
            content = json.loads((path / STATE).read_text(encoding="utf-8"))
            spec = AggregatesConfig.model_validate(content["spec"])
            names = {key: key_file(key) for key in spec.keys}
            tables = {key: pq.read_table(path / name) for key, name in names.items() if manifest.files[name]}
            events = {key: Events(from_table(spec, key, table)) for key, table in tables.items()}
            running = RunningMeans.from_table(running_labels(spec), pq.read_table(path / RUNNING))
            return cls(spec, int(content["at"]), events, running)
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowException, ValidationError) as error:
            raise CheckpointError(f"{path}: damaged ({error}); write the state again") from None

    def columns(self, values: Mapping[str, Any], at: Any) -> dict[str, pa.Array]:
        """The columns of Q impressions, as `recap data aggregate` writes them; null where a part of a key is null.

        `values`: column of a key → [Q] its values, or one for all. Keys of which a column is absent are left out. `at`:
        [Q] times, or one for all: dates, datetimes, or numbers as in the log. Raises InputError for times before that
        of the state, for unknown columns, and for columns of unequal lengths; DataError for values that are no ids.
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
        given = {name: values[name] if name in lengths else _repeated(values[name], count) for name in values}
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
        given = _repeated(at, count) if _is_one(at) else at
        if len(given) != count:
            raise InputError(f"at: holds {len(given)} times for {count} impressions; give one time, or one for each")
        asked = _array(given)
        unit = self.spec.time.unit if is_number(asked.type) else None
        try:
            times = microseconds_in(pa.chunked_array([asked]), TimeConfig(column="at", unit=unit))
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


def _repeated(value: Any, count: int) -> Any:
    """One value for all, which may be one of NumPy."""
    return np.full(count, value) if hasattr(value, "shape") else [value] * count


def _array(values: Sequence[Any]) -> pa.Array:
    try:
        return decoded(values if isinstance(values, pa.Array) else pa.array(values, from_pandas=True))
    except (pa.ArrowException, ValueError, TypeError) as error:
        raise InputError(f"values: {error}; give a list of one type") from None
