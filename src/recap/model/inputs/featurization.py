"""Featurization: normalises continuous features, perhaps embeds them, and joins other features to them."""

from abc import ABC, abstractmethod
from typing import assert_never

import torch
from torch import Tensor, nn

from recap.config.featurization import (
    ClipLog1pAbsConfig,
    DoubleNormLogConfig,
    FeaturizationConfig,
    Log1pAbsConfig,
    NumbersConfig,
    QuantileConfig,
    ZScoreLogConfig,
)
from recap.model.inputs.norms import at, column_norm, norm_columns
from recap.model.inputs.numbers import NumberEmbedding, build_number_embedding
from recap.model.inputs.quantiles import normal_quantile, points_of, shares
from recap.model.layers import BatchRenorm, layer_norm


def build_featurization(
    config: FeaturizationConfig, continuous: int, joined: int, numbers: NumbersConfig | None = None
) -> "Featurization":
    """The featurization of [B, continuous] and [B, joined]; either width may be 0. `numbers`: `model.numbers`."""
    embedding = build_number_embedding(numbers, continuous) if numbers is not None else None
    match config:
        case Log1pAbsConfig():
            return Log1pAbs(config, continuous, joined, embedding)
        case ClipLog1pAbsConfig():
            return Log1pAbs(config, continuous, joined, embedding, config.clip_magnitude)
        case ZScoreLogConfig():
            return ZScoreLog(config, continuous, joined, embedding)
        case QuantileConfig():
            return Quantile(config, continuous, joined, embedding)
        case DoubleNormLogConfig():
            return DoubleNormLog(config, continuous, joined, embedding)
        case _:
            assert_never(config)


def signed_log(values: Tensor) -> Tensor:
    """sign(x)·log1p|x|, of any shape."""
    return values.sign() * values.abs().log1p()


def finite(values: Tensor) -> Tensor:
    """The values, of any shape, with NaN and infinity replaced by 0."""
    return values.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)


class Featurization(nn.Module, ABC):
    """Continuous columns [B, C], each by itself, then whole rows of them and the joined columns [B, J].

    With an embedding of numbers each column becomes a vector, and `rows` are those of the joined columns alone.
    """

    def __init__(
        self, config: FeaturizationConfig, continuous: int, joined: int, embedding: NumberEmbedding | None
    ) -> None:
        super().__init__()
        self.embedding = embedding
        self.out_features = joined + (continuous if embedding is None else 0)
        """Columns of `rows`."""
        self.embedded = [] if embedding is None else [embedding.width] * continuous
        """Widths of the vectors that the continuous columns become; empty without an embedding."""
        self.missing: nn.Parameter | None = None  # [C] or [C, width]
        """What stands for the missing values of each column; None: the number 0."""
        if config.missing == "learned" and continuous:
            shape = [continuous] if embedding is None else [continuous, embedding.width]
            self.missing = nn.Parameter(torch.zeros(shape))

    def forward(self, continuous: Tensor, joined: Tensor) -> Tensor:
        """[B, C] and [B, J] → [B, C + J]; with an embedding [B, J + C · width]."""
        columns = self.columns(continuous)
        if self.embedding is None:
            return torch.cat(self.rows([columns, joined]), dim=1)
        return torch.cat([*self.rows([joined]), columns.flatten(1)], dim=1)

    def columns(self, continuous: Tensor, indices: Tensor | None = None) -> Tensor:
        """The columns `indices` of [B, C] (None: all), [B, their number] → the same shape, or [B, …, width].

        `indices` are for evaluation: running statistics change only with all columns.
        """
        observed = continuous.isfinite() if self.missing is not None else None
        values = self.normalized(finite(continuous), observed, indices)
        if self.embedding is not None:
            values = self.embedding(values, indices)
        if self.missing is None or observed is None:
            return values
        known = observed if self.embedding is None else observed.unsqueeze(2)
        return torch.where(known, values, at(self.missing, indices))

    @abstractmethod
    def normalized(self, values: Tensor, observed: Tensor | None, indices: Tensor | None) -> Tensor:
        """Finite values of the columns `indices` → the same shape.

        `observed`, of this shape: which of them are values of the data, not 0 for a missing one, where that matters.
        """

    def rows(self, parts: list[Tensor]) -> list[Tensor]:
        """Columns of numbers, featurized and joined, [B, …] each, `out_features` in total → the same, in any parts."""
        return parts


