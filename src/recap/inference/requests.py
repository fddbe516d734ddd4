"""`RequestScorer`: scores requests, each a user and candidates; what depends on the user alone is computed once."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple, Self

import pyarrow as pa
import torch

from recap.config.training import InferencePrecision
from recap.data.batch import Batch, assemble
from recap.data.encoding.encoder import RowEncoder
from recap.data.formats.location import Location
from recap.inference.history_cache import HistoryCache
from recap.inference.predictor import Predictions, Predictor
from recap.model.inputs.requests import Division, RequestBatch
from recap.model.score_rows import in_lanes, one_thread, row_multiple

_REQUEST = Location("request")
"""Stands for the file in errors."""
_NOTHING = Predictions(torch.empty(0, 0), torch.empty(0))
_MAX_LAYOUTS = 64
"""Layouts that are remembered; clients choose them."""


@dataclass(frozen=True, eq=False)
class _Layout:
    """Which columns requests have in `user` and which in `candidates`, and what reads them."""

    division: Division | None
    """None if no feature is the user's."""
    user_encoder: RowEncoder
    candidate_encoder: RowEncoder
    both: Sequence[str]
    """Columns of the user that features of candidates read too, such as one of the columns of a history."""


class EncodedRequest(NamedTuple):
    """A request whose values were checked: a batch of one user, and one of its candidates."""

    layout: _Layout
    user: Batch
    candidates: Batch
    rows: int


class RequestScorer:
    """Scores requests as `Predictor` scores the same rows in a file; several threads may share one.

    In float32 the scores are the same bit for bit, except with a history of the user whose encoder uses the candidate
    (`din`, `transformer`): its events are encoded once for all candidates, with sums in another order, which changes
    predictions by up to 1e-5 of their value. In every model the scores of a request are the same bit for bit alone,
    beside other requests, and with or without the cache.

        >>> scorer = RequestScorer.open(Path("runs/simulated/checkpoints/step_00003000"))
        >>> user, candidates = pa.table({"language": ["en"]}), pa.table({"age_hours": [2.0, 0.5, 9.0]})
        >>> predictions, = scorer.score([scorer.encode(user, candidates)])
        >>> predictions.scores.shape
        torch.Size([3])
    """

    def __init__(self, predictor: Predictor, cache_bytes: int = 0) -> None:
        """`cache_bytes`: bound of the memory for encoded histories between requests; 0: none are kept."""
        self.predictor, self.config = predictor, predictor.config
        self.cache = HistoryCache(cache_bytes)
        self._layouts: dict[tuple[str, ...], _Layout] = {}

    @classmethod
    def open(
        cls,
        folder: Path,
        overrides: Sequence[str] = (),
        *,
        precision: InferencePrecision = "float32",
        cache_bytes: int = 0,
    ) -> Self:
        """Open a model directory. Raises CheckpointError, ConfigError and InputError, as `Predictor.open`."""
        return cls(Predictor.open(folder, overrides, precision=precision), cache_bytes)

    @cached_property
    def schema(self) -> Mapping[str, pa.DataType]:
        """The columns that a request must have, in `user` or `candidates`, each with the type that it is read as.

        Any type that a column of a table may have is accepted.
        """
        types = self.predictor.encoder.types
        return {name: types[name] for name in self.predictor.encoder.columns}

    def encode(self, user: pa.Table, candidates: pa.Table) -> EncodedRequest:
        """Check and encode a request: `user` one row, `candidates` N rows of the other columns. Raises DataError.

        `user` may have no columns. Other columns than those of `schema` are ignored.
        """
        layout = self._layout(user.schema, candidates.schema)
        if user.num_columns and user.num_rows != 1:
            raise _REQUEST.error(None, f"found {user.num_rows} users, expected 1")
        for name in layout.both:
            candidates = candidates.append_column(name, user.column(name).take(pa.array([0] * candidates.num_rows)))
        return EncodedRequest(
            layout,
            layout.user_encoder.encode(user, _REQUEST),
            layout.candidate_encoder.encode(candidates, _REQUEST),
            candidates.num_rows,
        )

    def score(self, requests: Sequence[EncodedRequest]) -> list[Predictions]:
        """The predictions of each request; those with the same columns of the user share a forward pass."""
        groups: dict[frozenset[str], list[int]] = {}
        for index, request in enumerate(requests):
            division = request.layout.division
            groups.setdefault(frozenset(division.users.features) if division else frozenset(), []).append(index)
        results: list[Predictions] = [_NOTHING] * len(requests)
        for indices in groups.values():
            predictions = self.predictor.score(self._batch([requests[index] for index in indices]))
            start = 0
            for index in indices:
                rows = slice(start, start := start + requests[index].rows)
                results[index] = Predictions(predictions.probabilities[rows], predictions.scores[rows])
        return results

    def _batch(self, requests: Sequence[EncodedRequest]) -> Batch:
        """The candidates of requests with the same division."""
        everything = slice(None)
        candidates = assemble([(request.candidates, everything) for request in requests])
        division, device = requests[0].layout.division, self.predictor.runtime.device
        if division is None:
            return candidates
        users = assemble([(request.user, everything) for request in requests])
        request_of = torch.arange(len(users)).repeat_interleave(torch.tensor([request.rows for request in requests]))
        if not users.vectors and not users.histories:
            return division.joined(users, candidates, request_of)
        codes = users.discrete if len(users) == 1 else users.discrete[request_of]
        inputs = self.predictor.scorer.ranker.inputs
        encode = partial(inputs.encode_users, users, division, row_multiple(device), device, self.cache.recall)
        with one_thread():
            encoded = in_lanes(encode, device)
        # The codes of features of the other side are 0.
        columns = {field.name: getattr(candidates, field.name) for field in fields(Batch)}
        columns["discrete"] = candidates.discrete + codes
        return RequestBatch(**columns, request_of=request_of, users=encoded)

    def _layout(self, user: pa.Schema, candidates: pa.Schema) -> _Layout:
        """The layout of requests with these columns. Raises DataError for missing and repeated columns."""
        key = (*user.names, "", *candidates.names)
        layout = self._layouts.get(key)
        if layout is None:
            layout = self._new_layout(user, candidates)
            if len(self._layouts) >= _MAX_LAYOUTS:
                self._layouts.clear()
            self._layouts[key] = layout
        return layout

    def _new_layout(self, user: pa.Schema, candidates: pa.Schema) -> _Layout:
        encoder, own = self.predictor.encoder, set(user.names)
        encoder.check_columns(pa.schema([*user, *candidates]), _REQUEST.file)
        of_user = [name for name, columns in self._columns.items() if columns and own.issuperset(columns)]
        others = [name for name in self._columns if name not in of_user]
        read = {column for name in others for column in self._columns[name]}
        inputs = self.predictor.scorer.ranker.inputs
        return _Layout(
            inputs.division(of_user) if of_user else None,
            encoder.part(of_user),
            encoder.part(others),
            [name for name in user.names if name in read],
        )

    @cached_property
    def _columns(self) -> Mapping[str, Collection[str]]:
        """Feature → the columns that it reads; none for one that is not read, such as a position."""
        encoder = self.predictor.encoder
        return {name: encoder.part([name]).columns for name in encoder.features.inputs}
