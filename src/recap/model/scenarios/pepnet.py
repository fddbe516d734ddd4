"""PEPNet: gates on the inputs and on the hidden units of towers (Chang et al., KDD 2023, arXiv:2302.01115)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recap.config.sharing import PepnetConfig
from recap.model.inputs.layout import InputLayout
from recap.model.layers import Mlp
from recap.model.scenarios.scenario import Context, Scenario


class GateUnit(nn.Module):
    """2σ(W′ ReLU(W x + b) + b′) (equations 2 and 3 with γ = 2): [B, in_features] → [B, out_features] in (0, 2)."""

    def __init__(self, in_features: int, hidden: int, out_features: int) -> None:
        super().__init__()
        self.mlp = Mlp(in_features, [hidden, out_features])

    def forward(self, inputs: Tensor) -> Tensor:
        output: Tensor = 2 * self.mlp(inputs).sigmoid()
        return output


class Pepnet(Scenario):
    """EPNet scales the inputs E by U(E(domain) ‖ ⊘E); PPNet the hidden units of towers by U(E(personal) ‖ ⊘(scaled E)).

    ⊘ stops the gradient. One U gives the factors of all towers, a factor for each hidden unit, where the paper has a U
    for each layer (equations 7 to 9).
    """

    def __init__(self, config: PepnetConfig, layout: InputLayout, hidden: Sequence[Sequence[int]]) -> None:
        """`hidden`: for each tower, the widths of its hidden layers that are scaled."""
        super().__init__()
        self.domain = layout.columns_of(config.domain or ())
        self.personal = layout.columns_of(config.personal or ())
        self.hidden = [list(sizes) for sizes in hidden]
        units = sum(sum(sizes) for sizes in hidden)
        self.inputs_gate = self.units_gate = None
        if config.domain is not None:
            self.inputs_gate = GateUnit(_width(self.domain) + layout.width, config.gate_width, layout.width)
        if config.personal is not None:
            self.units_gate = GateUnit(_width(self.personal) + layout.width, config.gate_width, units)

    def forward(self, inputs: Tensor, codes: Tensor) -> tuple[Tensor, Context, list[Context]]:
        """A context of a tower holds the factors of each hidden layer, [B, width of the layer]."""
        scaled = inputs
        if self.inputs_gate is not None:
            scaled = inputs * self.inputs_gate(_joined(inputs, self.domain, inputs))
        if self.units_gate is None:
            return scaled, (), [()] * len(self.hidden)
        factors = self.units_gate(_joined(inputs, self.personal, scaled))
        parts = iter(factors.split([size for sizes in self.hidden for size in sizes], dim=1))
        return scaled, (), [tuple(next(parts) for _ in sizes) for sizes in self.hidden]


def _joined(inputs: Tensor, columns: Sequence[slice], constant: Tensor) -> Tensor:
    return torch.cat([*(inputs[:, part] for part in columns), constant.detach()], dim=1)


def _width(columns: Sequence[slice]) -> int:
    return sum(part.stop - part.start for part in columns)
