"""Raw outputs of towers → probabilities of binary tasks, values of regressions."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from recap.config.loss import RegressionConfig
from recap.config.model import TaskConfig

MAX_LOG = 88.0
"""expm1 of it is the largest value that a log1p task predicts, 1.65e38: float32 holds it."""


class OutputActivation(nn.Module):
    """Raw outputs [B, T] → predictions [B, T]: probabilities of binary tasks, values of regressions.

    A value is in the unit of its label; under log1p it is at least 0.
    """

    def __init__(self, tasks: Mapping[str, TaskConfig]) -> None:
        super().__init__()
        objectives = [task.objective for task in tasks.values()]
        regressions = [isinstance(objective, RegressionConfig) for objective in objectives]
        logs = [isinstance(each, RegressionConfig) and each.transform == "log1p" for each in objectives]
        self.any_regression = any(regressions)
        self.regressions: Tensor
        self.logs: Tensor
        # The configuration holds them, so a state dict does not.
        self.register_buffer("regressions", torch.tensor(regressions), persistent=False)  # [T] bool
        self.register_buffer("logs", torch.tensor(logs), persistent=False)  # [T] bool

    def forward(self, outputs: Tensor) -> Tensor:
        """[B, T] float32 → [B, T] float32."""
        probabilities = outputs.sigmoid()
        if not self.any_regression:
            return probabilities
        values = torch.where(self.logs, outputs.clamp(0, MAX_LOG).expm1(), outputs)
        return torch.where(self.regressions, values, probabilities)
