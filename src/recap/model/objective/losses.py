"""The training loss of each task. The labels are described in `recap.config.loss`."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import assert_never

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, huber_loss, logsigmoid

from recap.config.loss import BceConfig, FocalConfig, HuberConfig, MaeConfig, MseConfig, RegressionConfig
from recap.config.model import ModelConfig, TaskConfig
from recap.model.objective.pairs import pairwise_loss


class MultiTaskLoss(nn.Module):
    """Losses by task [T]; training minimises their mean over the tasks (Σ / T), as published.

    The loss of a task is the mean over the B rows of weight · BCE, or of another pointwise loss, with positives counted
    `pos_weight` times. It is divided by B, not by the sum of weights, so the losses of micro-batches, weighted by their
    share of the rows, sum to the loss of the batch.
    """

    def __init__(
        self,
        pos_weights: Sequence[float],
        pointwise: "Mapping[int, PointwiseLoss] | None" = None,
        pairwise: Mapping[int, float] | None = None,
    ) -> None:
        """`pos_weights` [T]; by task index: `pointwise`, the loss if not BCE; `pairwise`, the weight of that loss."""
        super().__init__()
        self.pos_weights: Tensor
        self.register_buffer("pos_weights", torch.tensor(pos_weights), persistent=False)  # [T]
        self.pointwise, self.pairwise = dict(pointwise or {}), dict(pairwise or {})

    @classmethod
    def of(cls, config: ModelConfig) -> "MultiTaskLoss":
        """The losses that `config` describes."""
        tasks = list(config.tasks.values())
        losses = {index: _pointwise_loss(task) for index, task in enumerate(tasks)}
        pointwise = {index: loss for index, loss in losses.items() if loss is not None}
        pairwise = {index: task.pairwise.weight for index, task in enumerate(tasks) if task.pairwise is not None}
        return cls([task.pos_weight for task in tasks], pointwise, pairwise)

    def forward(self, logits: Tensor, labels: Tensor, weights: Tensor, users: Tensor | None = None) -> Tensor:
        """Logits, labels and weights [B, T] float32, users [B] int64 if there is a pairwise loss → [T] float32."""
        if self.pointwise:
            losses = self.row_losses(logits, labels, weights).mean(dim=0)
        else:
            losses = binary_cross_entropy_with_logits(
                logits, labels, weight=weights, pos_weight=self.pos_weights, reduction="none"
            ).mean(dim=0)
        if not self.pairwise:
            return losses
        assert users is not None
        pairs = torch.zeros_like(losses)
        for task, weight in self.pairwise.items():
            loss = pairwise_loss(logits[:, task], labels[:, task], users, weights[:, task] > 0)
            pairs = pairs.index_put((torch.tensor(task, device=losses.device),), weight * loss)
        return losses + pairs

    def row_losses(self, logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        """[B, T] float32 each → the weighted loss of every row, without pairwise losses, [B, T]."""
        rows = torch.stack([self._row_losses(task, logits, labels) for task in range(logits.shape[1])], dim=1)
        return rows * weights

    def _row_losses(self, task: int, logits: Tensor, labels: Tensor) -> Tensor:
        """[B, T] each → the losses of one task, [B]."""
        output, label, pos_weight = logits[:, task], labels[:, task], self.pos_weights[task]
        if task in self.pointwise:
            return self.pointwise[task](output, label, pos_weight)
        return binary_cross_entropy_with_logits(output, label, pos_weight=pos_weight, reduction="none")


class PointwiseLoss(ABC):
    """A loss other than BCE, row by row."""

    @abstractmethod
    def __call__(self, output: Tensor, label: Tensor, pos_weight: Tensor) -> Tensor:
        """Raw outputs [B], labels [B] and `pos_weight`, a scalar → [B]."""


class FocalLoss(PointwiseLoss):
    """(1 − p_t)^γ · BCE, with p_t the probability of the label (Lin et al., ICCV 2017, equation 4)."""

    def __init__(self, gamma: float) -> None:
        self.gamma = gamma

    def __call__(self, output: Tensor, label: Tensor, pos_weight: Tensor) -> Tensor:
        """Gradients are finite for any logit, since (1 − p_t)^γ is computed as exp(γ·log(1 − p_t))."""
        entropy = binary_cross_entropy_with_logits(output, label, pos_weight=pos_weight, reduction="none")
        return torch.exp(self.gamma * logsigmoid(output * (1 - 2 * label))) * entropy


class RegressionLoss(PointwiseLoss):
    """A loss of the error between the raw output and the transformed label."""

    def __init__(self, config: RegressionConfig) -> None:
        self.config = config

    def __call__(self, output: Tensor, label: Tensor, pos_weight: Tensor) -> Tensor:
        """`pos_weight` is ignored: a regression has no positives."""
        target = label.log1p() if self.config.transform == "log1p" else label
        match self.config.loss:
            case MseConfig():
                return (output - target).square()
            case MaeConfig():
                return (output - target).abs()
            case HuberConfig():
                return huber_loss(output, target, reduction="none", delta=self.config.loss.delta)
            case _:
                assert_never(self.config.loss)


def _pointwise_loss(task: TaskConfig) -> PointwiseLoss | None:
    """The loss of a task; None for BCE."""
    if isinstance(task.objective, RegressionConfig):
        return RegressionLoss(task.objective)
    match task.loss:
        case BceConfig():
            return None
        case FocalConfig():
            return FocalLoss(task.loss.gamma)
        case _:
            assert_never(task.loss)
