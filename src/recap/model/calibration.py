"""Probabilities of a model trained on down-sampled examples → probabilities of the population."""

from collections.abc import Sequence

import torch
from torch import Tensor

from recap.config.data import TrainDataConfig


def sampling_ratios(data: TrainDataConfig, tasks: Sequence[str]) -> Tensor:
    """r = neg_downsampling_rate / pos_downsampling_rate of each task, [T] float32; 1 where weights correct for it."""
    if data.sampling_correction == "weights":
        return torch.ones(len(tasks))
    rates = [data.tasks[task] for task in tasks]
    return torch.tensor([rate.neg_downsampling_rate / rate.pos_downsampling_rate for rate in rates])


def calibrate(probabilities: Tensor, ratios: Tensor) -> Tensor:
    """p → p·r / (1 − p + r·p): Bayes' rule for classes that were kept at different rates.

    `probabilities` [B, T] in [0, 1] and `ratios` [T] > 0 → [B, T]; r = 1 changes nothing, bit for bit.
    """
    corrected = probabilities * ratios / (1 - probabilities + ratios * probabilities)
    return torch.where(ratios == 1, probabilities, corrected)
