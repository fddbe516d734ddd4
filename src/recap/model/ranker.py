"""The ranker: a `Batch` in, a probability or a value for every task out."""

from collections.abc import Iterator
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn

from recap.config.recap import RecapConfig
from recap.data.batch import Batch
from recap.data.encoding.assets import Assets
from recap.model.activation import OutputActivation
from recap.model.inputs.inputs import Inputs
from recap.model.names import NamedModules
from recap.model.sharing import build_sharing
from recap.model.sharing.cascade import build_cascade
from recap.model.towers import Tower


class RankerOutput(NamedTuple):
    """Outputs for B rows, tasks in the order of `model.tasks`.

    In the column of a regression task `logits` holds the raw output of its tower, and `probabilities` the predicted
    value, in the unit of the label: not a probability, and not limited to [0, 1].
    """

    logits: Tensor  # [B, T] float32
    probabilities: Tensor  # [B, T] float32, of the data as sampled for training


class Ranker(nn.Module):
    """inputs → sharing → cascade → towers → cascade → logits → probabilities."""

    def __init__(self, config: RecapConfig, assets: Assets) -> None:
        """`assets`: what the files that the configuration names say of its features."""
        super().__init__()
        self.inputs = Inputs(config, assets)
        self.sharing = build_sharing(config.model, self.inputs.layout)
        self.cascade = build_cascade(config.model, self.sharing.layout)
        tasks = zip(config.model.tasks.items(), self.cascade.layouts, strict=True)
        self.towers = NamedModules({name: Tower(task, layout) for (name, task), layout in tasks})
        self.activation = OutputActivation(config.model.tasks)
        self.in_evaluation: list[nn.Module] = []
        """Modules of this one that stay in evaluation mode while it is trained."""

    def train(self, mode: bool = True) -> Self:
        """Set the mode of all modules, but of those `in_evaluation`."""
        super().train(mode)
        for module in self.in_evaluation:
            module.eval()
        return self

    def forward(self, batch: Batch) -> RankerOutput:
        """Score the rows of `batch`; its labels are not read."""
        logits = torch.stack(self.raw_outputs(batch), dim=1)  # [B, T]
        return RankerOutput(logits, self.activation(logits))

    def raw_outputs(self, batch: Batch) -> list[Tensor]:
        """The columns of `logits`, T times [B], each with a graph of its own behind it."""
        inputs = self.inputs(batch)
        if torch.is_autocast_enabled(inputs.device.type):  # rounded once, for all layers that read them
            inputs = inputs.to(torch.get_autocast_dtype(inputs.device.type))
        read = self.cascade(self.sharing(inputs))
        said = [tower(inputs) for tower, inputs in zip(self.towers.ordered(), read, strict=True)]
        return self.cascade.chained(said)

    def gate_weights(self, batch: Batch) -> dict[str, Tensor]:
        """The weights of each of `sharing.gates` for the rows of `batch`, [B, experts]."""
        return self.sharing.gate_weights(self.inputs(batch))

    def tower_parameters(self, task: str) -> Iterator[nn.Parameter]:
        """The parameters of a task's own tower, its affine map included."""
        return self.towers.named(task).parameters()

    def shared_parameters(self) -> Iterator[nn.Parameter]:
        """All other parameters."""
        for name, module in self.named_children():
            if name != "towers":
                yield from module.parameters()
