"""Shared experts and experts of each task (Tang et al., "Progressive Layered Extraction", RecSys 2020)."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from recap.config.backbones import BackboneConfig
from recap.config.sharing import SHARED, CgcConfig, PleConfig
from recap.model.inputs.layout import InputLayout
from recap.model.layers import product
from recap.model.names import NamedModules
from recap.model.sharing.experts import Experts, Gate, expert_names
from recap.model.sharing.sharing import Sharing


class Level(nn.Module):
    """One level of experts and gates. The parts are the tasks and `shared`; each part has its own input.

    The gate of a task reads the task's input and mixes its experts and the shared ones; the shared gate reads the
    shared input and mixes all experts. The last level has no shared gate, since nothing would read it.
    """

    def __init__(
        self,
        config: CgcConfig | PleConfig,
        backbone: BackboneConfig,
        layout: InputLayout,
        tasks: Sequence[str],
        *,
        last: bool,
    ) -> None:
        super().__init__()
        counts = dict.fromkeys(tasks, config.task_experts) | {SHARED: config.shared_experts}
        experts = {part: Experts(backbone, layout, count) for part, count in counts.items()}
        self.experts = NamedModules(experts)
        self.out_features, self.parts = experts[SHARED].out_features, experts[SHARED].parts
        self.mixed_parts = {task: [task] for task in tasks} | ({} if last else {SHARED: list(tasks)})
        """Gate → the parts whose experts it mixes, besides `shared`."""
        self.expert_names = {
            gate: [name for part in [*parts, SHARED] for name in expert_names(part, counts[part])]
            for gate, parts in self.mixed_parts.items()
        }
        self.gates = NamedModules({gate: Gate(layout.width, len(names)) for gate, names in self.expert_names.items()})

    def weights(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Inputs by part, [B, N] → weights by gate, [B, experts it mixes]."""
        return {gate: self.gates.named(gate)(inputs[gate]) for gate in self.mixed_parts}

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Inputs by part, [B, N] → mixtures by gate, [B, out_features]."""
        weights = self.weights(inputs)
        own = {part: self.experts.named(part)(inputs[part]) for part in inputs if part != SHARED}
        shared = torch.stack(self.experts.named(SHARED)(inputs[SHARED]), dim=1)  # [B, shared experts, width]
        shared_weights = torch.stack([gate[:, -shared.shape[1] :] for gate in weights.values()], dim=1)
        mixtures = dict(zip(weights, product(shared_weights, shared).unbind(dim=1), strict=True))
        for gate, parts in self.mixed_parts.items():
            for column, expert in enumerate(expert for part in parts for expert in own[part]):
                mixtures[gate] = torch.addcmul(mixtures[gate], weights[gate][:, column : column + 1], expert)
        return mixtures


class Ple(Sharing):
    """Stacked levels: every part reads the mixture of its gate in the level below. A single level is CGC."""

    def __init__(
        self, config: CgcConfig | PleConfig, backbone: BackboneConfig, layout: InputLayout, tasks: Sequence[str]
    ) -> None:
        super().__init__()
        count = config.levels if isinstance(config, PleConfig) else 1
        levels: list[Level] = []
        for number in range(1, count + 1):
            levels.append(Level(config, backbone, layout, tasks, last=number == count))
            layout = InputLayout.of_numbers(levels[-1].out_features)
        self.levels = nn.ModuleList(levels)
        self.layout, self.tasks, self.parts = layout, list(tasks), levels[-1].parts
        self.prefixes = [f"level_{number}/" for number in range(1, count + 1)] if count > 1 else [""]
        self.gates = {
            prefix + gate: names
            for prefix, level in zip(self.prefixes, levels, strict=True)
            for gate, names in level.expert_names.items()
        }

    def forward(self, inputs: Tensor) -> list[Tensor]:
        """[B, N] → T × [B, expert width]."""
        parts = dict.fromkeys([*self.tasks, SHARED], inputs)
        for level in self.levels:
            parts = level(parts)
        return [parts[task] for task in self.tasks]

    def gate_weights(self, inputs: Tensor) -> dict[str, Tensor]:
        """[B, N] → weights by gate; its name is the task, or `level_1/task` if there are several levels."""
        parts = dict.fromkeys([*self.tasks, SHARED], inputs)
        by_gate: dict[str, Tensor] = {}
        for prefix, level in zip(self.prefixes, self.levels, strict=True):
            assert isinstance(level, Level)
            by_gate |= {prefix + gate: weights for gate, weights in level.weights(parts).items()}
            if prefix != self.prefixes[-1]:
                parts = level(parts)
        return by_gate
