"""Continuous and binary columns → what a network can read."""

import torch
from torch import Tensor, nn

from recap.config.featurization import DoubleNormLogConfig
from recap.model.layers import batch_norm


class DoubleNormLog(nn.Module):
    """Non-finite → 0, sign(x)·log1p|x|, BatchNorm, clamp; join binary; LayerNorm over both.

    [B, C] and [B, K] float32 → [B, C + K] float32. Either width may be 0.
    """

    def __init__(self, continuous: int, binary: int, config: DoubleNormLogConfig) -> None:
        super().__init__()
        self.out_features = continuous + binary
        self.clip_magnitude = config.clip_magnitude
        self.batch_norm: nn.Module = nn.Identity()
        if config.batch_norm is not None and continuous:
            self.batch_norm = batch_norm(config.batch_norm, continuous)
        self.layer_norm: nn.Module = nn.Identity()
        if config.layer_norm is not None and self.out_features:
            norm = config.layer_norm
            self.layer_norm = nn.LayerNorm(self.out_features, eps=norm.epsilon, elementwise_affine=norm.affine)

    def forward(self, continuous: Tensor, binary: Tensor) -> Tensor:
        """[B, C] and [B, K] → [B, C + K]."""
        finite = torch.where(continuous.isfinite(), continuous, 0.0)
        logs = finite.sign() * finite.abs().log1p()
        clipped = self.batch_norm(logs).clamp(-self.clip_magnitude, self.clip_magnitude)  # [B, C]
        output: Tensor = self.layer_norm(torch.cat([clipped, binary], dim=1))
        return output
