"""Featurization: normalises continuous features, and joins other features to them."""

from abc import ABC, abstractmethod
from typing import assert_never

import torch
from torch import Tensor, nn
from torch.nn import functional

from recap.config.featurization import (
    ClipLog1pAbsConfig,
    DoubleNormLogConfig,
    FeaturizationConfig,
    Log1pAbsConfig,
    ZScoreLogConfig,
)
from recap.model.layers import BatchRenorm, batch_norm, layer_norm


def build_featurization(config: FeaturizationConfig, continuous: int, joined: int) -> "Featurization":
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


class Featurization(nn.Module, ABC):
    """[B, C] and [B, J] float32 → [B, C + J]: each continuous column by itself, then whole rows."""

    out_features: int

    def forward(self, continuous: Tensor, joined: Tensor) -> Tensor:
        """[B, C] and [B, J] → [B, C + J]."""
        return torch.cat(self.rows([self.columns(continuous), joined]), dim=1)

    @abstractmethod
    def columns(self, continuous: Tensor, indices: Tensor | None = None) -> Tensor:
        """The columns `indices` of [B, C] (None: all), [B, their number] → the same shape.

        `indices` are for evaluation: running statistics change only with all columns.
        """

    def rows(self, parts: list[Tensor]) -> list[Tensor]:
        """Featurized and joined columns, [B, …] each, C + J in total → the same columns, in any parts."""
        return parts


class Log1pAbs(Featurization):
    """Non-finite → 0, optional clamp, sign(x)·log1p|x|; append joined features unchanged."""

    def __init__(self, continuous: int, joined: int, clip_magnitude: float | None = None) -> None:
        super().__init__()
        self.out_features = continuous + joined
        self.clip_magnitude = clip_magnitude

    def columns(self, continuous: Tensor, indices: Tensor | None = None) -> Tensor:
        values = finite(continuous)
        if self.clip_magnitude is not None:
            values = values.clamp(-self.clip_magnitude, self.clip_magnitude)
        return signed_log(values)


class ZScoreLog(Featurization):
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

    def columns(self, continuous: Tensor, indices: Tensor | None = None) -> Tensor:
        means, deviations = (_at(statistics, indices) for statistics in (self.means, self.deviations))
        scores = (signed_log(finite(continuous)) - means) / deviations
        return normalized(self.batch_norm, scores, indices).clamp(-self.clip_magnitude, self.clip_magnitude)


class DoubleNormLog(Featurization):
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

    def columns(self, continuous: Tensor, indices: Tensor | None = None) -> Tensor:
        logs = signed_log(finite(continuous))
        return normalized(self.batch_norm, logs, indices).clamp(-self.clip_magnitude, self.clip_magnitude)

    def rows(self, parts: list[Tensor]) -> list[Tensor]:
        return parts if isinstance(self.layer_norm, nn.Identity) else [self.layer_norm(torch.cat(parts, dim=1))]


def normalized(norm: nn.Module, values: Tensor, indices: Tensor | None) -> Tensor:
    """`norm` of all columns, or in evaluation of the columns `indices` alone: [B, of them] → the same shape."""
    if indices is None or isinstance(norm, nn.Identity):
        output: Tensor = norm(values)
        return output
    if not len(indices):  # which batch_norm refuses
        return values
    assert isinstance(norm, BatchRenorm | nn.BatchNorm1d)
    weight, bias = (None if values is None else values[indices] for values in (norm.weight, norm.bias))
    if isinstance(norm, BatchRenorm):
        normal = (values - norm.running_mean[indices]) / norm.running_deviation[indices]
        return normal if weight is None or bias is None else normal * weight + bias
    assert norm.running_mean is not None
    assert norm.running_var is not None
    mean, variance = norm.running_mean[indices], norm.running_var[indices]
    return functional.batch_norm(values, mean, variance, weight, bias, eps=norm.eps)


def _at(values: Tensor, indices: Tensor | None) -> Tensor:
    return values if indices is None else values[indices]
