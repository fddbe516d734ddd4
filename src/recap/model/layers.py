"""The layers that all networks are made of."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import local

import torch
from torch import Tensor, nn
from torch.nn import functional

from recap.config.network import BatchNormConfig, DropoutConfig, LayerNormConfig
from recap.native import plain
from recap.native.rounded_weight import RoundedWeight


def linear(in_features: int, out_features: int, *, bias: bool = True, exact: bool = False) -> nn.Linear:
    """A Linear layer with Xavier-uniform weights and zero biases, as in the published ranker.

    `exact`: compute in float32 under autocast.
    """
    layer = (ExactLinear if exact else Linear)(in_features, out_features, bias=bias)
    nn.init.xavier_uniform_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def batch_norm(config: BatchNormConfig, features: int) -> nn.BatchNorm1d:
    """BatchNorm over the rows of a micro-batch, [B, features]."""
    return nn.BatchNorm1d(features, affine=config.affine, momentum=config.momentum)


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


def layer_norm(config: LayerNormConfig, features: int) -> nn.LayerNorm:
    """LayerNorm over the features of a row, [B, features]."""
    norm = nn.LayerNorm(features, config.epsilon, config.affine is not False, bias=config.affine != "scale")
    if config.affine == "shift":
        norm.register_parameter("weight", None)
    return norm


DROP_RATE = 0.1
"""Default rate of dropout."""


class Dropout(nn.Dropout):
    """Dropout that is several times faster than torch's on a CPU, where torch draws one number at a time.

    Draws 16 random bits per value, for four values at a time, and drops a value whose 16-bit integer is below a
    threshold. The mask is the same for every dtype, and the rate exact to within 2⁻¹⁶.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - its name in nn.Dropout
        """Any shape → the same shape."""
        on_cpu = input.device.type == "cpu" and not torch.compiler.is_compiling()
        if not self.training or self.p == 0 or not on_cpu or plain():
            return super().forward(input)
        dropped = min(round(self.p * 2**16), 2**16 - 1)
        bits = torch.empty(-(-input.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        mask = bits.view(torch.int16)[: input.numel()].view(input.shape)
        torch.ge(mask, dropped - 2**15, out=mask)  # 0 or 1; converting from bool would take as long as the draw
        integers = _INTEGERS[input.element_size()]
        scale = torch.tensor(2**16 / (2**16 - dropped), dtype=input.dtype).view(integers)
        return input * mask.to(integers).mul_(scale).view(input.dtype)  # the bits of 0, or of the scale


_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


class BatchRenorm(nn.Module):
    """Batch renormalisation (Ioffe 2017, arXiv:1702.03275, algorithm 1), [B, features] → [B, features].

    In training a micro-batch is normalised by its own mean and deviation, then corrected towards the running ones by r
    and d, which have no gradient: within their bounds the result equals that of evaluation. The bounds widen as in
    section 4 of the paper: BatchNorm (r = 1, d = 0) for 5000 micro-batches, then r up to 3 at 40000 and d up to 5 at
    25000.
    """

    EPSILON, START, END_R, END_D, MAX_R, MAX_D = 1e-5, 5_000, 40_000, 25_000, 3.0, 5.0

    def __init__(self, config: BatchNormConfig, features: int) -> None:
        super().__init__()
        self.momentum = config.momentum
        self.running_mean: Tensor
        self.running_deviation: Tensor
        self.batches: Tensor
        self.register_buffer("running_mean", torch.zeros(features))
        self.register_buffer("running_deviation", torch.ones(features))
        self.register_buffer("batches", torch.tensor(0))
        self.weight = nn.Parameter(torch.ones(features)) if config.affine else None
        self.bias = nn.Parameter(torch.zeros(features)) if config.affine else None

    def forward(self, inputs: Tensor) -> Tensor:
        """[B, features] → [B, features]."""
        if self.training:
            mean = inputs.mean(dim=0)
            deviation = (inputs.var(dim=0, unbiased=False) + self.EPSILON).sqrt()
            with torch.no_grad():
                max_r, max_d = self._bounds()
                r = (deviation / self.running_deviation).clamp(1 / max_r, max_r)
                d = ((mean - self.running_mean) / self.running_deviation).clamp(-max_d, max_d)
            normal = (inputs - mean) / deviation * r + d
            with torch.no_grad():
                self.running_mean.lerp_(mean, self.momentum)
                self.running_deviation.lerp_(deviation, self.momentum)
                self.batches += 1
        else:
            normal = (inputs - self.running_mean) / self.running_deviation
        return normal if self.weight is None or self.bias is None else normal * self.weight + self.bias

    def _bounds(self) -> tuple[Tensor, Tensor]:
        """R and D for the current micro-batch: r is clamped to [1 / R, R], d to [−D, D]."""
        batches = self.batches.float() - self.START
        progress_r = (batches / (self.END_R - self.START)).clamp(0, 1)
        progress_d = (batches / (self.END_D - self.START)).clamp(0, 1)
        return 1 + (self.MAX_R - 1) * progress_r, self.MAX_D * progress_d


def row_norms(module: nn.Module) -> list[nn.BatchNorm1d | BatchRenorm]:
    """The layers in `module` that normalise over the rows of a micro-batch: BatchNorm and BatchRenorm."""
    return [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm1d | BatchRenorm)]


def running_statistics(module: nn.Module) -> list[Tensor]:
    """The running means and variances of the layers in `module` that normalise over rows."""
    return [
        buffer for layer in row_norms(module) for buffer in layer.buffers(recurse=False) if buffer.is_floating_point()
    ]


class Mlp(nn.Module):
    """Linear → BatchNorm → ReLU → Dropout for every layer but the last: [B, in_features] → [B, layer_sizes[-1]].

    The last layer is Linear, followed by ReLU and Dropout only with `final_layer_activation`, and by BatchNorm only
    with `final_layer_batch_norm`.
    """

    def __init__(
        self,
        in_features: int,
        layer_sizes: list[int],
        batch_norm_config: BatchNormConfig | None = None,
        dropout_config: DropoutConfig | None = None,
        *,
        final_layer_activation: bool = False,
        exact_output: bool = False,
        final_layer_batch_norm: bool = False,
    ) -> None:
        """`exact_output`: compute the last layer in float32 under autocast."""
        super().__init__()
        layers: list[nn.Module] = []
        rates = drop_rates(dropout_config, len(layer_sizes))
        for index, size in enumerate(layer_sizes):
            last = index == len(layer_sizes) - 1
            layers.append(linear(in_features, size, exact=exact_output and last))
            if batch_norm_config is not None and (final_layer_batch_norm or not last):
                layers.append(batch_norm(batch_norm_config, size))
            if final_layer_activation or not last:
                layers.append(nn.ReLU())
                if dropout_config is not None:
                    layers.append(Dropout(rates[index]))
            in_features = size
        self.layers = nn.Sequential(*layers)
        self.out_features = in_features

    def forward(self, inputs: Tensor) -> Tensor:
        """[B, in_features] → [B, out_features]."""
        output: Tensor = self.layers(inputs)
        return output


def drop_rates(config: DropoutConfig | None, layers: int) -> list[float]:
    """One rate per layer, 0 without dropout. `config.rates` may leave out a last layer that has no ReLU."""
    if config is None:
        return [0.0] * layers
    if config.rates is not None:
        return config.rates
    return [DROP_RATE if config.rate is None else config.rate] * layers
