"""Chunks of files → batches, read ahead in threads, and their predictions → tables with a row for each row read.

Rows that cannot be read or encoded, and predictions that are not finite, are an error; or they are listed, and the
table has null predictions there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from recap.config.checks.common import SCORE
from recap.config.features import CarriedColumn
from recap.data.batch import Batch
from recap.data.encoding.columns import as_one_array, carried_values, source_column
from recap.data.encoding.encoder import RowEncoder
from recap.data.encoding.kinds import decoded
from recap.data.formats.format import Chunk, drop_rows, read_chunk
from recap.data.formats.tables import TableFiles
from recap.errors import DataError
from recap.inference.predictor import Predictions
from recap.inference.record import Unscored


@dataclass
class EncodedChunk:
    """A chunk of N rows, ready to be scored. Rows count in the chunk."""

    chunk: Chunk
    table: pa.Table
    """The rows that were encoded."""
    batch: Batch
    carried: list[pa.ChunkedArray] = field(default_factory=list)
    """The carried columns of the readable rows."""
    unreadable: list[int] = field(default_factory=list)
    """Rows that the carried columns lack, ascending."""
    unscored: dict[int, Unscored] = field(default_factory=dict)
    """Row → why it cannot be scored; the unreadable ones too."""


class ChunkReader:
    """Reads and encodes chunks; safe to call in several threads."""

    def __init__(
        self, files: TableFiles, encoder: RowEncoder, carried: Mapping[str, Sequence[CarriedColumn]], *, lists_bad: bool
    ) -> None:
        """`carried`: file → the columns that its predictions repeat. `lists_bad`: list bad rows instead of raising."""
        self._files, self._encoder, self._carried, self._lists_bad = files, encoder, carried, lists_bad

    def read(self, chunk: Chunk) -> EncodedChunk:
        """Read a chunk. Raises DataError unless bad rows are listed."""
        encoded = EncodedChunk(chunk, pa.table({}), self._encoder.empty())
        table = self._read(encoded)
        while table is not None:
            bad = sorted(encoded.unscored)
            encoded.table = drop_rows(table, _places(bad, encoded.unreadable)) if bad else table
            try:
                encoded.batch = self._encoder.encode(encoded.table, chunk.location(bad))
                break
            except DataError as error:
                self._list(encoded, error)
                if len(encoded.unscored) == chunk.rows:
                    encoded.table, encoded.batch = pa.table({}), self._encoder.empty()
                    break
        return encoded

    def _read(self, encoded: EncodedChunk) -> pa.Table | None:
        """The readable rows, with their carried columns in `encoded`; None if no row can be read."""
        chunk = encoded.chunk
        carried = self._carried[chunk.file]
        columns = list(dict.fromkeys([*self._encoder.columns, *map(source_column, carried)]))
        while True:
            try:
                table = read_chunk(self._files.format_of(chunk.file), chunk, columns, encoded.unreadable)
                location = chunk.location(encoded.unreadable)
                encoded.carried = [carried_values(table, column, location) for column in carried]
                return table
            except DataError as error:
                self._list(encoded, error)
                encoded.unreadable = sorted(encoded.unscored)
                if len(encoded.unreadable) == chunk.rows:
                    encoded.carried = []
                    return None

    def _list(self, encoded: EncodedChunk, error: DataError) -> None:
        """List the bad rows of `error`; all rows, if it does not tell which. Raises it if none are to be listed."""
        if not self._lists_bad:
            raise error
        chunk = encoded.chunk
        rows = [row for row in error.rows if row not in encoded.unscored]
        first = chunk.first_row + (rows[0] if rows else 0)
        for row in rows or range(chunk.rows):
            number = chunk.first_row + row
            before = "" if number == first or not rows else f"as row {first}: "
            encoded.unscored.setdefault(row, Unscored.of(chunk.file, number, error, before))


def predictions_table(
    encoded: EncodedChunk, predictions: Predictions, tasks: Sequence[str], schema: pa.Schema, *, lists_bad: bool
) -> pa.Table:
    """The rows of a chunk in the columns of `schema`: those carried, a column for each task, and the score.

    Adds to `encoded.unscored` the rows whose predictions are not finite; raises DataError instead, unless `lists_bad`.
    """
    chunk = encoded.chunk
    finite = torch.isfinite(predictions.probabilities).all(dim=1) & torch.isfinite(predictions.scores)
    if not finite.all():
        _list_not_finite(encoded, predictions, finite.numpy(), tasks, lists_bad=lists_bad)
    columns = predictions.columns()
    carried: list[pa.Array | pa.ChunkedArray] = list(encoded.carried)
    if encoded.unscored:
        unscored = sorted(encoded.unscored)
        good = finite.nonzero().flatten().numpy()
        columns = [_with_nulls(column.take(pa.array(good)), unscored, chunk.rows) for column in columns]
        fields = list(schema)[: len(schema) - len(columns)]
        carried = [_with_nulls(column, encoded.unreadable, chunk.rows) for column in carried] or [
            pa.nulls(chunk.rows, field.type) for field in fields
        ]
    arrays = [_as_type(column, kind) for column, kind in zip([*carried, *columns], schema.types, strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema)


def _list_not_finite(
    encoded: EncodedChunk,
    predictions: Predictions,
    finite: npt.NDArray[np.bool_],
    tasks: Sequence[str],
    *,
    lists_bad: bool,
) -> None:
    """List the rows whose predictions are not `finite` [rows scored]. Raises DataError for the first one instead."""
    chunk = encoded.chunk
    bad = sorted(encoded.unscored)
    scored = np.delete(np.arange(chunk.rows), bad)
    values = torch.cat([predictions.probabilities.double(), predictions.scores[:, None]], dim=1).numpy()
    for index in np.flatnonzero(~finite):
        column = int(np.flatnonzero(~np.isfinite(values[index]))[0])
        name = [*tasks, SCORE][column]
        reason = f"the prediction of {name} is {values[index][column]}; check the features of this row"
        if not lists_bad:
            raise chunk.location(bad).error(None, reason, [int(index)])
        row = int(scored[index])
        encoded.unscored[row] = Unscored(chunk.file, chunk.first_row + row, None, reason)


def _as_type(column: pa.Array | pa.ChunkedArray, kind: pa.DataType) -> pa.Array | pa.ChunkedArray:
    """A column in the type that is written."""
    if column.type == kind:
        return column
    return decoded(as_one_array(column) if isinstance(column, pa.ChunkedArray) else column).cast(kind)


def _places(rows: Sequence[int], missing: Sequence[int]) -> list[int]:
    """Where `rows` of a chunk are in a table without the rows `missing`, which are left out; all ascending."""
    left = np.setdiff1d(rows, missing)
    return [int(index) for index in left - np.searchsorted(missing, left)]


def _with_nulls(column: pa.Array | pa.ChunkedArray, rows: Sequence[int], count: int) -> pa.ChunkedArray:
    """`column` with nulls inserted, so that they are the `rows` of the `count` rows.

    In pieces, since Arrow cannot take null indices of every type.
    """
    pieces: list[pa.Array] = []
    chunked = column if isinstance(column, pa.ChunkedArray) else pa.chunked_array([column])
    taken, end = 0, 0
    for row in [*rows, count]:
        pieces += [piece for piece in chunked.slice(taken, row - end).chunks if len(piece)]
        taken += row - end
        if row < count:
            pieces.append(pa.nulls(1, column.type))
        end = row + 1
    return pa.chunked_array(pieces, column.type)
