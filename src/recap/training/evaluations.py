"""Evaluations during training: all splits at a step, within `eval_timeout_in_s`."""

import time
from collections.abc import Mapping

import torch

from recap.config.recap import RecapConfig
from recap.data.stream.batch_stream import BatchStream
from recap.distributed import Consensus
from recap.evaluation.evaluate import evaluate
from recap.evaluation.observers.metrics import Metrics
from recap.evaluation.remarks import remarks
from recap.evaluation.result import TaskMetrics, records
from recap.evaluation.run import max_batches
from recap.model.ranker import Ranker
from recap.model.scorer import Scorer
from recap.reporting import Reporter
from recap.runtime import Runtime
from recap.signals import StopNow
from recap.tracking.open import Trackers


class Stopped(Exception):
    """A signal arrived during an evaluation."""


class _TimeoutError(Exception):
    """An evaluation took longer than `eval_timeout_in_s`."""


class Evaluations:
    """Evaluates a ranker on all splits of a run, as far as `eval_timeout_in_s` allows."""

    def __init__(
        self,
        config: RecapConfig,
        ranker: Ranker,
        streams: Mapping[str, BatchStream],
        runtime: Runtime,
        reporter: Reporter,
        consensus: Consensus,
    ) -> None:
        """`consensus`: a signal or a timeout on one rank stops the evaluation on all of them."""
        self.config, self.scorer, self.streams, self.runtime = config, Scorer.of(config, ranker), streams, runtime
        self.reporter, self.consensus = reporter, consensus
        self._remarked: set[tuple[str, str]] = set()

    def __call__(self, step: int, trackers: Trackers) -> dict[str, TaskMetrics]:
        """Split → its metrics, without the split that exceeds the timeout and those after it. Raises Stopped."""
        allowed = self.config.training.eval_timeout_in_s
        deadline = time.monotonic() + allowed
        evaluations: dict[str, TaskMetrics] = {}
        for split, stream in self.streams.items():
            try:
                evaluation = self._evaluate(split, stream.restarted(), deadline)
            except _TimeoutError:
                self.reporter.say(
                    f"evaluation of {split} at step {step} exceeded {allowed:g} s and was stopped "
                    "(training.eval_timeout_in_s); training continues"
                )
                break
            evaluations[split] = evaluation
            self.reporter.evaluated(step, split, evaluation)
            self._remark(split, evaluation)
        for split, evaluation in evaluations.items():  # last, so that an evaluation stopped by a signal logs nothing
            for record in records(step, split, evaluation):
                trackers.log(record)
        return evaluations

    def _remark(self, split: str, evaluation: TaskMetrics) -> None:
        """Show the remarks on a split, each subject once a run."""
        for subject, text in remarks(split, evaluation, self.config.training.watch):
            if (split, subject) not in self._remarked:
                self._remarked.add((split, subject))
                self.reporter.say(text)

    def _evaluate(self, split: str, stream: BatchStream, deadline: float) -> TaskMetrics:
        def after_batch(_: int) -> None:
            too_late = self.consensus.all_reduce(torch.tensor([time.monotonic() > deadline], dtype=torch.float64))
            if self.consensus.signals:
                raise Stopped
            if too_late.any():
                raise _TimeoutError

        try:
            with self.consensus.local.interruptible():
                metrics = Metrics(self.config, split, self.runtime.ranks, intervals=False)
                evaluate(self.scorer, stream, [metrics], max_batches(self.config), after_batch)
                return metrics.result()
        except StopNow:
            raise Stopped from None
