"""The sharing schemes of the published ranker: one backbone for all tasks, or none."""

import torch
from torch import Tensor

from recap.model.backbones import Backbone, members_of, parts_of
from recap.model.inputs.layout import InputLayout
from recap.model.sharing.sharing import Sharing


class ShareNone(Sharing):
    """Every tower reads the inputs."""

    def __init__(self, layout: InputLayout, tasks: int) -> None:
        super().__init__()
        self.layout, self.tasks = layout, tasks

    def forward(self, inputs: Tensor) -> list[Tensor]:
        """[B, N] → T × the same tensor."""
        return [inputs] * self.tasks


class ShareAll(Sharing):
    """Every tower reads the backbone's output."""

    def __init__(self, backbone: Backbone, tasks: int) -> None:
        super().__init__()
        self.backbone, self.tasks = backbone, tasks
        self.layout = InputLayout.of_numbers(backbone.out_features)
        self.parts = parts_of(backbone)

    def forward(self, inputs: Tensor, *context: Tensor) -> list[Tensor]:
        """[B, N] → T × [B, backbone width]. `context`: what the scenario gives to the backbone."""
        return [self.backbone(inputs, *context)] * self.tasks


class SharePartial(Sharing):
    """Every tower reads the inputs and the backbone's output, concatenated."""

    def __init__(self, backbone: Backbone, layout: InputLayout, tasks: int) -> None:
        super().__init__()
        self.backbone, self.tasks = backbone, tasks
        self.layout = InputLayout.of_numbers(layout.width + backbone.out_features)
        self.parts, self.members = parts_of(backbone), members_of(backbone)

    def forward(self, inputs: Tensor, *context: Tensor) -> list[Tensor]:
        """[B, N] → T × [B, N + backbone width]. `context`: what the scenario gives to the backbone."""
        outputs = self.backbone(inputs, *context)
        if self.members > 1:
            inputs = inputs.unsqueeze(1).expand(-1, self.members, -1).flatten(0, 1)
        return [torch.cat([inputs, outputs], dim=1)] * self.tasks
