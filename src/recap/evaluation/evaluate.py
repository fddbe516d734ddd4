"""`evaluate`: shows the rows of a split and their scores to observers; and the metrics of a sample of rows."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice

import torch
from torch import Tensor, nn

from recap.config.recap import RecapConfig
from recap.data.batch import Batch
from recap.data.stream.batch_stream import BatchStream
from recap.distributed import ONE_RANK, Ranks
from recap.evaluation.metrics.estimate import Estimates
from recap.evaluation.metrics.suite import MetricSuite
from recap.evaluation.observers.observer import Observer
from recap.model.score_rows import score_rows
from recap.model.scorer import Scorer

_BLOCK = 4096
"""Rows of a sample that are scored at once."""


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """For the block: evaluation mode; afterwards the module has its mode again."""
    was_training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(was_training)


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
    with evaluation_mode(scorer), torch.inference_mode():
        for number, batch in enumerate(islice(stream, max_batches), start=1):
            on_device = batch.to(device)
            scores = score_rows(scorer, on_device)
            for observer in observers:
                observer.update(on_device, scores)
            after_batch(number)


def predictions_of(scorer: Scorer, batches: Iterable[Batch], ranks: Ranks = ONE_RANK) -> Tensor:
    """The calibrated predictions of all rows, [N, T] float32; the scorer keeps its mode.

    Each rank computes a share of them, and has all. `batches`: at least one, the same on all ranks.
    """
    device = next(scorer.parameters()).device
    with evaluation_mode(scorer):
        blocks = [block for batch in batches for block in batch.blocks(_BLOCK)]
        own = blocks[ranks.share(len(blocks))] or [blocks[0].rows(slice(0, 0))]
        scored = [score_rows(scorer, block.to(device)).calibrated_probabilities.cpu() for block in own]
        (predictions,) = ranks.all_gather([torch.cat(scored)])
        return predictions


def estimates_of(predictions: Tensor, rows: Batch, config: RecapConfig, metrics: Sequence[str]) -> Estimates:
    """`metrics` of `predictions` [B, T] on `rows`, which have labels."""
    assert rows.labels is not None
    assert rows.weights is not None
    suite = MetricSuite(config.tasks, metrics, config.regressions, config.metrics)
    suite.update(predictions, rows.labels, rows.weights, rows.user)
    return suite.result().estimates
