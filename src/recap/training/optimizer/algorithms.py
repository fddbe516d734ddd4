"""Builds the optimizer that a configuration asks for; `ScheduledOptimizer` sets its rates at each step."""

from collections.abc import Mapping, Sequence
from typing import Any, assert_never

import torch
from torch import Tensor, nn

from recap.config.optimizer import (
    AdagradConfig,
    AdamConfig,
    AdamWConfig,
    RowwiseAdagradConfig,
    SgdConfig,
    TableAlgorithmConfig,
)
from recap.native.rounded_weight import RoundedWeight
from recap.training.optimizer.one_pass import OnePassAdam
from recap.training.optimizer.rows import RowOptimizer


def build_algorithm(
    algorithm: TableAlgorithmConfig,
    groups: Sequence[Sequence[nn.Parameter]],
    *,
    sparse: bool = False,
    copies: Mapping[Tensor, RoundedWeight] | None = None,
) -> torch.optim.Optimizer:
    """An optimizer with one parameter group, at rate 0, per group. `sparse`: the gradients are sparse.

    `copies`: weights with a bf16 copy; Adam and AdamW write it.
    """
    parameters: list[dict[str, Any]] = [{"params": list(group)} for group in groups]
    if sparse:
        assert not isinstance(algorithm, AdamWConfig)  # the check of the configuration rejects it
        return RowOptimizer(parameters, algorithm)
    if copies and isinstance(algorithm, AdamConfig | AdamWConfig):
        return OnePassAdam(parameters, algorithm, copies)
    match algorithm:
        case AdamConfig():
            betas = (algorithm.beta_1, algorithm.beta_2)
            return torch.optim.Adam(parameters, lr=0.0, betas=betas, eps=algorithm.epsilon, fused=True)
        case AdamWConfig():
            betas, decay = (algorithm.beta_1, algorithm.beta_2), algorithm.weight_decay
            return torch.optim.AdamW(
                parameters, lr=0.0, betas=betas, eps=algorithm.epsilon, weight_decay=decay, fused=True
            )
        case SgdConfig():
            return _sgd(algorithm, parameters)
        case AdagradConfig():
            start = algorithm.initial_accumulator_value
            # torch 2.6 has fused Adagrad on the CPU only.
            fused = True if all(parameter.device.type == "cpu" for group in groups for parameter in group) else None
            return torch.optim.Adagrad(
                parameters, lr=0.0, initial_accumulator_value=start, eps=algorithm.epsilon, fused=fused
            )
        case RowwiseAdagradConfig():
            return RowOptimizer(parameters, algorithm)
        case _:
            assert_never(algorithm)


def _sgd(algorithm: SgdConfig, parameters: list[dict[str, Any]]) -> torch.optim.SGD:
    optimizer = torch.optim.SGD(
        parameters, lr=0.0, momentum=algorithm.momentum, nesterov=algorithm.nesterov, fused=True
    )
    if algorithm.momentum:
        # A buffer of zeros does not change the first step. Without it, the fused step fails for a parameter whose
        # first gradient comes in a later step than the others of its group.
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer
