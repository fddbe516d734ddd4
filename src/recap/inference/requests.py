"""`RequestScorer`: scores requests, each a user and candidates; what depends on the user alone is computed once."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import pyarrow as pa

from recap.data.formats.location import Location
from recap.inference.predictor import Predictions, Predictor

_REQUEST = "request"
"""Stands for the file name in errors."""


class EncodedRequest(NamedTuple):
    """A request whose values were checked."""

    table: pa.Table
    rows: int


class RequestScorer:
    """Scores requests exactly as `Predictor` scores the same rows in a file."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor, self.config = predictor, predictor.config

    @classmethod
    def open(cls, folder: Path, overrides: Sequence[str] = ()) -> Self:
        """Open a model directory. Raises CheckpointError and ConfigError, as `Predictor.open`."""
        return cls(Predictor.open(folder, overrides))

    @property
    def schema(self) -> Mapping[str, pa.DataType]:
        """The columns that a request must have, in `user` or `candidates`, each with the type that it is read as.

        Any type that a column of a table may have is accepted.
        """
        types = self.predictor.encoder.types
        return {name: types[name] for name in self.predictor.encoder.columns}

    def encode(self, user: pa.Table, candidates: pa.Table) -> EncodedRequest:
        """Check and encode a request: `user` one row, `candidates` N rows of the other columns. Raises DataError."""
        rows = candidates.num_rows
        first = pa.array(np.zeros(rows, np.int64))
        table = candidates
        for name in user.column_names:
            table = table.append_column(name, user[name].take(first))
        self.predictor.encoder.check(table.schema, _REQUEST)
        return EncodedRequest(table, rows)

    def score(self, requests: Sequence[EncodedRequest]) -> list[Predictions]:
        """The predictions of each request."""
        return [self.predictor.predict(request.table, Location(_REQUEST)) for request in requests]
