"""Shared embeddings and embeddings of each task (STEM: Su et al., AAAI 2024, arXiv:2308.13537)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from recap.config.backbones import BackboneConfig
from recap.config.sharing import SHARED, StemConfig
from recap.model.inputs.layout import InputLayout
from recap.model.names import NamedModules
from recap.model.sharing.experts import Experts, Gate, expert_names
from recap.model.sharing.sharing import Sharing


class Stem(Sharing):
    """A tower reads Σ gₜ · f over all experts, but sends those of other tasks no gradient.

    Each embedding consists of T + 1 parts: those of the tasks, in order, and the shared one. Experts of a task read all
    numbers and the task's parts, shared experts the shared parts. The gate is a softmax of a Linear without bias over
    the sum of both; in the authors' program it may have hidden layers.
    """

    columns: Tensor  # [T + 1, width of an expert's inputs]

    def __init__(self, config: StemConfig, backbone: BackboneConfig, layout: InputLayout, tasks: Sequence[str]) -> None:
        """`layout`: every embedding's width is a multiple of T + 1."""
        super().__init__()
        self.names = [*tasks, SHARED]
        part, columns = layout.parts(len(self.names))
        self.register_buffer("columns", torch.tensor(columns), persistent=False)
        counts = dict.fromkeys(tasks, config.task_experts) | {SHARED: config.shared_experts}
        experts = {name: Experts(backbone, part, number) for name, number in counts.items()}
        self.experts = NamedModules(experts)
        names = [expert for name, number in counts.items() for expert in expert_names(name, number)]
        self.gates = dict.fromkeys(tasks, names)
        self.task_gates = NamedModules({task: Gate(part.width, len(names)) for task in tasks})
        self.layout = InputLayout.of_numbers(experts[SHARED].out_features)
        self.parts = experts[SHARED].parts

    def forward(self, inputs: Tensor) -> list[Tensor]:
        """[B, N] → T × [B, expert width]."""
        parts = self._parts(inputs)
        outputs = {name: torch.stack(self.experts.named(name)(parts[name]), dim=1) for name in self.names}
        constant = {name: output.detach() for name, output in outputs.items()}
        towers = []
        for task, weights in self._weights(parts).items():
            mixed = [outputs[name] if name in (task, SHARED) else constant[name] for name in self.names]
            towers.append((weights.unsqueeze(2) * torch.cat(mixed, dim=1)).sum(dim=1))
        return towers

    def gate_weights(self, inputs: Tensor) -> dict[str, Tensor]:
        """[B, N] → {task: [B, experts]}."""
        return self._weights(self._parts(inputs))

    def _parts(self, inputs: Tensor) -> dict[str, Tensor]:
        """[B, N] → for each task and `shared`, what its experts read, [B, width]."""
        return dict(zip(self.names, inputs[:, self.columns].unbind(dim=1), strict=True))

    def _weights(self, parts: dict[str, Tensor]) -> dict[str, Tensor]:
        return {task: self.task_gates.named(task)(parts[task] + parts[SHARED]) for task in self.gates}
