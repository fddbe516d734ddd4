"""Linear layers: where their weights start, and products whose result for a row may depend on it alone."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import local
from typing import Literal, assert_never

import torch
from torch import Tensor, nn
from torch.nn import functional

from recap.config.network import (
    KaimingNormalConfig,
    KaimingUniformConfig,
    LayerInitializationConfig,
    NormalConfig,
    XavierNormalConfig,
    XavierUniformConfig,
)
from recap.native.rounded_weight import RoundedWeight


class _Building(local):
    """Where the weights start of the layers that this thread builds."""

    initialization: LayerInitializationConfig = XavierUniformConfig(kind="xavier_uniform")


_BUILDING = _Building()


@contextmanager
def initializing_with(initialization: LayerInitializationConfig) -> Iterator[None]:
    """Let the weights of layers that this thread builds start as `initialization` says."""
    before, _BUILDING.initialization = _BUILDING.initialization, initialization
    try:
        yield
    finally:
        _BUILDING.initialization = before


def initialize(weight: Tensor, *, transposed: bool = False) -> None:
    """Draw the first values of the matrix of a product: [outputs, inputs], or if `transposed` [inputs, outputs]."""
    inputs: Literal["fan_in", "fan_out"] = "fan_out" if transposed else "fan_in"
    match _BUILDING.initialization:
        case XavierUniformConfig():
            nn.init.xavier_uniform_(weight)
        case XavierNormalConfig():
            nn.init.xavier_normal_(weight)
        case KaimingUniformConfig():
            nn.init.kaiming_uniform_(weight, mode=inputs, nonlinearity="relu")
        case KaimingNormalConfig():
            nn.init.kaiming_normal_(weight, mode=inputs, nonlinearity="relu")
        case NormalConfig(std=std):
            nn.init.normal_(weight, std=std)
        case _:
            assert_never(_BUILDING.initialization)


def linear(in_features: int, out_features: int, *, bias: bool = True, exact: bool = False) -> nn.Linear:
    """A Linear layer whose biases start at zero, and whose weights start Xavier-uniform unless configured otherwise.

    `exact`: compute in float32 under autocast.
    """
    layer = (ExactLinear if exact else Linear)(in_features, out_features, bias=bias)
    initialize(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


class _Lanes(local):
    """Whether products of this thread have rows in the lanes of vector registers, as `score_rows` needs them."""

    on = False


_LANES = _Lanes()


@contextmanager
def rows_in_lanes() -> Iterator[None]:
    """Let `affine` and `product` compute with rows in lanes, in this thread. Only for evaluation."""
    before, _LANES.on = _LANES.on, True
    try:
        yield
    finally:
        _LANES.on = before


def affine(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """W·x + b: […, in], [out, in] and [out] → […, out]."""
    if torch.compiler.is_compiling() or not _LANES.on:
        return functional.linear(rows, weight, bias)
    flat = rows if rows.dim() == 2 else rows.reshape(-1, rows.shape[-1])
    columns = weight @ flat.T if bias is None else torch.addmm(bias.unsqueeze(1), weight, flat.T)  # [out, rows]
    return columns.T if rows.dim() == 2 else torch.unflatten(columns.T, 0, rows.shape[:-1])


def product(left: Tensor, right: Tensor) -> Tensor:
    """[…, N, K] and […, K, M] → […, N, M]."""
    if torch.compiler.is_compiling() or not _LANES.on:
        return left @ right
    return (right.transpose(-1, -2) @ left.transpose(-1, -2)).transpose(-1, -2)


class Linear(nn.Linear):
    """`torch.nn.Linear` whose result for a row may depend on it alone, bit for bit; see `score_rows`."""

    rounded: RoundedWeight | None = None
    """The bf16 copy of the weight, for training under autocast; see `recap.training.optimizer.rounded_weights`."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - its name in nn.Linear
        """[…, in_features] → […, out_features]."""
        if self.rounded is not None and torch.is_autocast_enabled(input.device.type):
            return self.rounded.affine(input, self.bias)
        return affine(input, self.weight, self.bias)


class ExactLinear(Linear):
    """A Linear layer that computes in float32 under autocast: bf16 would round a logit to two or three digits."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - its name in nn.Linear
        """[B, in_features] → [B, out_features] float32."""
        if not torch.is_autocast_enabled(input.device.type):
            return super().forward(input)
        with torch.autocast(input.device.type, enabled=False):
            return super().forward(input.float())
