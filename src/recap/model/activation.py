"""Raw outputs of towers → probabilities of binary tasks, values of regressions."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from recap.config.loss import RegressionConfig
from recap.config.model import TaskConfig

MAX_LOG = 88.0
"""expm1 of it, 1.65e38, is the largest prediction of a log1p task; float32 can hold it."""


class OutputActivation(nn.Module):
    """Raw outputs [B, T] → predictions [B, T]: probabilities of binary tasks, values of regressions.

    Values are in the unit of the label; with log1p they are at least 0.
    """

    def __init__(self, tasks: Mapping[str, TaskConfig]) -> None:
        super().__init__()
        objectives = [task.objective for task in tasks.values()]
        regressions = [isinstance(objective, RegressionConfig) for objective in objectives]
        logs = [isinstance(task, RegressionConfig) and task.transform == "log1p" for task in objectives]
        self.any_regression = any(regressions)
        self.regressions: Tensor
        self.logs: Tensor
        # Not part of a state dict: the configuration holds them.
        self.register_buffer("regressions", torch.tensor(regressions), persistent=False)  # [T] bool
        self.register_buffer("logs", torch.tensor(logs), persistent=False)  # [T] bool

    def forward(self, outputs: Tensor) -> Tensor:
        """[B, T] float32 → [B, T] float32."""
        probabilities = outputs.sigmoid()
        if not self.any_regression:
            return probabilities
        values = torch.where(self.logs, outputs.clamp(0, MAX_LOG).expm1(), outputs)
        return torch.where(self.regressions, values, probabilities)
