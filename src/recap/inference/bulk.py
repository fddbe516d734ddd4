"""`BulkScorer`: files of any format → tables of predictions, file by file, in constant memory.

Chunks are read and encoded ahead in threads while the model scores; `BackgroundWriter` writes in another.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from itertools import chain
from types import TracebackType
from typing import Literal, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from recap.config.checks.common import SCORE
from recap.config.data import SourceConfig, TfRecordConfig
from recap.config.features import CarriedColumn
from recap.data.coverage import Coverage
from recap.data.encoding.columns import carried_values, empty_table, source_column
from recap.data.encoding.kinds import decoded
from recap.data.formats.files import LISTERS, find_files, stamp
from recap.data.formats.format import Chunk
from recap.data.formats.location import Location
from recap.data.formats.open import guess_source
from recap.data.formats.tables import TableFiles, map_ahead
from recap.data.formats.writers import StreamKind, Writer, open_stream_writer
from recap.errors import DataError
from recap.inference.chunks import ChunkReader, EncodedChunk, predictions_table
from recap.inference.predictor import Predictor
from recap.inference.record import Unscored

OutputKind = Literal["parquet"] | StreamKind
KINDS: dict[str, OutputKind] = {"parquet": "parquet", "arrow": "arrow", "csv": "csv", "jsonl": "jsonl"}
"""The formats of predictions, by name."""
_THREADS = 2
_CHUNKS_AHEAD = 2
"""Encoded chunks in memory besides the one that is scored."""
_TABLES_BEHIND = 2
"""Tables of predictions that wait to be written."""

Result = TypeVar("Result")
Scored = tuple[pa.Table, list[Unscored]]
"""The predictions for a chunk, and its rows with null predictions."""


@dataclass(frozen=True)
class BulkOptions:
    """How inputs are read, and predictions written."""

    kind: OutputKind = "parquet"
    """The format of the predictions."""
    schema_path: str | None = None
    """The JSON file that lists the columns of TFRecord files; default: that of the training data."""
    null_values: tuple[str, ...] = ()
    """Texts that mean null in CSV, besides those of the training data."""
    lists_bad: bool = False
    """Whether what cannot be scored is listed, as `Unscored`, instead of raised."""


class Progress:
    """Shows the progress of a bulk prediction. This class shows nothing; override the methods you need."""

    def start(self, files: int, rows: int) -> None:
        """`files` with `rows` in all will be predicted."""

    def advance(self, rows: int) -> None:
        """Some rows were predicted."""

    def finish_file(self) -> None:
        """A file was finished, or given up."""


class BulkScorer:
    """The inputs of a bulk prediction, and what scores them."""

    def __init__(self, predictor: Predictor, inputs: Sequence[str], options: BulkOptions) -> None:
        """Find the files that globs match, each of the format that its extension says. Raises DataError, InputError."""
        self.predictor, self.kind, self.lists_bad = predictor, options.kind, options.lists_bad
        self.inputs = find_files(inputs)
        self.stamps: dict[str, tuple[int, int]] = {}
        """Modification time (ns) and size (bytes) of the readable inputs."""
        self.unreadable: list[Unscored] = []
        self.coverage = Coverage(predictor.encoder)
        source = predictor.config.train_data.source
        schema_path = options.schema_path
        if schema_path is None and isinstance(source, TfRecordConfig):
            schema_path = source.schema_path

        def look(file: str) -> tuple[tuple[int, int], SourceConfig]:
            return stamp(file), guess_source(file, inputs, schema_path, source, options.null_values)

        looks = self._for_each(self.inputs, look)
        self.stamps = {file: file_stamp for file, (file_stamp, _) in looks.items()}
        sources = {file: config for file, (_, config) in looks.items()}
        self.files = TableFiles(sources, predictor.encoder.types, allow_torn=self.lists_bad)

    def check(self, files: Sequence[str]) -> list[str]:
        """List the chunks of `files` and check their columns; return those that can be read. Raises DataError."""
        return list(self._for_each(files, self._check))

    def rows(self, files: Sequence[str]) -> int:
        """The rows of `files`, which were checked."""
        return sum(chunk.rows for file in files for chunk in self.files.chunks_of(file))

    def schema(self, file: str) -> pa.Schema:
        """The columns of the predictions for a file: those carried, the tasks, and the score.

        Raises DataError for a column that the format cannot store.
        """
        columns, carried = self.files.schema(file), self.carried(file)
        empty = empty_table({name: columns.field(name).type for name in map(source_column, carried)})
        fields: list[pa.Field] = []
        for column in carried:
            values = carried_values(empty, column, Location(file))
            if self.kind != "parquet":  # has readers of every type; those of the others are fewer
                values = decoded(pa.nulls(0, values.type))
            fields.append(pa.field(column.name, values.type))
            self._check_field(fields[-1], column, file)
        fields += [pa.field(task, pa.float32()) for task in self.predictor.config.tasks]
        return pa.schema([*fields, pa.field(SCORE, pa.float64())])

    def carried(self, file: str) -> list[CarriedColumn]:
        """The columns copied from a file: `features.ids`, and `user` and `timestamp` if the file has them."""
        names = self.files.schema(file).names
        return [column for column in self.predictor.config.features.carried if source_column(column) in names]

    def scored(self, files: Sequence[str]) -> Iterator[tuple[str, Iterator[Scored]]]:
        """Each of `files`, which were checked, with its predictions chunk by chunk.

        Consume the tables of a file before asking for the next file. Raises DataError.
        """
        carried = {file: self.carried(file) for file in files}
        reader = ChunkReader(self.files, self.predictor.encoder, carried, lists_bad=self.lists_bad)

        def read(chunk: Chunk | None) -> EncodedChunk | None:
            return None if chunk is None else reader.read(chunk)

        pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="recap-reader")
        try:
            chunks = chain.from_iterable([*self.files.chunks_of(file), None] for file in files)
            reads = map_ahead(pool, read, chunks, _CHUNKS_AHEAD)
            for file in files:
                yield file, self._tables(file, reads)
        finally:
            pool.shutdown(cancel_futures=True)

    def _tables(self, file: str, reads: Iterator[EncodedChunk | None]) -> Iterator[Scored]:
        schema, tasks = self.schema(file), self.predictor.config.tasks
        for encoded in iter(lambda: next(reads), None):
            predictions = self.predictor.score(encoded.batch)
            if len(encoded.batch):
                self.coverage.add(encoded.batch, encoded.table)
            table = predictions_table(encoded, predictions, tasks, schema, lists_bad=self.lists_bad)
            yield table, [encoded.unscored[row] for row in sorted(encoded.unscored)]
        if self.lists_bad and self.files.chunks_of(file):
            torn = self.files.format_of(file).torn_end(file)
            if torn is not None:
                end = self.files.chunks_of(file)[-1]
                self.unreadable.append(Unscored.of(file, end.first_row + end.rows, torn, "from here on: "))

    def _for_each(self, files: Sequence[str], function: Callable[[str], Result]) -> dict[str, Result]:
        """File → result, computed in threads; a DataError is raised in order, or its file listed as unreadable."""

        def attempt(file: str) -> Result | DataError:
            try:
                return function(file)
            except DataError as error:
                return error

        results: dict[str, Result] = {}
        pool = ThreadPoolExecutor(LISTERS, thread_name_prefix="recap-lister")
        try:
            for file, result in zip(files, pool.map(attempt, files), strict=True):
                if not isinstance(result, DataError):
                    results[file] = result
                elif self.lists_bad:
                    self.unreadable.append(Unscored.of(file, None, result))
                else:
                    raise result
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        return results

    def _check(self, file: str) -> None:
        schema = self.files.schema(file)
        self.predictor.encoder.check(schema, file)
        carried = self.carried(file)
        for column in self.predictor.config.features.ids:
            if column not in carried:
                text = "is missing, but predictions carry features.ids; add it, or leave it out with "
                raise Location(file).error(source_column(column), f"{text}--set features.ids=[…]")
        self.schema(file)

    def _check_field(self, field: pa.Field, column: CarriedColumn, file: str) -> None:
        """Raise DataError for a column that the format of the predictions cannot hold."""
        try:
            if self.kind == "parquet":
                pq.ParquetWriter(pa.BufferOutputStream(), pa.schema([field])).close()
            else:
                open_stream_writer(self.kind, BytesIO(), pa.schema([field])).close()
        except (pa.ArrowNotImplementedError, DataError):
            name = {"parquet": "Parquet", "csv": "CSV", "arrow": "Arrow", "jsonl": "JSON lines"}[self.kind]
            text = f"holds {field.type}, which {name} cannot store; leave it out with --set features.ids=[…]"
            raise Location(file).error(source_column(column), text) from None


class BackgroundWriter(Writer):
    """Writes tables in a thread, in order, with at most `_TABLES_BEHIND` waiting."""

    def __init__(self, writer: Writer, file: str, kind: OutputKind) -> None:
        """`file`: the input, and `kind` the format, for errors."""
        self._writer, self._file, self._kind = writer, file, kind
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="recap-writer")
        self._futures: deque[Future[None]] = deque()

    def write(self, table: pa.Table) -> None:
        """Queue a table. Raises what a write before has raised: OSError, and DataError that names the input."""
        if len(self._futures) >= _TABLES_BEHIND:
            self._futures.popleft().result()
        self._futures.append(self._pool.submit(self._write, table))

    def _write(self, table: pa.Table) -> None:
        try:
            self._writer.write(table)
        except DataError as error:
            raise DataError(f"{self._file}: {error}", reason=str(error)) from None
        except (pa.ArrowException, UnicodeDecodeError, OverflowError) as error:
            reason = f"cannot be written as {self._kind} ({error})"
            raise DataError(f"{self._file}: {reason}", reason=reason) from None

    def close(self) -> None:
        """Finish the file. Raises as `write`."""
        while self._futures:
            self._futures.popleft().result()
        self._pool.shutdown()
        self._writer.close()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is None:
            try:
                self.close()
            except BaseException:
                self._abandon()
                raise
        else:
            self._abandon()

    def _abandon(self) -> None:
        self._pool.shutdown(cancel_futures=True)
        with suppress(OSError, pa.ArrowException):
            self._writer.close()
