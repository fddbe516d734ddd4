"""Shared experts and experts of each task (Tang et al., "Progressive Layered Extraction", RecSys 2020)."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from recap.config.backbones import BackboneConfig
from recap.config.sharing import SHARED, CgcConfig, PleConfig
from recap.model.inputs.layout import InputLayout
from recap.model.names import NamedModules
from recap.model.sharing.experts import Experts, Gate, expert_names
from recap.model.sharing.sharing import Sharing


class Level(nn.Module):
    """One level of experts and gates. Parts are the tasks, and `shared`; each part has an input of its own.

    The gate of task k reads the task's input and mixes its own experts and the shared ones; the
    shared gate reads the shared input and mixes all experts. The last level has no shared gate: nobody would read it.
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
        self.out_features = experts[SHARED].out_features
        self.mixed = {task: [task] for task in tasks} | ({} if last else {SHARED: list(tasks)})
        """Gate → the parts whose experts it mixes, beside the shared part."""
        self.expert_names = {
            gate: [name for part in [*parts, SHARED] for name in expert_names(part, counts[part])]
            for gate, parts in self.mixed.items()
        }
        self.gates = NamedModules({gate: Gate(layout.width, len(names)) for gate, names in self.expert_names.items()})

    def weights(self, read: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The input of each part, [B, N] → the weights of each gate, [B, experts it mixes]."""
        return {gate: self.gates.named(gate)(read[gate]) for gate in self.mixed}

    def forward(self, read: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The input of each part, [B, N] → what each gate mixes, [B, out_features]."""
        weights = self.weights(read)
        own = {part: self.experts.named(part)(read[part]) for part in read if part != SHARED}
        shared = torch.stack(self.experts.named(SHARED)(read[SHARED]), dim=1)  # [B, shared experts, width]
        of_shared = torch.stack([each[:, -shared.shape[1] :] for each in weights.values()], dim=1)
        mixtures = dict(zip(weights, (of_shared @ shared).unbind(dim=1), strict=True))
        for gate, parts in self.mixed.items():
            for column, expert in enumerate(expert for part in parts for expert in own[part]):
                mixtures[gate] = torch.addcmul(mixtures[gate], weights[gate][:, column : column + 1], expert)
        return mixtures


class Ple(Sharing):
    """Levels above each other: every part reads what its gate mixed below. A single level is CGC."""

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
        self.layout, self.tasks = layout, list(tasks)
        self.prefixes = [f"level_{number}/" for number in range(1, count + 1)] if count > 1 else [""]
        self.gates = {
            prefix + gate: names
            for prefix, level in zip(self.prefixes, levels, strict=True)
            for gate, names in level.expert_names.items()
        }

    def forward(self, inputs: Tensor) -> list[Tensor]:
        """[B, N] → T times [B, expert width]."""
        read = dict.fromkeys([*self.tasks, SHARED], inputs)
        for level in self.levels:
            read = level(read)
        return [read[task] for task in self.tasks]

    def gate_weights(self, inputs: Tensor) -> dict[str, Tensor]:
        """[B, N] → the weights of each gate, under its task, or under `level_1/task` where there are levels."""
        read = dict.fromkeys([*self.tasks, SHARED], inputs)
        found: dict[str, Tensor] = {}
        for prefix, level in zip(self.prefixes, self.levels, strict=True):
            assert isinstance(level, Level)
            found |= {prefix + gate: weights for gate, weights in level.weights(read).items()}
            if prefix != self.prefixes[-1]:
                read = level(read)
        return found