class Log1pAbs(Featurization):
    """Optional clamp, sign(x)·log1p|x|; append joined features unchanged."""

    def __init__(
        self,
        config: Log1pAbsConfig | ClipLog1pAbsConfig,
        continuous: int,
        joined: int,
        embedding: NumberEmbedding | None,
        clip_magnitude: float | None = None,
    ) -> None:
        super().__init__(config, continuous, joined, embedding)
        self.clip_magnitude = clip_magnitude

    def normalized(self, values: Tensor, observed: Tensor | None, indices: Tensor | None) -> Tensor:
        if self.clip_magnitude is not None:
            values = values.clamp(-self.clip_magnitude, self.clip_magnitude)
        return signed_log(values)


class ZScoreLog(Featurization):
    """sign(x)·log1p|x|, (x − mean) / deviation, BatchNorm, clamp; append joined features unchanged.

    `means` and `deviations` [C] are buffers: 0 and 1 until `set_analysis` is called or weights are loaded.
    """

    def __init__(
        self, config: ZScoreLogConfig, continuous: int, joined: int, embedding: NumberEmbedding | None
    ) -> None:
        super().__init__(config, continuous, joined, embedding)
        self.clip_magnitude = config.clip_magnitude
        self.means: Tensor
        self.deviations: Tensor
        self.register_buffer("means", torch.zeros(continuous))
        self.register_buffer("deviations", torch.ones(continuous))
        self.batch_norm: nn.Module = nn.Identity()
        if config.batch_norm is not None and continuous:
            if config.renorm:
                self.batch_norm = BatchRenorm(config.batch_norm, continuous)
            else:
                self.batch_norm = column_norm(config.batch_norm, continuous, skips_missing=self.missing is not None)

    def set_analysis(self, means: Tensor, deviations: Tensor) -> None:
        """Set the means and deviations of the data, [C] each; a deviation of 0 counts as 1."""
        self.means.copy_(means)
        self.deviations.copy_(torch.where(deviations > 0, deviations, 1.0))

    def normalized(self, values: Tensor, observed: Tensor | None, indices: Tensor | None) -> Tensor:
        means, deviations = (at(statistics, indices) for statistics in (self.means, self.deviations))
        scores = (signed_log(values) - means) / deviations
        normal = norm_columns(self.batch_norm, scores, observed, indices)
        return normal.clamp(-self.clip_magnitude, self.clip_magnitude)


class Quantile(Featurization):
    """The share of the sample with a lower value, or the normal value of that share; append joined features unchanged.

    `points` [2, C, quantiles] is a buffer: values of each column, and the share of the sample below each. They go from
    -1 to 1 until `set_quantiles` is called or weights are loaded.
    """

    def __init__(self, config: QuantileConfig, continuous: int, joined: int, embedding: NumberEmbedding | None) -> None:
        super().__init__(config, continuous, joined, embedding)
        self.to_normal = config.output == "normal"
        self.points: Tensor
        spread = torch.linspace(-1, 1, config.quantiles)
        self.register_buffer("points", torch.stack([spread, (spread + 1) / 2])[:, None].repeat(1, continuous, 1))

    def set_quantiles(self, quantiles: Tensor) -> None:
        """Set the quantiles of each column, [C, quantiles] in ascending order."""
        self.points.copy_(points_of(quantiles))

    def normalized(self, values: Tensor, observed: Tensor | None, indices: Tensor | None) -> Tensor:
        below = shares(values, self.points if indices is None else self.points[:, indices])
        return normal_quantile(below) if self.to_normal else below


class DoubleNormLog(Featurization):
    """sign(x)·log1p|x|, BatchNorm, clamp; append joined features; optional LayerNorm over all columns."""

    def __init__(
        self, config: DoubleNormLogConfig, continuous: int, joined: int, embedding: NumberEmbedding | None
    ) -> None:
        super().__init__(config, continuous, joined, embedding)
        self.clip_magnitude = config.clip_magnitude
        self.batch_norm: nn.Module = nn.Identity()
        if config.batch_norm is not None and continuous:
            self.batch_norm = column_norm(config.batch_norm, continuous, skips_missing=self.missing is not None)
        self.layer_norm: nn.Module = nn.Identity()
        if config.layer_norm is not None and self.out_features:
            self.layer_norm = layer_norm(config.layer_norm, self.out_features)

    def normalized(self, values: Tensor, observed: Tensor | None, indices: Tensor | None) -> Tensor:
        normal = norm_columns(self.batch_norm, signed_log(values), observed, indices)
        return normal.clamp(-self.clip_magnitude, self.clip_magnitude)

    def rows(self, parts: list[Tensor]) -> list[Tensor]:
        return parts if isinstance(self.layer_norm, nn.Identity) else [self.layer_norm(torch.cat(parts, dim=1))]
