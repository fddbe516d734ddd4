"""Dropout."""

import torch
from torch import Tensor, nn

from recap.config.network import DropoutConfig
from recap.native import plain

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


def drop_rates(config: DropoutConfig | None, layers: int) -> list[float]:
    """One rate per layer, 0 without dropout; `config.rates` may leave out a last layer that has none."""
    if config is None:
        return [0.0] * layers
    if config.rates is not None:
        return [*config.rates, 0.0][:layers]
    return [DROP_RATE if config.rate is None else config.rate] * layers
