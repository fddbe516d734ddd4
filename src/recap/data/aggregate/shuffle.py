"""Brings the rows of each key together on disk, part by part, and the columns made of them back into the log's order.

A part holds all rows of some keys, by a hash, and is the unit that is in memory. So a log may be larger than memory,
as long as the rows of a single key are not.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa

from recap.config.aggregates.spec import AggregatesConfig, LastConfig
from recap.data.aggregate.events import KeyRows
from recap.data.aggregate.log import Integers, Log, LogRows
from recap.data.encoding.hashing import hash_ids

PART_ROWS = 1 << 21
"""Rows in memory, about 100 to 400 bytes each."""
_MAX_FILES = 200
"""Files that are written at once, of all keys: systems allow 256 or more."""
_ROW = "row"


class Shuffle:
    """The rows of a log by key and part, in a folder."""

    def __init__(self, log: Log, spec: AggregatesConfig, folder: Path) -> None:
        self._spec, self._folder = spec, folder
        self._schemas = {key: _schema(log, spec, key) for key in spec.keys}
        self.parts = {key: _number_of_parts(log.rows, spec, key) for key in spec.keys}

    def fill(self, log: Log, add: Callable[[LogRows], None], after_rows: Callable[[int], None]) -> None:
        """Write every row of the log to its part of each key. `add` sees the rows first."""
        with ExitStack() as stack:
            writers = {
                (key, part): stack.enter_context(pa.ipc.new_stream(self._file(key, part), schema))
                for key, schema in self._schemas.items()
                for part in range(self.parts[key])
            }
            for rows in log.read(after_rows):
                add(rows)
                for key in self._spec.keys:
                    for part, batch in self._by_part(key, rows):
                        writers[key, part].write_batch(batch)

    def _by_part(self, key: str, rows: LogRows) -> Iterator[tuple[int, pa.RecordBatch]]:
        """The rows whose key is not missing, by part, in their order."""
        columns = [rows.ids[name] for name in self._spec.keys[key]]
        known = np.flatnonzero(~np.logical_or.reduce([missing for _, missing in columns]))
        parts = _parts_of([ids[known] for ids, _ in columns], self.parts[key])
        order = known[np.argsort(parts, kind="stable")]
        labels = [rows.labels[name] for name in self._spec.labels(key)]
        arrays = [
            pa.array(values[order]) for values in (rows.numbers, rows.times, *(ids for ids, _ in columns), *labels)
        ]
        arrays += [rows.items[name].take(pa.array(order)) for name in self._spec.items(key)]
        batch = pa.RecordBatch.from_arrays(arrays, schema=self._schemas[key])
        ends = np.cumsum(np.bincount(parts, minlength=self.parts[key]))
        for part, end in enumerate(ends.tolist()):
            start = int(ends[part - 1]) if part else 0
            if end > start:
                yield part, batch.slice(start, end - start)

    def take(self, key: str, part: int) -> tuple[Integers, KeyRows]:
        """The numbers of the rows of a part, [N] ascending, and the rows; its file is deleted."""
        file = self._file(key, part)
        with pa.ipc.open_stream(file) as reader:
            table = reader.read_all()
        file.unlink()
        names, labels = self._spec.keys[key], self._spec.labels(key)
        columns = [column.to_numpy() for column in table.columns[: 2 + len(names) + len(labels)]]
        values = dict(zip(labels, columns[2 + len(names) :], strict=True))
        items = table.columns[2 + len(names) + len(labels) :]
        return columns[0], KeyRows(
            columns[2 : 2 + len(names)],
            columns[1],
            np.ones(table.num_rows, np.int64),
            {name: np.nan_to_num(numbers) for name, numbers in values.items()},
            {name: (~np.isnan(numbers)).astype(np.int64) for name, numbers in values.items()},
            {name: item.combine_chunks() for name, item in zip(self._spec.items(key), items, strict=True)},
        )

    def _file(self, key: str, part: int) -> Path:
        return self._folder / f"{key}-{part}.arrows"


class ColumnsByRow:
    """The columns of a key, written part by part, and read in the order of the log."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._writer: pa.ipc.RecordBatchFileWriter | None = None

    def add(self, numbers: Integers, columns: Mapping[str, pa.Array]) -> None:
        """Write the columns of a part, with the numbers of its rows, [N] ascending."""
        batch = pa.RecordBatch.from_arrays([pa.array(numbers), *columns.values()], [_ROW, *columns])
        if self._writer is None:
            self._writer = pa.ipc.new_file(self._file, batch.schema)
        self._writer.write_batch(batch)

    def read(self) -> None:
        """Open the file, which stays on disk, after all parts, of which there is at least one."""
        assert self._writer is not None
        self._writer.close()
        reader = pa.ipc.open_file(pa.memory_map(str(self._file)))
        self._batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
        self._schema = reader.schema
        self._numbers = [batch.column(0).to_numpy() for batch in self._batches]
        self._next = [0] * len(self._batches)

    @property
    def fields(self) -> list[pa.Field]:
        """The columns."""
        return list(self._schema)[1:]

    def take(self, first: int, rows: int) -> pa.Table:
        """The columns of the next `rows` rows, of which `first` is the number of the first; null where absent."""
        pieces, numbers = [], [np.empty(0, np.int64)]
        for part, batch in enumerate(self._batches):
            start = self._next[part]
            end = self._next[part] = int(np.searchsorted(self._numbers[part], first + rows))
            if end > start:
                pieces.append(batch.slice(start, end - start))
                numbers.append(self._numbers[part][start:end] - first)
        table = pa.Table.from_batches(pieces, self._schema).drop_columns([_ROW])
        positions = np.full(rows, -1)
        positions[np.concatenate(numbers)] = np.arange(table.num_rows)
        return table.take(pa.array(positions, mask=positions < 0))


def _schema(log: Log, spec: AggregatesConfig, key: str) -> pa.Schema:
    """The columns of a part: without names of the log, which may be equal."""
    kinds = [pa.int64(), pa.int64(), *(pa.int64() for _ in spec.keys[key]), *(pa.float64() for _ in spec.labels(key))]
    kinds += [log.item_types[name] for name in spec.items(key)]
    return pa.schema([(str(index), kind) for index, kind in enumerate(kinds)])


def _number_of_parts(rows: int, spec: AggregatesConfig, key: str) -> int:
    """As many as keep a part in memory: lists make rows longer."""
    lasts = [aggregate for aggregate in spec.of(key) if isinstance(aggregate, LastConfig)]
    values = sum(last.length * len(last.names(key)) for last in lasts)
    part_rows = PART_ROWS // (1 + values // 16)
    return min(-(-rows // max(part_rows, 1)), _MAX_FILES // len(spec.keys)) or 1


def _parts_of(parts: list[Integers], count: int) -> Integers:
    """The part of each key, [rows], by a hash of its ids."""
    mixed = hash_ids(parts[0])
    for part in parts[1:]:
        mixed = hash_ids((mixed ^ hash_ids(part)).view(np.int64))
    return (mixed % np.uint64(count)).astype(np.int64)
