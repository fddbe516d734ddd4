"""`Observer`: a part of an evaluation that sees every row with its scores."""

from typing import Protocol

from recap.data.batch import Batch
from recap.model.scorer import Scores


class Observer(Protocol):
    """Collects a result over the batches of one split. Each rank has its own, which sees that rank's rows."""

    def update(self, batch: Batch, scores: Scores) -> None:
        """Add the rows of `batch`, which may be empty; both arguments are on the device of the model."""

    def result(self) -> object:
        """The result over all rows of all ranks, on every rank; every rank must call it."""
