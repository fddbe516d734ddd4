"""Cascades: chains or graphs of tasks, such as click → like, in which a task builds on others."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from graphlib import TopologicalSorter
from itertools import pairwise
from typing import assert_never

import torch
from torch import Tensor, nn

from recap.config.model import ModelConfig
from recap.config.sharing import AitmConfig, DbmtlConfig, EsmmConfig
from recap.model.inputs.layout import InputLayout
from recap.model.layers import linear
from recap.model.names import NamedModules


class Cascade(nn.Module, ABC):
    """A step before the towers (`forward`) and one after them (`chained`); either may change nothing."""

    layouts: Sequence[InputLayout]
    """The columns that the tower of each task reads, in the order of `model.tasks`."""

    @abstractmethod
    def forward(self, representations: list[Tensor]) -> list[Tensor]:
        """Outputs of the sharing, T × [B, N] → inputs of the towers, T × [B, width of the task's layout]."""

    def chained(self, logits: list[Tensor]) -> list[Tensor]:
        """Outputs of the towers, T × [B] → the logits of the tasks, T × [B]."""
        return logits


class Independent(Cascade):
    """No cascade: every task stands alone."""

    def __init__(self, layout: InputLayout, tasks: int) -> None:
        super().__init__()
        self.layouts = [layout] * tasks

    def forward(self, representations: list[Tensor]) -> list[Tensor]:
        return representations


class Esmm(Independent):
    """p(task) = p(previous task) · σ(output of the tower), along `chain`, the indices of its tasks.

    Ma et al., "Entire Space Multi-Task Model", SIGIR 2018: all probabilities refer to all rows.
    """

    def __init__(self, layout: InputLayout, tasks: int, chain: Sequence[int]) -> None:
        super().__init__(layout, tasks)
        self.chain = list(chain)

    def chained(self, logits: list[Tensor]) -> list[Tensor]:
        """T × [B] → T × [B]; logits never increase along the chain."""
        logits = list(logits)
        for before, task in pairwise(self.chain):
            logits[task] = logit_of_product(logits[before], logits[task])
        return logits


def logit_of_product(left: Tensor, right: Tensor) -> Tensor:
    """logit(σ(left) · σ(right)), of any shape, with finite gradients for logits of any magnitude.

    1 / (σ(a) σ(b)) = (1 + e⁻ᵃ)(1 + e⁻ᵇ), so the odds against the product are e⁻ᵃ + e⁻ᵇ + e⁻ᵃ⁻ᵇ. With
    log p − log(1 − p), 1 − p would round to 0 when both are nearly certain.
    """
    return -torch.stack([-left, -right, -left - right]).logsumexp(dim=0)


class Aitm(Cascade):
    """Every task of the chain but the first mixes its own representation with one transferred from the previous task.

    Xi et al., "Modeling the Sequential Dependence among Audience Multi-step Conversions", KDD 2021. What the paper
    calls towers are the projections here, with outputs qₜ [B, width]; the towers of this model read zₜ.
    """

    def __init__(self, config: AitmConfig, layout: InputLayout, tasks: Sequence[str]) -> None:
        super().__init__()
        self.chain = {task: tasks.index(task) for task in config.chain}
        self.projections = NamedModules({task: _dense(layout.width, config.width) for task in config.chain})
        self.transfers = NamedModules({task: Transfer(config.width) for task in config.chain[1:]})
        narrow = InputLayout.of_numbers(config.width)
        self.layouts = [narrow if task in config.chain else layout for task in tasks]

    def forward(self, representations: list[Tensor]) -> list[Tensor]:
        """zₜ for the tasks of the chain; the representations of other tasks are unchanged."""
        outputs = list(representations)
        for name, task in self.chain.items():
            outputs[task] = self.projections.named(name)(outputs[task])
        for before, name in pairwise(self.chain):
            task = self.chain[name]
            outputs[task] = self.transfers.named(name)(outputs[self.chain[before]], outputs[task])
        return outputs


class Transfer(nn.Module):
    """zₜ = Σ over u ∈ {pₜ₋₁, qₜ} of w(u) V(u), with pₜ₋₁ = g(zₜ₋₁): [B, width] twice → [B, width].

    w = softmax over u of ⟨K(u), Q(u)⟩ / √width.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.transfer = _dense(width, width)
        self.value, self.key, self.query = (linear(width, width) for _ in range(3))

    def forward(self, before: Tensor, own: Tensor) -> Tensor:
        """`before`: z of the previous task; `own`: q of this task."""
        both = torch.stack([self.transfer(before), own], dim=1)  # [B, 2, width]
        similarity = (self.key(both) * self.query(both)).sum(dim=2) / math.sqrt(both.shape[2])  # [B, 2]
        mixed: Tensor = (similarity.softmax(dim=1).unsqueeze(2) * self.value(both)).sum(dim=1)
        return mixed


class Dbmtl(Cascade):
    """hₜ = ReLU(W [qₜ ‖ hₚ for each parent p] + b) with qₜ = ReLU(Linear(own representation)); hₜ = qₜ without parents.

    Wang et al., "Deep Bayesian Multi-Target Learning for Recommender Systems", arXiv:1902.09154: qₜ is the output of a
    task's specific layer, hₜ of its Bayesian layer; the towers of this model read hₜ [B, width].
    """

    def __init__(self, config: DbmtlConfig, layout: InputLayout, tasks: Sequence[str]) -> None:
        super().__init__()
        self.parents, width = config.parents, config.width
        linked = [task for task in tasks if task in config.linked]
        self.projections = NamedModules({task: _dense(layout.width, width) for task in linked})
        self.joints = NamedModules(
            {task: _dense((1 + len(self.parents[task])) * width, width) for task in linked if task in self.parents}
        )
        self.order = {task: tasks.index(task) for task in TopologicalSorter(self.parents).static_order()}
        narrow = InputLayout.of_numbers(width)
        self.layouts = [narrow if task in linked else layout for task in tasks]

    def forward(self, representations: list[Tensor]) -> list[Tensor]:
        """hₜ for the tasks of the graph; the representations of other tasks are unchanged."""
        outputs = list(representations)
        for name, task in self.order.items():  # parents first
            outputs[task] = self.projections.named(name)(outputs[task])
            if name in self.parents:
                read = [outputs[task], *(outputs[self.order[parent]] for parent in self.parents[name])]
                outputs[task] = self.joints.named(name)(torch.cat(read, dim=1))
        return outputs


def _dense(in_features: int, out_features: int) -> nn.Module:
    return nn.Sequential(linear(in_features, out_features), nn.ReLU())


def build_cascade(config: ModelConfig, layout: InputLayout) -> Cascade:
    """The cascade that `config` describes. `layout`: the representation of each task, from the sharing."""
    tasks = list(config.tasks)
    match config.cascade:
        case None:
            return Independent(layout, len(tasks))
        case EsmmConfig():
            return Esmm(layout, len(tasks), [tasks.index(task) for task in config.cascade.chain])
        case AitmConfig():
            return Aitm(config.cascade, layout, tasks)
        case DbmtlConfig():
            return Dbmtl(config.cascade, layout, tasks)
        case _:
            assert_never(config.cascade)
