"""Losses of members: several raw outputs of one task, with a loss of their own in training."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple, assert_never

import torch
from torch import Tensor

from recap.config.loss import JrcConfig, SelfEnsembleConfig, TriBceConfig
from recap.config.model import ModelConfig
from recap.config.sharing import DeepEnsembleConfig
from recap.model.objective.lists import jrc_loss
from recap.model.objective.losses import Groups, MultiTaskLoss


class ColumnLoss(NamedTuple):
    """The loss of one task for any column of raw outputs, without losses on order."""

    losses: MultiTaskLoss
    task: int
    label: Tensor  # [B]
    weight: Tensor  # [B]
    groups: Groups

    def __call__(self, column: Tensor) -> Tensor:
        """Raw outputs [B] → their loss, a scalar."""
        return (self.losses.column_losses(self.task, column, self.label) * self.weight).mean()

    def between(self, column: Tensor, target: Tensor) -> Tensor:
        """The loss of `column` [B] if `target`, raw outputs [B], were the truth; a scalar."""
        return (self.losses.losses_between(self.task, column, target) * self.weight).mean()


class MembersLoss(ABC):
    """From the loss of a task and its members to the total loss of the task."""

    @abstractmethod
    def __call__(self, own: Tensor, output: Tensor, members: Sequence[Tensor], loss: ColumnLoss) -> Tensor:
        """`own`: the loss of `output`, a scalar. `output` [B], `members` M × [B]: raw outputs. → a scalar."""


class TriBce(MembersLoss):
    """L + Σₘ max(0, Lₘ − L) · Lₘ, with the weights as constants (Li et al., arXiv:2407.13349)."""

    def __call__(self, own: Tensor, output: Tensor, members: Sequence[Tensor], loss: ColumnLoss) -> Tensor:
        of_members = [loss(member) for member in members]
        return own + sum((of_member - own).relu().detach() * of_member for of_member in of_members)


class SelfEnsemble(MembersLoss):
    """L(p̄, y) + Σₘ L(pₘ, p̄), with p̄ as a constant in the second term (Li et al., arXiv:2505.17999)."""

    def __call__(self, own: Tensor, output: Tensor, members: Sequence[Tensor], loss: ColumnLoss) -> Tensor:
        return own + sum(loss.between(member, output.detach()) for member in members)


class MeanOfMembers(MembersLoss):
    """The mean of the members' losses, instead of the loss of their mean (Gorishniy et al., arXiv:2410.24210)."""

    def __call__(self, own: Tensor, output: Tensor, members: Sequence[Tensor], loss: ColumnLoss) -> Tensor:
        return torch.stack([loss(member) for member in members]).mean()


class SeparateMembers(MembersLoss):
    """The mean of the members' losses, with the gradient of their sum, so that each member learns as it would alone."""

    def __call__(self, own: Tensor, output: Tensor, members: Sequence[Tensor], loss: ColumnLoss) -> Tensor:
        losses = torch.stack([loss(member) for member in members])
        return losses.sum() - (losses.sum() - losses.mean()).detach()


class Jrc(MembersLoss):
    """L + weight · the ranking term of JRC, for members l and s.

    They stand for a logit of each label, f₁ = s + l / 2 and f₀ = s − l / 2: the two outputs of a Linear, which is free
    to learn either pair. The task's own logit is l = f₁ − f₀, so a constant in s, such as its bias, changes nothing.
    """

    def __init__(self, config: JrcConfig) -> None:
        self.config = config

    def __call__(self, own: Tensor, output: Tensor, members: Sequence[Tensor], loss: ColumnLoss) -> Tensor:
        logit, shift = members
        of_labels = torch.stack([shift - logit / 2, shift + logit / 2], dim=1)  # [B, 2]
        groups = loss.groups[self.config.group]
        return own + self.config.weight * jrc_loss(of_labels, loss.label, groups, loss.weight > 0)


class Members(NamedTuple):
    """The members of one task."""

    number: int = 1
    loss: MembersLoss | None = None
    """None if the only member is the task's own output."""


def members_of(config: ModelConfig) -> list[Members]:
    """The members of every task. They follow the tasks' own outputs in `Ranker.raw_outputs`."""
    match config.auxiliary_loss:
        case None:
            return [_of_task(config, task) for task in config.tasks]
        case TriBceConfig():
            return [Members(2, TriBce()) for _ in config.tasks]
        case SelfEnsembleConfig():
            return [Members(2, SelfEnsemble()) for _ in config.tasks]
        case _:
            assert_never(config.auxiliary_loss)


def _of_task(config: ModelConfig, task: str) -> Members:
    if (jrc := config.tasks[task].jrc) is not None:
        return Members(2, Jrc(jrc))
    if (ensemble := config.ensemble_of(task)) is not None:
        is_deep = isinstance(ensemble, DeepEnsembleConfig)
        return Members(ensemble.members, SeparateMembers() if is_deep else MeanOfMembers())
    return Members()
