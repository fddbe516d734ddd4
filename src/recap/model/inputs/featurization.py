"""Featurization: normalises continuous features, and joins other features to them."""

from typing import assert_never

import torch
from torch import Tensor, nn

from recap.config.featurization import (
    ClipLog1pAbsConfig,
    DoubleNormLogConfig,
    FeaturizationConfig,
    Log1pAbsConfig,
    ZScoreLogConfig,
)
from recap.model.layers import BatchRenorm, batch_norm, layer_norm


def build_featurization(
    config: FeaturizationConfig, continuous: int, joined: int
) -> "Log1pAbs | ZScoreLog | DoubleNormLog":
    """[B, continuous] and [B, joined], float32 → [B, out_features] float32; either width may be 0."""
    match config:
        case Log1pAbsConfig():
            return Log1pAbs(continuous, joined)
        case ClipLog1pAbsConfig():
            return Log1pAbs(continuous, joined, config.clip_magnitude)
        case ZScoreLogConfig():
            return ZScoreLog(continuous, joined, config)
        case DoubleNormLogConfig():
            return DoubleNormLog(continuous, joined, config)
        case _:
            assert_never(config)


def signed_log(values: Tensor) -> Tensor:
    """sign(x)·log1p|x|, of any shape."""
    return values.sign() * values.abs().log1p()


def finite(values: Tensor) -> Tensor:
    """The values, of any shape, with NaN and infinity replaced by 0."""
    return values.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)


class Log1pAbs(nn.Module):
    """Non-finite → 0, optional clamp, sign(x)·log1p|x|; append joined features unchanged."""

    def __init__(self, continuous: int, joined: int, clip_magnitude: float | None = None) -> None:
        super().__init__()
        self.out_features = continuous + joined
        self.clip_magnitude = clip_magnitude

    def forward(self, continuous: Tensor, joined: Tensor) -> Tensor:
        """[B, C] and [B, J] → [B, C + J]."""
        values = finite(continuous)
        if self.clip_magnitude is not None:
            values = values.clamp(-self.clip_magnitude, self.clip_magnitude)
        return torch.cat([signed_log(values), joined], dim=1)


class ZScoreLog(nn.Module):
    """Non-finite → 0, sign(x)·log1p|x|, (x − mean) / deviation, BatchNorm, clamp; append joined features unchanged.

    `means` and `deviations` [C] are buffers: 0 and 1 until `set_analysis` is called or weights are loaded.
    """

    def __init__(self, continuous: int, joined: int, config: ZScoreLogConfig) -> None:
        super().__init__()
        self.out_features = continuous + joined
        self.clip_magnitude = config.clip_magnitude
        self.means: Tensor
        self.deviations: Tensor
        self.register_buffer("means", torch.zeros(continuous))
        self.register_buffer("deviations", torch.ones(continuous))
        self.batch_norm: nn.Module = nn.Identity()
        if config.batch_norm is not None and continuous:
            norm = config.batch_norm
            self.batch_norm = BatchRenorm(norm, continuous) if config.renorm else batch_norm(norm, continuous)

    def set_analysis(self, means: Tensor, deviations: Tensor) -> None:
        """Set the means and deviations of the data, [C] each; a deviation of 0 counts as 1."""
        self.means.copy_(means)
        self.deviations.copy_(torch.where(deviations > 0, deviations, 1.0))

    def forward(self, continuous: Tensor, joined: Tensor) -> Tensor:
        """[B, C] and [B, J] → [B, C + J]."""
        scores = (signed_log(finite(continuous)) - self.means) / self.deviations
        clipped = self.batch_norm(scores).clamp(-self.clip_magnitude, self.clip_magnitude)
        return torch.cat([clipped, joined], dim=1)


class DoubleNormLog(nn.Module):
    """Non-finite → 0, sign(x)·log1p|x|, BatchNorm, clamp; append joined features; optional LayerNorm over all columns.

    [B, C] and [B, J] float32 → [B, C + J] float32. Either width may be 0.
    """

    def __init__(self, continuous: int, joined: int, config: DoubleNormLogConfig) -> None:
        super().__init__()
        self.out_features = continuous + joined
        self.clip_magnitude = config.clip_magnitude
        self.batch_norm: nn.Module = nn.Identity()
        if config.batch_norm is not None and continuous:
            self.batch_norm = batch_norm(config.batch_norm, continuous)
        self.layer_norm: nn.Module = nn.Identity()
        if config.layer_norm is not None and self.out_features:
            self.layer_norm = layer_norm(config.layer_norm, self.out_features)

    def forward(self, continuous: Tensor, joined: Tensor) -> Tensor:
        """[B, C] and [B, J] → [B, C + J]."""
        logs = signed_log(finite(continuous))
        clipped = self.batch_norm(logs).clamp(-self.clip_magnitude, self.clip_magnitude)  # [B, C]
        output: Tensor = self.layer_norm(torch.cat([clipped, joined], dim=1))
        return output
