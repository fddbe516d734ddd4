"""`Objective`: raw outputs and labels → a loss for each task, and the penalty of a cascade."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor, nn

from recap.config.recap import RecapConfig
from recap.config.sharing import AitmConfig, DeepEnsembleConfig
from recap.data.batch import Batch
from recap.model.activation import OutputActivation
from recap.model.calibration import Calibration
from recap.model.objective.distillation import distillations_of
from recap.model.objective.losses import Groups, MultiTaskLoss
from recap.model.objective.members import ColumnLoss, members_of


class TaskLosses(NamedTuple):
    """The losses of a micro-batch, cut off from the network at its raw outputs.

    `losses` and `penalty` are functions of `leaf`; gradients reach the network from `leaf` through `outputs`.
    """

    outputs: Sequence[Tensor]  # (T + A) × [B]: the tasks' own, then the auxiliary ones, with the graph of the network
    leaf: Tensor  # [B, T + A], their values
    losses: Tensor  # [T], before any weight of a task
    penalty: Tensor  # scalar


class Objective(nn.Module):
    """The loss of each task, before balancing, and the penalty of cascade and experts. Has no parameters."""

    def __init__(self, config: RecapConfig) -> None:
        super().__init__()
        self.losses = MultiTaskLoss.of(config.model)
        self.members = members_of(config.model)
        sharing = config.model.sharing
        self.separate = sharing.members if isinstance(sharing, DeepEnsembleConfig) else 1
        """Members that share nothing; what a loss of their mean sends to each is multiplied by their number."""
        self.distillations = distillations_of(config, self.losses.pointwise)
        cascade = config.model.cascade
        self.chain: list[int] = []
        """Indices of the tasks of an AITM chain, along which probabilities should not increase."""
        self.constraint_weight = 0.0
        if isinstance(cascade, AitmConfig):
            self.chain = [config.tasks.index(task) for task in cascade.chain]
            self.constraint_weight = cascade.constraint_weight
        self.activation = OutputActivation(config.model.tasks)
        self.calibration = Calibration.of(config)

    def forward(self, outputs: Sequence[Tensor], batch: Batch) -> TaskLosses:
        """What `Ranker.raw_outputs` returned → the loss of each task, a mean over the rows, and the penalty."""
        assert batch.labels is not None
        assert batch.weights is not None
        leaf = torch.stack([output.detach() for output in outputs], dim=1).requires_grad_()
        own, auxiliary = leaf[:, : len(self.members)], leaf[:, len(self.members) :].unbind(dim=1)
        losses = self.losses(own, batch.labels, batch.weights, groups_of(batch))
        if self.separate > 1:
            own = own + (self.separate - 1) * (own - own.detach())  # the value of `own`, and `separate` times its slope
        penalty = self.penalty(own)
        if auxiliary:
            rest = iter(auxiliary)
            losses = torch.stack([self._with_members(task, losses, own, rest, batch) for task in range(own.shape[1])])
            penalty = penalty + sum(column.mean() for column in rest)
        if self.distillations and batch.teacher is not None:
            losses = losses + self._towards_teachers(own, batch)
        return TaskLosses(outputs, leaf, losses, penalty)

    def _with_members(
        self, task: int, losses: Tensor, own: Tensor, auxiliary: Iterator[Tensor], batch: Batch
    ) -> Tensor:
        """The loss of a task, a scalar, with those of its members, which are taken from `auxiliary`."""
        number, members_loss = self.members[task]
        if members_loss is None:
            return losses[task]
        assert batch.labels is not None
        assert batch.weights is not None
        loss = ColumnLoss(self.losses, task, batch.labels[:, task], batch.weights[:, task], groups_of(batch))
        return members_loss(losses[task], own[:, task], list(islice(auxiliary, number)), loss)

    def _towards_teachers(self, own: Tensor, batch: Batch) -> Tensor:
        """The losses of the tasks' own outputs [B, T] towards the predictions of teachers, [T]; 0 without a teacher."""
        assert batch.teacher is not None
        assert batch.weights is not None
        losses = list(own.new_zeros(own.shape[1]).unbind())
        for task, distillation in self.distillations.items():
            columns = (own[:, task], batch.teacher[:, task], batch.weights[:, task])
            losses[task] = distillation(*columns, self.losses.pos_weights[task])
        return torch.stack(losses)

    def row_losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Raw outputs [B, T] → the weighted loss of each row [B, T], without losses on order."""
        assert batch.labels is not None
        assert batch.weights is not None
        return self.losses.row_losses(outputs, batch.labels, batch.weights)

    def penalty(self, outputs: Tensor) -> Tensor:
        """Raw outputs [B, T] → a scalar that training adds to the losses: the behavioural calibrator of AITM.

        constraint_weight · mean over the rows of Σ max(p(later) − p(earlier), 0) over neighbours in the chain, with
        calibrated probabilities.
        """
        if not self.chain:
            return outputs.new_zeros(())
        probabilities = self.calibration(self.activation(outputs))
        return self.constraint_weight * chain_penalty(probabilities[:, self.chain])


def groups_of(batch: Batch) -> Groups:
    """The rows of a batch that losses on order may compare."""
    columns = {"user": batch.user, "request": batch.request}
    return {group: ids for group, ids in columns.items() if ids is not None}


def chain_penalty(probabilities: Tensor) -> Tensor:
    """Probabilities along a chain [B, steps] → mean over the rows of Σ max(p(later) − p(earlier), 0), a scalar."""
    return (probabilities[:, 1:] - probabilities[:, :-1]).relu().sum(dim=1).mean()
