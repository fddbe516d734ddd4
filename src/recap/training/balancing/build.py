"""Builds the balancing that a configuration asks for."""

from typing import assert_never

import torch

from recap.config.optimizer import GradNormConfig, NoBalancingConfig, PcGradConfig, UncertaintyConfig
from recap.config.recap import RecapConfig
from recap.model.ranker import Ranker
from recap.training.balancing.balancing import Balancing
from recap.training.balancing.gradients import GradNorm, PcGrad
from recap.training.balancing.losses import MeanOfLosses, Uncertainty
from recap.training.parallel import ONE_PROCESS, Strategy


def build_balancing(
    config: RecapConfig, ranker: Ranker, device: torch.device, strategy: Strategy = ONE_PROCESS
) -> Balancing:
    """The configured balancing over the parameters of `ranker`."""
    match config.optimizer.balancing:
        case NoBalancingConfig():
            return MeanOfLosses(config, ranker, device, strategy)
        case UncertaintyConfig():
            return Uncertainty(config, ranker, device, strategy)
        case PcGradConfig():
            return PcGrad(config, ranker, device, strategy)
        case GradNormConfig() as grad_norm:
            return GradNorm(config, grad_norm, ranker, device, strategy)
        case unknown:
            assert_never(unknown)
