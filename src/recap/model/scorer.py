"""`Scorer`: the one path from a batch to scores, run by evaluation, prediction, export and serving."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
import torch.export
from torch import Tensor, nn

from recap.config.recap import RecapConfig
from recap.data.batch import Batch
from recap.model.calibration import Calibration, FittedCalibration, FittedMaps
from recap.model.ranker import Ranker

EPSILON = 0.001
"""Rows with a negative weighted sum score below this, all others at or above it."""


@dataclass(frozen=True)
class Scores:
    """The results of a scorer for B rows, tasks in the order of `model.tasks`.

    In the column of a regression task `logits` holds the raw output of its tower, and both kinds of probabilities hold
    the predicted value, in the unit of the label: it is not limited to [0, 1]. Registered as a pytree, so an exported
    program returns it.
    """

    logits: Tensor  # [B, T] float32
    probabilities: Tensor  # [B, T] float32, for the data as sampled for training
    calibrated_probabilities: Tensor  # [B, T] float32, for the population
    score: Tensor  # [B] float64, ≥ 0


torch.export.register_dataclass(Scores, serialized_type_name="recap.Scores")


class Scorer(nn.Module):
    """ranker → calibration → score; the calibration is the correction of sampling rates, then what was fitted.

    With tasks `like` and `report`, `scoring.weights: {like: 0.5, report: -369.0}` and likes whose negatives were
    sampled at a rate of 0.1:

        >>> scorer = Scorer.of(config, ranker).eval()
        >>> scores = scorer(batch)  # B = 2 rows
        >>> scores.probabilities
        tensor([[0.8000, 0.0010],
                [0.5000, 0.2000]])
        >>> scores.calibrated_probabilities  # 0.8 → 0.8 · 0.1 / (1 − 0.8 + 0.1 · 0.8)
        tensor([[0.2857, 0.0010],
                [0.0909, 0.2000]])
        >>> scores.score  # both sums are negative: (S + 369) / 369.5 · 0.001
        tensor([0.0010, 0.0008], dtype=torch.float64)
    """

    def __init__(
        self, ranker: Ranker, calibration: Calibration, formula: "ScoreFormula", fitted: FittedMaps | None = None
    ) -> None:
        """`fitted`: follows `calibration`, if there is one."""
        super().__init__()
        self.ranker, self.calibration, self.formula, self.fitted = ranker, calibration, formula, fitted

    @classmethod
    def of(cls, config: RecapConfig, ranker: Ranker, fitted: FittedCalibration | None = None) -> Self:
        """The scorer of a trained `ranker`, with the score weights of `config`, on the ranker's device.

        `fitted`: that of the model directory, if it has one.
        """
        maps = FittedMaps(fitted, config) if fitted is not None else None
        scorer = cls(ranker, Calibration.of(config), ScoreFormula(config.scoring.weights, config.tasks), maps)
        return scorer.to(next(ranker.parameters()).device)

    def forward(self, batch: Batch) -> Scores:
        """Score the rows of `batch`; labels, weights and users are not read."""
        logits, probabilities = self.ranker(batch)
        calibrated = self.calibration(probabilities)
        if self.fitted is not None:
            calibrated = self.fitted(calibrated, batch.discrete)
        return Scores(logits, probabilities, calibrated, self.formula(calibrated))


class ScoreFormula(nn.Module):
    """The published formula: S = Σ wᵢ·pᵢ, then a shift that keeps the order and puts negative sums last.

    With N = Σ |negative wᵢ| and W = Σ |wᵢ|: W = 0 → max(S, 0); S < 0 → (S + N) / W · 0.001; else S + 0.001.
    """

    def __init__(self, weights: Mapping[str, float], tasks: Sequence[str]) -> None:
        """`weights` by task name, default 0."""
        super().__init__()
        ordered = torch.tensor([weights.get(task, 0.0) for task in tasks], dtype=torch.float64)
        self.weights: Tensor
        self.negative: Tensor
        self.total: Tensor
        self.epsilon: Tensor
        # Derived from the configuration, so not saved with the weights.
        self.register_buffer("weights", ordered, persistent=False)  # [T]
        # Scalars as tensors, because ONNX would round the constants of Python to float32.
        self.register_buffer("negative", -ordered.clamp(max=0).sum(), persistent=False)
        self.register_buffer("total", ordered.abs().sum(), persistent=False)
        self.register_buffer("epsilon", torch.tensor(EPSILON, dtype=torch.float64), persistent=False)
        self.all_zero = not ordered.any()

    def forward(self, probabilities: Tensor) -> Tensor:
        """Calibrated probabilities, or values of regressions, [B, T] → scores [B] float64, ≥ 0.

        Values are not limited to [0, 1], so a sum may fall below −N; the score is 0 then.
        """
        weighted = (probabilities.double() * self.weights).sum(dim=1)  # [B]
        if self.all_zero:
            return weighted.clamp(min=0)
        below = (weighted + self.negative) / self.total * self.epsilon
        return torch.where(weighted < 0, below, weighted + self.epsilon).clamp(min=0)
