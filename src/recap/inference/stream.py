"""Bulk prediction into one stream, such as a pipe: the predictions for all inputs, in their order."""

from collections.abc import Sequence
from typing import BinaryIO

import pyarrow as pa

from recap.data.formats.writers import open_stream_writer
from recap.errors import DataError, InputError, RunError
from recap.inference.bulk import BackgroundWriter, BulkOptions, BulkScorer, Progress
from recap.inference.files import Predicted
from recap.inference.predictor import Predictor
from recap.inference.record import Unscored
from recap.reporting import Say
from recap.storage import failure

_SHOWN = 20
"""Rows without predictions that are shown; the others are counted."""


def predict_stream(
    predictor: Predictor,
    inputs: Sequence[str],
    stream: BinaryIO,
    options: BulkOptions,
    *,
    progress: Progress | None = None,
    say: Say = lambda text: None,
) -> Predicted:
    """Write what `predict_files` writes into files, one after the other, into `stream`, in any format but Parquet.

    All inputs must have the same of the columns that predictions carry. With `options.lists_bad`, the first rows that
    cannot be scored are shown by `say`. Ends early, without an error, if the reader of the stream goes away. Raises
    DataError, InputError, and RunError if the stream cannot be written.
    """
    kind = options.kind
    if kind == "parquet":
        raise InputError("Parquet cannot be written to a stream; choose arrow, csv or jsonl")
    bulk = BulkScorer(predictor, inputs, options)
    progress, result = progress or Progress(), Predicted()
    files = bulk.check(list(bulk.stamps))
    schema = _schema(bulk, files)
    progress.start(len(files), bulk.rows(files))
    try:
        with BackgroundWriter(open_stream_writer(kind, stream, schema), "standard output", kind) as writer:
            for _, tables in bulk.scored(files):
                for table, bad in tables:
                    _show(bad, result.unscored, say)
                    writer.write(table)
                    result.rows, result.unscored = result.rows + table.num_rows, result.unscored + len(bad)
                    progress.advance(table.num_rows)
                progress.finish_file()
    except BrokenPipeError:  # the reader, such as head, wants no more rows
        pass
    except OSError as error:
        raise RunError(f"standard output cannot be written ({failure(error)})") from None
    _show(bulk.unreadable, 0, say)
    failed = {bad.file for bad in bulk.unreadable}
    result.failed = [file for file in bulk.inputs if file in failed]
    return result


def _schema(bulk: BulkScorer, files: Sequence[str]) -> pa.Schema:
    """The columns of the predictions for all `files`. Raises DataError if they differ."""
    if not files:
        raise DataError(f"no input can be read: {bulk.unreadable[0].file}: {bulk.unreadable[0].reason}")
    schemas = {file: bulk.schema(file) for file in files}
    first, schema = next(iter(schemas.items()))
    for file, other in schemas.items():
        if other != schema:
            raise DataError(
                f"{file}: its predictions have the columns {_columns(other)}, those of {first} {_columns(schema)}; one "
                "stream holds one set of columns, so predict them one by one, or write files with --output DIR"
            )
    return schema


def _columns(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} ({field.type})" for field in schema)


def _show(bad: Sequence[Unscored], before: int, say: Say) -> None:
    """Show the first rows and files that were not scored; `before` were shown or counted."""
    for item in bad[: max(0, _SHOWN - before)]:
        location = ", ".join(
            part
            for part in (
                f"column {item.column!r}" if item.column is not None else "",
                f"row {item.row}" if item.row is not None else "",
            )
            if part
        )
        say(": ".join(filter(None, (item.file, location, item.reason))))
