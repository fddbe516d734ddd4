"""The training loss of each task. The labels are described in `recap.config.loss`."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, assert_never

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, huber_loss, logsigmoid

from recap.config.loss import BceConfig, FocalConfig, HuberConfig, MaeConfig, MseConfig, RegressionConfig
from recap.config.model import ModelConfig, TaskConfig
from recap.model.objective.lists import listwise_loss
from recap.model.objective.pairs import pairwise_loss

Groups = Mapping[str, Tensor]
"""`user` and `request` → [B] int64, equal for rows of the same one; what a batch lacks is left out."""


class Ranking(NamedTuple):
    """A loss on the order of the rows of a group, beside the loss of a task."""

    task: int
    weight: float
    group: str
    loss: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    """Logits, labels and groups [B], and which rows have a label → a scalar."""


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
        rankings: Sequence[Ranking] = (),
    ) -> None:
        """`pos_weights` [T]; `pointwise`: task index → the loss if not BCE; `rankings`: losses to add."""
        super().__init__()
        self.pos_weights: Tensor
        self.register_buffer("pos_weights", torch.tensor(pos_weights), persistent=False)  # [T]
        self.pointwise, self.rankings = dict(pointwise or {}), rankings

    @classmethod
    def of(cls, config: ModelConfig) -> "MultiTaskLoss":
        """The losses that `config` describes."""
        tasks = list(config.tasks.values())
        losses = {index: _pointwise_loss(task) for index, task in enumerate(tasks)}
        pointwise = {index: loss for index, loss in losses.items() if loss is not None}
        rankings = [ranking for index, task in enumerate(tasks) for ranking in _rankings(index, task)]
        return cls([task.pos_weight for task in tasks], pointwise, rankings)

    def forward(self, logits: Tensor, labels: Tensor, weights: Tensor, groups: Groups | None = None) -> Tensor:
        """Logits, labels and weights [B, T] float32, and the groups that rankings compare → [T] float32."""
        if self.pointwise:
            losses = self.row_losses(logits, labels, weights).mean(dim=0)
        else:
            losses = binary_cross_entropy_with_logits(
                logits, labels, weight=weights, pos_weight=self.pos_weights, reduction="none"
            ).mean(dim=0)
        if not self.rankings:
            return losses
        assert groups is not None
        orders = torch.zeros_like(losses)
        for task, weight, group, ranking_loss in self.rankings:
            loss = ranking_loss(logits[:, task], labels[:, task], groups[group], weights[:, task] > 0)
            index = torch.tensor(task, device=losses.device)
            orders = orders.index_put((index,), weight * loss, accumulate=True)
        return losses + orders

    def row_losses(self, logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        """[B, T] float32 each → the weighted loss of every row, without losses on order, [B, T]."""
        columns = zip(logits.unbind(dim=1), labels.unbind(dim=1), strict=True)
        rows = torch.stack([self.column_losses(task, *column) for task, column in enumerate(columns)], dim=1)
        return rows * weights

    def column_losses(self, task: int, output: Tensor, label: Tensor) -> Tensor:
        """Raw outputs and labels of one task, [B] each → their losses, not weighted, [B]."""
        pos_weight = self.pos_weights[task]
        if task in self.pointwise:
            return self.pointwise[task](output, label, pos_weight)
        return binary_cross_entropy_with_logits(output, label, pos_weight=pos_weight, reduction="none")

    def losses_between(self, task: int, output: Tensor, target: Tensor) -> Tensor:
        """The losses of raw outputs [B] if other raw outputs of the task, `target` [B], were the truth, [B].

        Binary cross entropy with the probabilities of `target`, whatever the loss on labels; of a regression, its loss.
        """
        pointwise = self.pointwise.get(task)
        if isinstance(pointwise, RegressionLoss):
            return pointwise.error(output, target)
        return binary_cross_entropy_with_logits(output, target.sigmoid(), reduction="none")


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
        return self.error(output, label.log1p() if self.config.transform == "log1p" else label)

    def error(self, output: Tensor, target: Tensor) -> Tensor:
        """Raw outputs and transformed labels, [B] each → [B]."""
        match self.config.loss:
            case MseConfig():
                return (output - target).square()
            case MaeConfig():
                return (output - target).abs()
            case HuberConfig():
                return huber_loss(output, target, reduction="none", delta=self.config.loss.delta)
            case _:
                assert_never(self.config.loss)


def _rankings(index: int, task: TaskConfig) -> Iterator[Ranking]:
    """The losses on order of a task's own outputs; JRC is one of its members."""
    if task.pairwise is not None:
        yield Ranking(index, task.pairwise.weight, task.pairwise.group, pairwise_loss)
    if task.listwise is not None:
        yield Ranking(index, task.listwise.weight, task.listwise.group, listwise_loss)


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
