"""Evaluations while training: every validation set at a step, in the time they are given."""

import math
import time
from collections.abc import Mapping

import torch

from recap.config.recap import RecapConfig
from recap.data.stream.batch_stream import BatchStream
from recap.distributed import Consensus
from recap.evaluation.evaluate import Evaluation, evaluate
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
    """Evaluates a ranker on all validation sets of a run."""

    def __init__(
        self,
        config: RecapConfig,
        ranker: Ranker,
        streams: Mapping[str, BatchStream],
        runtime: Runtime,
        reporter: Reporter,
        consensus: Consensus,
    ) -> None:
        """An evaluation ends, on all ranks, when a signal or the end of its time reaches one of them."""
        self.config, self.scorer, self.streams, self.runtime = config, Scorer.of(config, ranker), streams, runtime
        self.reporter, self.consensus = reporter, consensus

    def __call__(self, step: int, trackers: Trackers) -> dict[str, Evaluation]:
        """By validation set; one that takes too long is left out, with those after it. Raises Stopped."""
        allowed = self.config.training.eval_timeout_in_s
        deadline = time.monotonic() + allowed
        evaluations: dict[str, Evaluation] = {}
        for split, stream in self.streams.items():
            try:
                evaluation = self._evaluate(split, stream.restarted(), deadline)
            except _TimeoutError:
                self.reporter.say(
                    f"evaluation of {split} at step {step} was given up after {allowed:g} s "
                    "(training.eval_timeout_in_s); training goes on"
                )
                break
            evaluations[split] = evaluation
            self.reporter.evaluated(step, split, evaluation)
        for split, evaluation in evaluations.items():  # at the end: of evaluations that a signal stops, none is logged
            for task, metrics in evaluation.items():
                finite = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
                trackers.log({"step": step, "split": split, "task": task, **finite})
        return evaluations

    def _evaluate(self, split: str, stream: BatchStream, deadline: float) -> Evaluation:
        def after_batch(_: int) -> None:
            too_late = self.consensus.all_reduce(torch.tensor([time.monotonic() > deadline], dtype=torch.float64))
            if self.consensus.signals:
                raise Stopped
            if too_late.any():
                raise _TimeoutError

        try:
            with self.consensus.local.interruptible():
                return evaluate(self.scorer, stream, self.config, split, self.runtime, after_batch)
        except StopNow:
            raise Stopped from None
