"""One evaluation by several ranks: each reads and scores other rows; rank 0 sees all of them as one process would.

A row has the same scores on every rank (`score_rows`), and rank 0 shows the rows to its observers in the order and in
the batches of one process, so that every sum adds the same numbers in the same order: results are equal bit for bit.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor

from recap.data.batch import Batch, Selection, assemble, slice_selections
from recap.data.stream.batch_stream import BatchStream
from recap.data.stream.parts import plan_parts, read_parts
from recap.data.stream.source import BadData
from recap.distributed import Ranks
from recap.evaluation.evaluate import evaluate, evaluation_mode
from recap.evaluation.observers.observer import Observer
from recap.model.score_rows import score_rows
from recap.model.scorer import Scorer, Scores

_BAD_DATA = "bad_data"
"""The column that holds the bad data of a part, JSON."""
_FEATURES = ("continuous", "binary", "discrete", "times")
_ROWS = ("labels", "weights", "user", "lists")
_SCORES = ("probabilities", "calibrated_probabilities", "score")
Columns = Mapping[str, Tensor]
"""Name → [N, …]: fields of `Batch` and of `Scores`."""


def evaluate_over_ranks(
    scorer: Scorer,
    stream: BatchStream,
    ranks: Ranks,
    own: Sequence[Observer],
    first: Sequence[Observer],
    max_batches: int | None = None,
    *,
    features: bool,
) -> None:
    """As `evaluate`, of which every rank of `ranks` does a share; `stream` is that of one process, on every rank.

    `own`: observers of each rank, which see the rows that it scores; their results must not depend on the order of
    rows. `first`: observers of rank 0, which see all rows, on the CPU, without logits, vectors and histories. They see
    the other features only with `features`, which are many bytes to send.
    """
    if not ranks.is_distributed:
        evaluate(scorer, stream, [*own, *first], max_batches)
        return
    total = stream.order.rows
    wanted = total if max_batches is None else min(max_batches * stream.batch_rows, total)
    batches = _Batches(stream.batch_rows, first)
    stream.skip_bad_data(stream.source.bad_data)
    begin, missing = 0, wanted
    with evaluation_mode(scorer), torch.inference_mode():
        while missing and begin < total:
            end = min(begin + missing, total)
            parts = [parts[ranks.rank] for parts in plan_parts(stream.order.chunk_rows, begin, end, ranks.world_size)]
            for columns in _in_order(_scored(scorer, stream, parts, own, features=features), ranks):
                stream.skip_bad_data([BadData(*bad) for bad in json.loads(bytes(columns[_BAD_DATA].tolist()))])
                batches.add({name: column for name, column in columns.items() if name != _BAD_DATA})
            begin = end
            # Rows that were bad are made up for, as long as there are others.
            missing = ranks.broadcast_object(wanted - batches.count) if begin < total else 0
        batches.finish()
    if ranks.is_first and begin == total and not batches.count:
        raise stream.every_row_bad()


def _in_order(own: Iterator[Columns], ranks: Ranks) -> Iterator[Columns]:
    """On rank 0 the parts of all ranks, in order; on the others, which send theirs to it, none."""

    def sent() -> None:
        pass

    for columns in own:
        if ranks.is_first:
            yield columns
            yield from (load(ranks.receive(rank)) for rank in range(1, ranks.world_size))
        else:
            sent()  # so that at most one part waits to be received
            sent = ranks.send(save(dict(columns)))
    sent()


def _scored(
    scorer: Scorer, stream: BatchStream, parts: Sequence[range], own: Sequence[Observer], *, features: bool
) -> Iterator[Columns]:
    """Read and score `parts`, and show them to the observers `own`; the columns of each part, on the CPU."""
    device = next(scorer.parameters()).device
    selections: list[Selection] = []
    scored: list[Columns] = []
    bad_data: list[BadData] = []
    waiting = 0
    for piece in read_parts(stream, parts):
        selections += piece.selections
        bad_data += piece.bad_data
        waiting += piece.rows
        while waiting >= stream.batch_rows or (waiting and piece.ends_part):
            count = min(waiting, stream.batch_rows)
            batch = assemble(slice_selections(selections, slice(0, count))).to(device)
            selections = slice_selections(selections, slice(count, waiting)) if waiting > count else []
            waiting -= count
            scores = score_rows(scorer, batch)
            for observer in own:
                observer.update(batch, scores)
            scored.append(_columns(batch, scores, features=features))
        if piece.ends_part:
            names = scored[0] if scored else {}
            text = np.frombuffer(json.dumps(bad_data).encode(), np.uint8).copy()
            yield {
                **{name: torch.cat([columns[name] for columns in scored]) for name in names},
                _BAD_DATA: torch.from_numpy(text),
            }
            scored, bad_data = [], []


def _columns(batch: Batch, scores: Scores, *, features: bool) -> Columns:
    """What rank 0 needs of some rows. In new memory, since readers reuse that of batches."""
    present = batch.tensors()
    columns = {name: present[name] for name in (*_ROWS, *(_FEATURES if features else ())) if name in present}
    columns |= {name: getattr(scores, name) for name in _SCORES}
    return {name: column.to("cpu", copy=True).contiguous() for name, column in columns.items()}


class _Batches:
    """Shows rows to observers in batches of `rows` rows, as they would come from one process."""

    def __init__(self, rows: int, observers: Sequence[Observer]) -> None:
        self.count = 0
        """Rows so far."""
        self._rows, self._observers = rows, observers
        self._waiting: Columns = {}

    def add(self, columns: Columns) -> None:
        """Add the next rows; without columns, none."""
        if not columns:
            return
        if self._waiting:
            columns = {name: torch.cat([self._waiting[name], column]) for name, column in columns.items()}
            self.count -= len(self._waiting["labels"])
        rows = len(columns["labels"])
        self.count += rows
        whole = rows - rows % self._rows
        for start in range(0, whole, self._rows):
            self._show({name: column[start : start + self._rows] for name, column in columns.items()})
        self._waiting = {name: column[whole:].clone() for name, column in columns.items()} if whole < rows else {}

    def finish(self) -> None:
        """Show the rows that do not fill a batch."""
        if self._waiting:
            self._show(self._waiting)
        self._waiting = {}

    def _show(self, columns: Columns) -> None:
        none = torch.zeros(len(columns["labels"]), 0)
        continuous, binary, discrete = (columns.get(name, none) for name in _FEATURES[:3])
        rows: dict[str, Any] = {name: columns[name] for name in (*_ROWS, "times") if name in columns}
        batch = replace(Batch(continuous, binary, discrete, {}), **rows)
        scores = Scores(none, *(columns[name] for name in _SCORES))
        for observer in self._observers:
            observer.update(batch, scores)
