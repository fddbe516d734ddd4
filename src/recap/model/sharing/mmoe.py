"""Multi-gate mixture of experts (Ma et al., "Modeling Task Relationships in Multi-task Learning…", KDD 2018)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from recap.config.backbones import BackboneConfig
from recap.config.sharing import MmoeConfig
from recap.model.inputs.layout import InputLayout
from recap.model.layers import product
from recap.model.names import NamedModules
from recap.model.sharing.experts import Experts, Gate, expert_names
from recap.model.sharing.sharing import Sharing


class Mmoe(Sharing):
    """Tower k reads Σᵢ gₖ(x)ᵢ · fᵢ(x), with gₖ(x) = softmax(Wₖ x)."""

    def __init__(self, config: MmoeConfig, backbone: BackboneConfig, layout: InputLayout, tasks: Sequence[str]) -> None:
        super().__init__()
        self.experts = Experts(backbone, layout, config.num_experts)
        self.task_gates = NamedModules({task: Gate(layout.width, config.num_experts) for task in tasks})
        self.layout, self.parts = InputLayout.of_numbers(self.experts.out_features), self.experts.parts
        self.gates = dict.fromkeys(tasks, expert_names("expert", config.num_experts))

    def forward(self, inputs: Tensor) -> list[Tensor]:
        """[B, N] → T × [B, expert width]."""
        weights = torch.stack([gate(inputs) for gate in self.task_gates.values()], dim=1)  # [B, T, experts]
        experts = torch.stack(self.experts(inputs), dim=1)  # [B, experts, width]
        # One product for all tasks, many times faster than T products.
        return list(product(weights, experts).unbind(dim=1))

    def gate_weights(self, inputs: Tensor) -> dict[str, Tensor]:
        """[B, N] → {task: [B, experts]}."""
        return {task: self.task_gates.named(task)(inputs) for task in self.gates}
