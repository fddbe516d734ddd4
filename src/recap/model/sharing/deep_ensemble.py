"""Networks side by side, whose probabilities are averaged (Lakshminarayanan et al., NIPS 2017, arXiv:1612.01474)."""

import torch
from torch import Tensor, nn

from recap.config.backbones import BackboneConfig
from recap.config.sharing import DeepEnsembleConfig
from recap.model.backbones import build_backbone
from recap.model.inputs.layout import InputLayout
from recap.model.sharing.sharing import Sharing


class DeepEnsemble(Sharing):
    """The towers of a member read its own backbone, which reads all numbers and its own part of every embedding."""

    columns: Tensor  # [M, width of a member's inputs]

    def __init__(self, config: DeepEnsembleConfig, backbone: BackboneConfig, layout: InputLayout, tasks: int) -> None:
        """`layout`: every embedding's width is a multiple of M."""
        super().__init__()
        part, columns = layout.parts(config.members)
        self.register_buffer("columns", torch.tensor(columns), persistent=False)
        backbones = [build_backbone(backbone, part) for _ in columns]
        self.backbones, self.tasks = nn.ModuleList(backbones), tasks
        self.layout = InputLayout.of_numbers(backbones[0].out_features)

    def forward(self, inputs: Tensor) -> list[Tensor]:
        """[B, N] → T × [B · M, backbone width]: member 1 of row 1, member 2 of row 1, …"""
        parts = inputs[:, self.columns].unbind(dim=1)
        outputs = [backbone(part) for backbone, part in zip(self.backbones, parts, strict=True)]
        return [torch.stack(outputs, dim=1).flatten(0, 1)] * self.tasks
