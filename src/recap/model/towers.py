"""Towers: the representation of a task → its logit."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recap.config.loss import RegressionConfig
from recap.config.model import AffineMapConfig, TaskConfig, TowerConfig
from recap.config.network import EnsembleConfig, MlpTowerConfig
from recap.config.sharing import DeepEnsembleConfig
from recap.model.activation import output_of_mean
from recap.model.backbones import build_backbone
from recap.model.backbones.dcn_v3 import DcnV3
from recap.model.inputs.layout import InputLayout
from recap.model.layers import EnsembleMlp, EnsembleOutput, Mlp, SeparateMlps, StarLinear, StarMlp, linear


class AffineMap(nn.Module):
    """logit → scale · logit + bias, both learned."""

    def __init__(self, config: AffineMapConfig) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(config.scale))
        self.bias = nn.Parameter(torch.tensor(config.bias))

    def forward(self, logits: Tensor) -> Tensor:
        """Any shape → the same shape."""
        return self.scale * logits + self.bias


class Tower(nn.Module):
    """The network of one task: [B, layout.width] → logits [B] float32.

    The logit is that of several members if `num_members` is above 1; in training each has a loss of its own.
    """

    def __init__(
        self,
        config: TaskConfig,
        layout: InputLayout,
        parts: Sequence[int] | None = None,
        continued: EnsembleConfig | DeepEnsembleConfig | None = None,
        domains: int = 0,
    ) -> None:
        """`parts`: not None if the networks that the last Linear reads side by side are members. They are those of the
        tower, or if it is one Linear, those with these widths at the end of its inputs. `continued`: the
        ensemble whose members have a row each in the inputs, [B · M, layout.width]. `domains`: above 0, the layers
        are those of a centre and this number of domains."""
        super().__init__()
        self.is_regression = isinstance(config.objective, RegressionConfig)
        self.is_jrc = config.jrc is not None  # its members are the logit, and what the logits of both labels share
        self.num_members = outputs = 2 if self.is_jrc else 1
        self.network = _build_network(config.tower, layout, outputs, continued, domains)
        if isinstance(self.network, EnsembleMlp | SeparateMlps):
            self.num_members = self.network.members
        self.affine_map = AffineMap(config.affine_map) if config.affine_map is not None else nn.Identity()
        self.shares: Tensor | None
        shares = None
        if parts is not None:
            width = layout.width
            if isinstance(self.network, nn.Sequential) and isinstance(self.network[0], DcnV3):
                parts, width = self.network[0].parts, self.network[0].out_features
            self.num_members, shares = len(parts), _shares(parts, width)
        self.register_buffer("shares", shares, persistent=False)

    @property
    def last_bias(self) -> nn.Parameter:
        """The bias that is added last, a scalar, [1] or [num_members]: of the affine map, else of the last Linear."""
        if isinstance(self.affine_map, AffineMap):
            return self.affine_map.bias
        kinds = nn.Linear | EnsembleOutput | StarLinear
        (*_, last) = (module for module in self.network.modules() if isinstance(module, kinds))
        return last.bias

    def forward(self, inputs: Tensor, *context: Tensor) -> Tensor:
        """[B, layout.width] → [B]. `context`: what the scenario gives to the network."""
        return self.joined(self.affine_map(self.network(inputs, *context)))

    def members(self, inputs: Tensor, *context: Tensor) -> Tensor:
        """[B, layout.width] → the raw output of every member, [B, num_members]."""
        network = self.network
        if self.shares is None:
            raw = network(inputs, *context)
        elif isinstance(network, nn.Sequential):  # a backbone and its last Linear
            raw = network[1](network[0](inputs).unsqueeze(1) * self.shares).squeeze(2)
        else:
            raw = network(inputs.unsqueeze(1) * self.shares).squeeze(2)
        members: Tensor = self.affine_map(raw)
        return members

    def joined(self, members: Tensor) -> Tensor:
        """[B, num_members] → the task's own raw output, [B]."""
        if self.shares is not None:
            return members.mean(dim=1)
        if self.is_jrc:
            return members[:, 0]
        if self.num_members > 1:
            return output_of_mean(members, is_regression=self.is_regression)
        return members.squeeze(1)


def _shares(parts: Sequence[int], width: int) -> Tensor:
    """Factors [M, width] of the inputs of a Linear, so that its M outputs have its output for the inputs as their mean.

    The last Σ `parts` columns belong to M networks. Output m reads those of network m, M times, and none of the others.
    """
    shares = torch.ones(len(parts), width)
    start = width - sum(parts)
    for number, part in enumerate(parts):
        shares[:, start : start + part] = 0.0
        shares[number, start : start + part] = len(parts)
        start += part
    return shares


def _build_network(
    config: TowerConfig,
    layout: InputLayout,
    outputs: int,
    continued: EnsembleConfig | DeepEnsembleConfig | None,
    domains: int,
) -> nn.Module:
    match config:
        case MlpTowerConfig() if domains:
            return StarMlp(layout.width, config, domains, outputs)
        case MlpTowerConfig():
            if isinstance(continued, DeepEnsembleConfig):
                return SeparateMlps(layout.width, config, continued.members)
            if (ensemble := continued or config.ensemble) is not None:
                return EnsembleMlp(layout.width, config, ensemble, continues=continued is not None)
            return Mlp(layout.width, config, outputs)
        case _:  # any backbone; build_backbone ends in assert_never
            network = build_backbone(config, layout)
            return nn.Sequential(network, linear(network.out_features, outputs, exact=True))
