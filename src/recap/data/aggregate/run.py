"""`recap data aggregate SPEC LOG... --output DIR`: the log with its aggregates as more columns, in the same order."""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from recap.config.aggregates.spec import AggregatesConfig
from recap.data.aggregate.columns import columns_of
from recap.data.aggregate.events import Events
from recap.data.aggregate.log import Integers, Log, LogRows
from recap.data.aggregate.running import RunningMeans, running_labels
from recap.data.aggregate.shuffle import ColumnsByRow, Shuffle
from recap.data.formats.tables import TableFiles
from recap.data.tools.outputs import output_files
from recap.errors import DataError, InputError
from recap.storage import atomic_write, writing


def aggregate_files(
    spec: AggregatesConfig,
    inputs: Sequence[str],
    output: Path,
    schema_path: str | None = None,
    *,
    overwrite: bool = False,
    after_rows: Callable[[int], None] = lambda rows: None,
) -> list[Path]:
    """Write each file of the log below `output` as Parquet, with the columns of `spec` added; return the files.

    Rows keep their order, and files their path below their common folder. The files appear together, when all are
    written. Raises DataError for a log that cannot be read or lacks columns, InputError for outputs that exist or
    would replace their input, RunError if a file cannot be written.
    """
    files = TableFiles.open(inputs, schema_path)
    log = Log(files, spec)
    _check_names(files, spec)
    outputs = output_files(files.files, output, ".parquet")
    for target in outputs.values():
        if target.exists() and not overwrite:
            raise InputError(f"{target}: already exists; add --overwrite to replace it, or choose another --output")
    with scratch_folder(output) as scratch:
        running = RunningMeans(running_labels(spec))

        def add(rows: LogRows) -> LogRows:
            running.add(rows)
            return rows

        shuffle = Shuffle(log, spec, scratch)
        shuffle.fill(log, add, after_rows)
        added = {key: ColumnsByRow(scratch / f"{key}.arrow") for key in spec.keys}
        for key, columns in added.items():
            columns.write(_columns_by_part(spec, key, shuffle, running), spec.names(key))
            columns.read()
        _write(files, outputs, list(added.values()))
    return list(outputs.values())


@contextmanager
def scratch_folder(target: Path) -> Iterator[Path]:
    """A folder beside `target`, on the same disk, which is deleted at the end; one of a killed command is replaced.

    Raises RunError if it cannot be written.
    """
    folder = target.absolute().parent / f".{target.absolute().name}.shuffle"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        with writing(folder):
            folder.mkdir(parents=True)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _check_names(files: TableFiles, spec: AggregatesConfig) -> None:
    for file in files.files_with_rows():
        present = set(files.schema(file).names)
        for name in (name for key in spec.keys for name in spec.names(key)):
            if name in present:
                raise DataError(f"{file}: has a column {name!r} already; rename or remove it, or rename the key")


def _columns_by_part(
    spec: AggregatesConfig, key: str, shuffle: Shuffle, running: RunningMeans
) -> Iterator[tuple[Integers, Mapping[str, pa.Array]]]:
    for part in range(shuffle.parts[key]):
        numbers, rows = shuffle.take(key, part)
        events = Events(rows)
        yield numbers, columns_of(spec, key, events, events.row_codes, rows.times, running)


def _write(files: TableFiles, outputs: Mapping[str, Path], added: Sequence[ColumnsByRow]) -> None:
    """Write every file with the columns `added`."""
    first = 0
    with ExitStack() as all_files:
        for file, tables in files.tables_by_file():
            with writing(outputs[file]) as target:
                target.parent.mkdir(parents=True, exist_ok=True)
                temporary = all_files.enter_context(atomic_write(target))
                first += _write_file(file, temporary, first, files.schema(file), (table for _, table in tables), added)


def _write_file(
    file: str,
    target: Path,
    first: int,
    schema: pa.Schema,
    tables: Iterator[pa.Table],
    added: Sequence[ColumnsByRow],
) -> int:
    """Write the rows of a file, of which `first` is the number of the first; return how many there are."""
    rows = 0
    schema = pa.schema([*schema, *(field for columns in added for field in columns.fields)], schema.metadata)
    try:
        with pq.ParquetWriter(target, schema, compression="zstd") as writer:
            for table in tables:
                more = [column for columns in added for column in columns.take(first + rows, table.num_rows).columns]
                writer.write_table(pa.table([*table.columns, *more], names=schema.names).cast(schema))
                rows += table.num_rows
    except pa.ArrowException as error:
        raise DataError(f"{file}: cannot be written as Parquet ({error}); change or remove the column") from None
    return rows
