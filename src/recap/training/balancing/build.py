"""Builds the balancing that a configuration asks for."""

from collections.abc import Iterable
from typing import assert_never

import torch
from torch import nn

from recap.config.optimizer import GradNormConfig, NoBalancingConfig, PcGradConfig, UncertaintyConfig
from recap.config.recap import RecapConfig
from recap.training.balancing.balancing import Balancing
from recap.training.balancing.gradients import GradNorm, PcGrad
from recap.training.balancing.weighted_losses import MeanOfLosses, Uncertainty
from recap.training.parallel import ONE_PROCESS, Strategy


def build_balancing(
    config: RecapConfig, weights: Iterable[nn.Parameter], device: torch.device, strategy: Strategy = ONE_PROCESS
) -> Balancing:
    """The configured balancing over the parameters `weights` of the network."""
    match config.optimizer.balancing:
        case NoBalancingConfig():
            return MeanOfLosses(config, weights, device, strategy)
        case UncertaintyConfig():
            return Uncertainty(config, weights, device, strategy)
        case PcGradConfig():
            return PcGrad(config, weights, device, strategy)
        case GradNormConfig() as grad_norm:
            return GradNorm(config, grad_norm, weights, device, strategy)
        case unknown:
            assert_never(unknown)
