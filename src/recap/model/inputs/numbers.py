"""Embeddings of numbers: each continuous column, once normalised, becomes a vector by weights of its own."""

import math
from abc import ABC, abstractmethod
from typing import assert_never

import torch
from torch import Tensor, nn
from torch.nn import functional

from recap.config.featurization import AutoDisConfig, NumbersConfig, PeriodicConfig, PiecewiseLinearConfig
from recap.model.inputs.norms import at
from recap.model.layers import initialize, product


def build_number_embedding(config: NumbersConfig, columns: int) -> "NumberEmbedding":
    """The embedding of `columns` columns."""
    match config:
        case PiecewiseLinearConfig():
            return PiecewiseLinear(config, columns)
        case PeriodicConfig():
            return Periodic(config, columns)
        case AutoDisConfig():
            return AutoDis(config, columns)
        case _:
            assert_never(config)


class NumberEmbedding(nn.Module, ABC):
    """[B, C] finite → [B, C, width]."""

    width: int

    @abstractmethod
    def forward(self, values: Tensor, indices: Tensor | None = None) -> Tensor:
        """The columns `indices` of [B, C] (None: all), [B, their number] → [B, their number, width]."""


class ColumnProduct(nn.Module):
    """A matrix for each column, and perhaps a bias: [B, C, inputs] → [B, C, outputs]."""

    def __init__(self, columns: int, inputs: int, outputs: int, *, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(columns, inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(columns, outputs)) if bias else None
        for matrix in self.weight.unbind():
            initialize(matrix, transposed=True)

    def forward(self, values: Tensor, indices: Tensor | None = None) -> Tensor:
        """As `NumberEmbedding.forward`, with `inputs` numbers for each column."""
        outputs = product(values.transpose(0, 1), at(self.weight, indices)).transpose(0, 1)
        return outputs if self.bias is None else outputs + at(self.bias, indices)


class PiecewiseLinear(NumberEmbedding):
    """PLE and a Linear, perhaps with ReLU (Gorishniy et al. 2022, arXiv:2203.05556, section 3.2).

    `edges` [C, bins + 1] is a buffer: from -1 to 1 until `set_edges` is called or weights are loaded. Where they are
    equal, a column has fewer bins, and the spare ones hold 0.
    """

    def __init__(self, config: PiecewiseLinearConfig, columns: int) -> None:
        super().__init__()
        self.width, self.activates = config.width, config.activation == "relu"
        self.edges: Tensor
        self.register_buffer("edges", torch.linspace(-1, 1, config.bins + 1).repeat(columns, 1))
        self.linear = ColumnProduct(columns, config.bins, config.width, bias=True)

    def set_edges(self, quantiles: Tensor) -> None:
        """Set the edges of the bins, [C, bins + 1] in ascending order. A column of one value gets one bin after it."""
        for column, values in enumerate(quantiles):
            edges = values.unique()
            if len(edges) == 1:
                edges = torch.cat([edges, edges + 1])
            self.edges[column] = edges[-1]
            self.edges[column, : len(edges)] = edges

    def forward(self, values: Tensor, indices: Tensor | None = None) -> Tensor:
        outputs: Tensor = self.linear(self.encoded(values, indices), indices)
        return outputs.relu() if self.activates else outputs

    def encoded(self, values: Tensor, indices: Tensor | None = None) -> Tensor:
        """[B, C] → [B, C, bins]: equation 1 of the paper; the outer bins go on below and above the edges."""
        edges = at(self.edges, indices)
        left, right = edges[:, :-1], edges[:, 1:]
        is_bin = right > left
        is_last = is_bin & (right == edges[:, -1:])
        is_first = torch.arange(left.shape[1], device=left.device) == 0
        positions = (values.unsqueeze(2) - left) / torch.where(is_bin, right - left, 1)
        least = torch.where(is_first, -math.inf, 0.0)
        most = torch.where(is_last, math.inf, is_bin.to(values.dtype))
        return torch.minimum(torch.maximum(positions, least), most)


class Periodic(NumberEmbedding):
    """ReLU(Linear([sin 2πcx, cos 2πcx])) with learned frequencies c: PLR of the same paper, section 3.3."""

    def __init__(self, config: PeriodicConfig, columns: int) -> None:
        super().__init__()
        self.width = config.width
        self.frequencies = nn.Parameter(torch.empty(columns, config.frequencies))
        nn.init.normal_(self.frequencies, std=config.sigma)
        self.linear = ColumnProduct(columns, 2 * config.frequencies, config.width, bias=True)

    def forward(self, values: Tensor, indices: Tensor | None = None) -> Tensor:
        angles = 2 * math.pi * at(self.frequencies, indices) * values.unsqueeze(2)  # [B, C, frequencies]
        outputs: Tensor = self.linear(torch.cat([angles.sin(), angles.cos()], dim=2), indices)
        return outputs.relu()


class AutoDis(NumberEmbedding):
    """Σ over buckets h of softmax(x̃ / τ)ₕ · meta-embedding h, where x̃ = W·g + α·g and g = LeakyReLU(w·x).

    Guo et al. 2021, arXiv:2012.08986v2, section 3.2; each column has its own w, W and meta-embeddings, all have one τ.
    """

    def __init__(self, config: AutoDisConfig, columns: int) -> None:
        super().__init__()
        self.width, self.temperature, self.skip = config.width, config.temperature, config.skip
        self.first = ColumnProduct(columns, 1, config.buckets, bias=False)
        self.second = ColumnProduct(columns, config.buckets, config.buckets, bias=False)
        self.meta_embeddings = ColumnProduct(columns, config.buckets, config.width, bias=False)

    def forward(self, values: Tensor, indices: Tensor | None = None) -> Tensor:
        hidden = functional.leaky_relu(self.first(values.unsqueeze(2), indices))
        scores = self.second(hidden, indices) + self.skip * hidden
        output: Tensor = self.meta_embeddings((scores / self.temperature).softmax(dim=2), indices)
        return output
