"""`evaluate`: shows the rows of a split and their scores to observers."""

from collections.abc import Callable, Sequence
from itertools import islice

import torch
from torch import Tensor

from recap.data.batch import Batch
from recap.data.stream.batch_stream import BatchStream
from recap.evaluation.observers.observer import Observer
from recap.model.scorer import Scorer, Scores


def evaluate(
    scorer: Scorer,
    stream: BatchStream,
    observers: Sequence[Observer],
    max_batches: int | None = None,
    after_batch: Callable[[int], None] = lambda batches: None,
) -> None:
    """Show at most `max_batches` batches of `stream`, with their scores, to the observers, which hold the results.

    `after_batch` gets the number of batches so far and may raise to stop. The scorer keeps its mode, training or
    evaluation.
    """
    device = next(scorer.parameters()).device
    was_training = scorer.training
    scorer.eval()
    try:
        with torch.inference_mode():
            for number, batch in enumerate(islice(stream, max_batches), start=1):
                on_device = batch.to(device)
                scores = scorer(on_device) if len(batch) else _no_scores(on_device)
                for observer in observers:
                    observer.update(on_device, scores)
                after_batch(number)
    finally:
        scorer.train(was_training)


def _no_scores(batch: Batch) -> Scores:
    """The scores of no rows, for a rank without rows in a batch that is smaller than the world size."""
    assert batch.labels is not None
    empty: Tensor = batch.labels  # [0, T]
    return Scores(empty, empty, empty, empty.sum(dim=1).double())
