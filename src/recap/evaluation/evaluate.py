"""`evaluate`: shows the rows of a split and their scores to observers."""

from collections.abc import Callable, Sequence
from itertools import islice

import torch

from recap.data.stream.batch_stream import BatchStream
from recap.evaluation.observers.observer import Observer
from recap.model.score_rows import score_rows
from recap.model.scorer import Scorer


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
                scores = score_rows(scorer, on_device)
                for observer in observers:
                    observer.update(on_device, scores)
                after_batch(number)
    finally:
        scorer.train(was_training)
