"""From the algorithm of a configuration to an optimizer; rates are set by `ScheduledOptimizer`, step by step."""

from collections.abc import Sequence
from typing import Any, assert_never

import torch
from torch import nn

from recap.config.optimizer import (
    AdagradConfig,
    AdamConfig,
    AdamWConfig,
    RowwiseAdagradConfig,
    SgdConfig,
    TableAlgorithmConfig,
)
from recap.training.optimizer.rows import RowOptimizer


def build_algorithm(
    algorithm: TableAlgorithmConfig, groups: Sequence[Sequence[nn.Parameter]], *, sparse: bool = False
) -> torch.optim.Optimizer:
    """An optimizer with a parameter group, of rate 0, for each of `groups`. `sparse`: their gradients are."""
    parameters: list[dict[str, Any]] = [{"params": list(group)} for group in groups]
    if sparse:
        assert not isinstance(algorithm, AdamWConfig)  # refused with the configuration
        return RowOptimizer(parameters, algorithm)
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
            # torch 2.6 has the fused one for the CPU alone.
            fused = True if all(each.device.type == "cpu" for group in groups for each in group) else None
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
        # From zero a first step is the same. Left to torch, a parameter that gets its first gradient in a later step
        # than others of its group has no buffer, which the fused step does not expect.
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer
