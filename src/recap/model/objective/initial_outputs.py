"""The outputs at which towers start: the best constants for the rates of their tasks."""

import math
from collections.abc import Mapping

import torch

from recap.config.loss import FocalConfig
from recap.config.model import ModelConfig, TaskConfig
from recap.config.sharing import EsmmConfig
from recap.model.objective.losses import FocalLoss

MAX_CONDITIONAL = 0.999
"""Limit of a conditional rate in a chain, where every positive of a task is also one of the next."""


def initial_outputs(config: ModelConfig, rates: Mapping[str, float]) -> dict[str, float]:
    """Task → the output of its tower, before a chain multiplies probabilities, for each task in `rates`.

    `rates`: the share of positives in (0, 1), or the mean transformed label of a regression. In an ESMM chain the
    tower of a task predicts p(task) / p(task before it), at most `MAX_CONDITIONAL`.
    """
    outputs = {task: best_constant(config.tasks[task], rate) for task, rate in rates.items()}
    if not isinstance(config.cascade, EsmmConfig):
        return outputs
    before = 1.0  # p of the task before
    for task in config.cascade.chain:
        if task not in outputs:  # its tower starts at an output of 0
            before *= 0.5
            continue
        probability = 1 / (1 + math.exp(-outputs[task]))
        conditional = min(probability / before, MAX_CONDITIONAL) if before < 1 else probability
        outputs[task] = math.log(conditional / (1 - conditional))
        before *= conditional
    return outputs


def best_constant(task: TaskConfig, rate: float) -> float:
    """The constant output with the least mean loss over labels of which a share of `rate` is positive.

    Binary cross entropy: ln(rate / (1 − rate)) + ln(pos_weight). Focal loss has no closed form; it is searched in
    steps of 0.001. Regressions: `rate`, the mean transformed label, which is exact for `mse` and close for the others.
    Losses on order do not depend on a constant.
    """
    if task.objective.kind == "regression":
        return rate
    if not isinstance(task.loss, FocalConfig):
        return math.log(rate / (1 - rate)) + math.log(task.pos_weight)
    outputs = torch.arange(-40, 40, 0.001, dtype=torch.float64)
    loss, weight = FocalLoss(task.loss.gamma), torch.tensor(task.pos_weight, dtype=torch.float64)
    positives, negatives = (loss(outputs, torch.full_like(outputs, label), weight) for label in (1.0, 0.0))
    return float(outputs[(rate * positives + (1 - rate) * negatives).argmin()])
