"""Raw outputs of towers → probabilities of binary tasks, values of regressions."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from recap.config.loss import RegressionConfig
from recap.config.model import TaskConfig

MAX_LOG = 88.0
"""Limit of the raw output of a log1p task: expm1(88) = 1.65e38 still fits into a float32."""


class OutputActivation(nn.Module):
    """Raw outputs [B, T] → predictions [B, T]: probabilities of binary tasks, values of regressions.

    Values are in the unit of the label; with log1p they are at least 0.
    """

    def __init__(self, tasks: Mapping[str, TaskConfig]) -> None:
        super().__init__()
        objectives = [task.objective for task in tasks.values()]
        is_regression = [isinstance(objective, RegressionConfig) for objective in objectives]
        is_log = [
            isinstance(objective, RegressionConfig) and objective.transform == "log1p" for objective in objectives
        ]
        self.any_regression = any(is_regression)
        self.is_regression: Tensor
        self.is_log: Tensor
        # Derived from the configuration, so not saved with the weights.
        self.register_buffer("is_regression", torch.tensor(is_regression), persistent=False)  # [T] bool
        self.register_buffer("is_log", torch.tensor(is_log), persistent=False)  # [T] bool

    def forward(self, outputs: Tensor) -> Tensor:
        """[B, T] float32 → [B, T] float32."""
        probabilities = outputs.sigmoid()
        if not self.any_regression:
            return probabilities
        values = torch.where(self.is_log, outputs.clamp(0.0, MAX_LOG).expm1(), outputs)
        return torch.where(self.is_regression, values, probabilities)


def logit_of_mean(logits: Tensor) -> Tensor:
    """logit(mean of σ(logits) over the last dimension), […, M] → […], with finite gradients for logits of any size.

    The odds are Σ σ(z) / Σ σ(−z); both sums are computed as logarithms.
    """
    return logsigmoid(logits).logsumexp(dim=-1) - logsigmoid(-logits).logsumexp(dim=-1)


def output_of_mean(members: Tensor, *, is_regression: bool) -> Tensor:
    """The raw output that predicts the mean of what `members` predict, […, M] → […]; of a regression, their mean."""
    return members.mean(dim=-1) if is_regression else logit_of_mean(members)
