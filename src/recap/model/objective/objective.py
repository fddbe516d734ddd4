"""`Objective`: raw outputs and labels → a loss for each task, and the penalty of a cascade."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from recap.config.recap import RecapConfig
from recap.config.sharing import AitmConfig
from recap.data.batch import Batch
from recap.model.activation import OutputActivation
from recap.model.calibration import Calibration
from recap.model.objective.losses import MultiTaskLoss


class TaskLosses(NamedTuple):
    """The losses of a micro-batch, cut off from the network at its raw outputs.

    `losses` and `penalty` are functions of `leaf`; gradients reach the network from `leaf` through `outputs`.
    """

    outputs: Sequence[Tensor]  # T × [B], the raw outputs, with the graph of the network
    leaf: Tensor  # [B, T], their values
    losses: Tensor  # [T], before any weight of a task
    penalty: Tensor  # scalar


class Objective(nn.Module):
    """The loss of each task, before balancing, and the penalty of a cascade. Has no parameters."""

    def __init__(self, config: RecapConfig) -> None:
        super().__init__()
        self.losses = MultiTaskLoss.of(config.model)
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
        """The raw outputs of the tasks, T × [B] → the loss of each, a mean over the rows, and the penalty."""
        assert batch.labels is not None
        assert batch.weights is not None
        leaf = torch.stack([output.detach() for output in outputs], dim=1).requires_grad_()
        losses = self.losses(leaf, batch.labels, batch.weights, batch.user)
        return TaskLosses(outputs, leaf, losses, self.penalty(leaf))

    def row_losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Raw outputs [B, T] → the weighted loss of each row [B, T], without pairwise losses."""
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


def chain_penalty(probabilities: Tensor) -> Tensor:
    """Probabilities along a chain [B, steps] → mean over the rows of Σ max(p(later) − p(earlier), 0), a scalar."""
    return (probabilities[:, 1:] - probabilities[:, :-1]).relu().sum(dim=1).mean()
