"""The log with its aggregates as more columns: one Parquet file for each of its files, with the rows in their order."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from recap.config.aggregates.spec import AggregatesConfig
from recap.data.aggregate.columns import columns_of
from recap.data.aggregate.events import Events, KeyRows
from recap.data.aggregate.log import Integers, LogRows
from recap.data.aggregate.running import RunningMeans, running_labels
from recap.data.aggregate.shuffle import ColumnsByRow
from recap.data.formats.tables import TableFiles
from recap.data.tools.outputs import output_files
from recap.errors import DataError, InputError
from recap.storage import atomic_write, writing


def value_files(files: TableFiles, spec: AggregatesConfig, output: Path, *, overwrite: bool) -> dict[str, Path]:
    """File of the log → the file to write below `output`.

    Raises InputError for outputs that exist or would replace their input, DataError for a log that has one of the
    columns already.
    """
    for file in files.files_with_rows():
        present = set(files.schema(file).names)
        for name in (name for key in spec.keys for name in spec.names(key)):
            if name in present:
                raise DataError(f"{file}: has a column {name!r} already; rename or remove it, or rename the key")
    outputs = output_files(files.files, output, ".parquet")
    for target in outputs.values():
        if target.exists() and not overwrite:
            raise InputError(f"{target}: already exists; add --overwrite to replace it, or choose another --output")
    return outputs


class ValueWriter:
    """Writes the log with its aggregates."""

    def __init__(
        self, spec: AggregatesConfig, files: TableFiles, outputs: Mapping[str, Path], scratch: Path, together: ExitStack
    ) -> None:
        """`outputs`: those of `value_files`, which appear when `together` closes."""
        self._spec, self._files, self._outputs, self._together = spec, files, outputs, together
        self._running = RunningMeans(running_labels(spec))
        self._added = {key: ColumnsByRow(scratch / f"{key}.arrow") for key in spec.keys}

    def add(self, rows: LogRows) -> None:
        """See rows of the log."""
        self._running.add(rows)

    def take(self, key: str, numbers: Integers, rows: KeyRows) -> None:
        """Compute the columns of a part of a key, whose rows have these numbers; all rows of the log were seen."""
        events = Events(rows)
        columns = columns_of(self._spec, key, events, events.row_codes, rows.times, self._running)
        self._added[key].add(numbers, columns)

    def finish(self) -> None:
        """Write every file, after all parts. Raises DataError for a column that Parquet cannot hold, RunError."""
        for columns in self._added.values():
            columns.read()
        first = 0
        for file, tables in self._files.tables_by_file():
            with writing(self._outputs[file]) as target:
                target.parent.mkdir(parents=True, exist_ok=True)
                temporary = self._together.enter_context(atomic_write(target))
                first += self._write(file, temporary, first, (table for _, table in tables))

    def _write(self, file: str, target: Path, first: int, tables: Iterator[pa.Table]) -> int:
        """Write the rows of a file, of which `first` is the number of the first; return how many there are."""
        rows, schema = 0, self._files.schema(file)
        added = list(self._added.values())
        schema = pa.schema([*schema, *(field for columns in added for field in columns.fields)], schema.metadata)
        try:
            with pq.ParquetWriter(target, schema, compression="zstd") as writer:
                for table in tables:
                    more = [column for by_row in added for column in by_row.take(first + rows, table.num_rows).columns]
                    writer.write_table(pa.table([*table.columns, *more], names=schema.names).cast(schema))
                    rows += table.num_rows
        except pa.ArrowException as error:
            raise DataError(f"{file}: cannot be written as Parquet ({error}); change or remove the column") from None
        return rows
