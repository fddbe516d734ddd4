"""Copies of a network for kinds of users (Dai et al., "POSO: Personalized Cold Start Modules", arXiv:2108.04690)."""

import torch
from torch import Tensor

from recap.config.backbones import BackboneConfig
from recap.config.sharing import PosoConfig
from recap.model.inputs.layout import InputLayout
from recap.model.layers import Mlp
from recap.model.sharing.experts import Experts
from recap.model.sharing.sharing import Sharing


class Poso(Sharing):
    """Every tower reads C Σᵢ g(p)ᵢ · fᵢ(x), with g = σ(MLP of two layers), and p the embeddings of chosen features.

    Equation 6 of the paper, whose fᵢ are smaller modules than a backbone, and whose C is any correction of the scale.
    C = 2 / copies keeps it: where every gate is ½, the sum is the mean of the copies.
    """

    def __init__(self, config: PosoConfig, backbone: BackboneConfig, layout: InputLayout, tasks: int) -> None:
        super().__init__()
        self.experts, self.tasks = Experts(backbone, layout, config.copies), tasks
        self.columns = layout.columns_of(config.features)
        width = sum(part.stop - part.start for part in self.columns)
        self.gate = Mlp(width, [config.gate_width, config.copies])
        self.layout, self.parts = InputLayout.of_numbers(self.experts.out_features), self.experts.parts

    def forward(self, inputs: Tensor) -> list[Tensor]:
        """[B, N] → T × the same tensor, [B, expert width]."""
        context = torch.cat([inputs[:, part] for part in self.columns], dim=1)
        weights = self.gate(context).sigmoid().unsqueeze(2)  # [B, copies, 1]
        copies = torch.stack(self.experts(inputs), dim=1)  # [B, copies, width]
        return [2 * (weights * copies).mean(dim=1)] * self.tasks
