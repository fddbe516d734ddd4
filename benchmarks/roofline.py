"""The roofline of a training step: its matrix products, and one pass of the optimizer over its memory.

`benchmarks/train.py` measures it beside the step itself, in processes that take turns.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import nn

Seconds = Literal["wall", "cpu"]
"""Wall time, or the CPU time of all threads of the process: on a machine with other load, use one thread and `cpu`."""
NOW: dict[Seconds, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
BYTES_OF_ADAM = 28
"""Per parameter. float32: reads weight, gradient and two moments, writes weight and moments, 4 bytes each. bf16: the
gradient has 2 bytes, and the bf16 copy of the weight, which the optimizer writes, 2: no other cast reads weights."""
_STREAM = 48 << 20
"""Numbers in each array of the streaming kernel."""


@dataclass(frozen=True)
class Roofline:
    """Seconds of a step that does nothing else. Activations, casts of them, and Python cost nothing."""

    products: float
    """Of each Linear layer: its output, the gradient of its input, and that of its weight, in the precision."""
    optimizer: float
    """Adam's bytes at the bandwidth of the streaming kernel."""
    bandwidth: float
    """Bytes/s of c = a + b over arrays that fit no cache, as STREAM counts them: 12 bytes a number."""

    @property
    def seconds(self) -> float:
        """The roofline."""
        return self.products + self.optimizer


def measure_roofline(module: nn.Module, batch: int, dtype: torch.dtype, kind: Seconds, times: int) -> Roofline:
    """The roofline of a step of `module` over `batch` rows."""
    shapes = [layer.weight.shape for layer in module.modules() if isinstance(layer, nn.Linear)]
    parameters = sum(parameter.numel() for parameter in module.parameters())
    left, right = torch.rand(_STREAM), torch.rand(_STREAM)
    total = torch.empty(_STREAM)
    bandwidth = 12 * _STREAM / seconds(lambda: torch.add(left, right, out=total), 5, kind)
    return Roofline(_products(shapes, batch, dtype, kind, times), BYTES_OF_ADAM * parameters / bandwidth, bandwidth)


def _products(shapes: Sequence[torch.Size], batch: int, dtype: torch.dtype, kind: Seconds, times: int) -> float:
    """Seconds of three products per layer [out, in]. Weights and their gradients have memory of their own."""
    weights = [torch.randn(shape).mul_(0.01).to(dtype) for shape in shapes]
    inputs = [torch.randn(batch, shape[1]).to(dtype) for shape in shapes]
    slopes = [torch.randn(batch, shape[0]).to(dtype) for shape in shapes]
    gradients: list[torch.Tensor] = []

    def step() -> None:
        gradients.clear()
        for weight, rows in zip(weights, inputs, strict=True):
            rows @ weight.T
        for weight, rows, slope in zip(weights, inputs, slopes, strict=True):
            slope @ weight
            gradients.append(slope.T @ rows)

    return seconds(step, times, kind)


def seconds(function: Callable[[], object], times: int, kind: Seconds = "wall") -> float:
    """The median duration of `times` calls, after two warm-up calls."""
    durations = []
    for _ in range(times + 2):
        started = NOW[kind]()
        function()
        durations.append(NOW[kind]() - started)
    return float(np.median(durations[2:]))
