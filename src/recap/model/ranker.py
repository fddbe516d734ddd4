"""The ranker: a `Batch` in, a probability or a value for every task out. The one path that every job uses."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from recap.config.recap import RecapConfig
from recap.data.assets import Assets
from recap.data.batch import Batch
from recap.model.calibration import calibrate, sampling_ratios
from recap.model.inputs import Inputs
from recap.model.names import NamedModules
from recap.model.objectives import Predictions
from recap.model.sharing import build_sharing
from recap.model.towers import Tower


class RankerOutput(NamedTuple):
    """What the ranker says of B rows, tasks in the order of `model.tasks`.

    In the column of a regression task `logits` holds the raw output of its tower, and both kinds of probabilities hold
    the predicted value, in the unit of the label: no probability, and not bound to [0, 1].
    """

    logits: Tensor  # [B, T] float32
    probabilities: Tensor  # [B, T] float32, of the data as it was sampled for training
    calibrated_probabilities: Tensor  # [B, T] float32, of the population


class Ranker(nn.Module):
    """inputs → sharing → towers → logits → probabilities → calibrated probabilities."""

    def __init__(self, config: RecapConfig, assets: Assets) -> None:
        """`assets`: what the files that the configuration names say of its features."""
        super().__init__()
        self.inputs = Inputs(config, assets)
        self.sharing = build_sharing(config.model, self.inputs.layout)
        layout = self.sharing.layout
        self.towers = NamedModules({name: Tower(task, layout) for name, task in config.model.tasks.items()})
        self.predictions = Predictions(config.model.tasks)
        self.sampling_ratios: Tensor
        ratios = sampling_ratios(config.train_data, config.tasks)
        self.register_buffer("sampling_ratios", ratios, persistent=False)  # [T], told by the configuration

    def forward(self, batch: Batch) -> RankerOutput:
        """Score the rows of `batch`; its labels are not read."""
        stacked = torch.stack(self.raw_outputs(batch), dim=1)  # [B, T]
        probabilities = self.predictions(stacked)
        return RankerOutput(stacked, probabilities, calibrate(probabilities, self.sampling_ratios))

    def raw_outputs(self, batch: Batch) -> list[Tensor]:
        """What each tower says, T times [B]: the columns of `logits`, each with a graph of its own behind it."""
        read = self.sharing(self.inputs(batch))
        return [tower(inputs) for tower, inputs in zip(self.towers.ordered(), read, strict=True)]

    def tower_parameters(self, task: str) -> Iterator[nn.Parameter]:
        """The parameters of a task's own tower, its affine map included."""
        return self.towers.named(task).parameters()

    def shared_parameters(self) -> Iterator[nn.Parameter]:
        """All other parameters."""
        for name, module in self.named_children():
            if name != "towers":
                yield from module.parameters()
