"""Probabilities of a model trained on down-sampled examples → probabilities of the population."""

from typing import Self

import torch
from torch import Tensor, nn

from recap.config.recap import RecapConfig


class Calibration(nn.Module):
    """p → p·r / (1 − p + r·p): Bayes' rule for classes sampled at different rates.

    r = neg_downsampling_rate / pos_downsampling_rate of each task; r = 1 changes nothing, bit for bit.
    """

    def __init__(self, ratios: Tensor) -> None:
        """`ratios` [T] > 0, float32."""
        super().__init__()
        self.ratios: Tensor
        # Derived from the configuration, so not saved with the weights.
        self.register_buffer("ratios", ratios, persistent=False)  # [T]

    @classmethod
    def of(cls, config: RecapConfig) -> Self:
        """The calibration for the rates of `train_data`; the identity if sample weights correct for them already."""
        data = config.train_data
        if data.sampling_correction == "weights":
            return cls(torch.ones(len(config.tasks)))
        rates = [data.tasks[task] for task in config.tasks]
        return cls(torch.tensor([rate.neg_downsampling_rate / rate.pos_downsampling_rate for rate in rates]))

    def forward(self, probabilities: Tensor) -> Tensor:
        """[B, T] in [0, 1] → [B, T]."""
        corrected = probabilities * self.ratios / (1 - probabilities + self.ratios * probabilities)
        return torch.where(self.ratios == 1, probabilities, corrected)
