"""`evaluate`: a model over the rows of a split, seen by observers."""

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
    """Show the batches of `stream`, and the scores of `scorer`, to the observers; their results are the result.

    At most `max_batches` batches. `after_batch` gets the number of batches so far and may raise to stop. The scorer is
    left in its mode, training or evaluation.
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
    """The scores of no rows: what a rank has of a batch with fewer rows than ranks."""
    assert batch.labels is not None
    empty: Tensor = batch.labels  # [0, T]
    return Scores(empty, empty, empty, empty.sum(dim=1).double())
