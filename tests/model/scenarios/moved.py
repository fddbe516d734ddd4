"""Rankers whose weights are all away from where they start."""

import torch
from model.rankers import make_batch, make_config, make_ranker

from recap.config.recap import RecapConfig
from recap.data.batch import Batch
from recap.model.ranker import Ranker


def moved_ranker(case: str) -> tuple[RecapConfig, Ranker, Batch]:
    config = make_config(case)
    ranker, batch = make_ranker(config), make_batch(config)
    with torch.no_grad():
        for parameter in ranker.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    return config, ranker.eval(), batch
