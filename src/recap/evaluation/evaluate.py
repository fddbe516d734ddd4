"""Evaluation: a model over a validation set, metrics for each task on calibrated probabilities and on values."""

from collections.abc import Callable
from itertools import islice

import torch

from recap.config.recap import RecapConfig
from recap.data.stream.batch_stream import BatchStream
from recap.evaluation.metrics.suite import MetricSuite
from recap.evaluation.observers.gates import GateMeans
from recap.evaluation.observers.strata import Strata
from recap.model.scorer import Scorer
from recap.runtime import Runtime

Evaluation = dict[str, dict[str, float]]
"""Task → metric → value; NaN where a metric is undefined."""


def evaluate(
    scorer: Scorer,
    stream: BatchStream,
    config: RecapConfig,
    split: str,
    runtime: Runtime,
    after_batch: Callable[[int], None] = lambda batches: None,
    gates: GateMeans | None = None,
    strata: Strata | None = None,
) -> Evaluation:
    """Metrics of `scorer` over `stream`, for the tasks that validation set `split` evaluates; the same on all ranks.

    At most `training.num_eval_steps` batches, below 0 all; `gates` and `strata` take in the same rows. `after_batch`
    may raise to give up; the scorer is left in the mode, training or evaluation, in which it came.
    """
    steps = config.training.num_eval_steps
    suite = MetricSuite(config.tasks, config.which_metrics, config.regressions, config.metrics)
    was_training = scorer.training
    scorer.eval()
    try:
        with torch.inference_mode():
            for number, batch in enumerate(islice(stream, steps if steps >= 0 else None), start=1):
                there = batch.to(runtime.device)
                if gates is not None:
                    gates.update(there)
                assert batch.labels is not None
                assert batch.weights is not None
                # A rank has no row of a batch that has fewer rows than there are ranks.
                probabilities = scorer(there).calibrated_probabilities.cpu() if len(batch) else batch.labels
                users = [batch.user] if batch.user is not None else []
                scored = runtime.ranks.all_gather([probabilities, batch.labels, batch.weights, *users])
                if runtime.ranks.is_first:
                    suite.update(*scored)
                if strata is not None:
                    strata.update(probabilities, batch)
                after_batch(number)
    finally:
        scorer.train(was_training)
    evaluation: Evaluation = runtime.ranks.broadcast_object(evaluated_tasks(suite.compute(), config, split))
    return evaluation


def evaluated_tasks(computed: Evaluation, config: RecapConfig, split: str) -> Evaluation:
    """Those of the tasks that validation set `split` evaluates."""
    chosen = config.validation_data[split].evaluation_tasks
    return {task: computed[task] for task in (config.tasks if chosen is None else chosen)}
