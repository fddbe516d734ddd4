"""The ranker: `Batch` → a probability, or the value of a regression, for every task.

The forward pass, for B rows and T tasks (`tests/model/kinds.py` builds every kind of part):

    Batch                continuous [B, C], binary [B, K], discrete codes [B, D], vectors {name: [B, E]}, histories
      │  inputs          inputs/: featurized numbers, vectors, the position, histories, embeddings side by side
    [B, N]               N = layout.width
      │  sharing         sharing/: one backbone (backbones/), experts and gates, or nothing
    T × [B, N]           the representation that each tower reads
      │  cascade         sharing/cascade.py: AITM transfers a task's representation to the next task of its chain
    T × [B, N]
      │  towers          towers.py: one network per task, and its affine map
    T × [B]
      │  cascade.chained ESMM: p(task) = p(task before it) · σ(logit)
    logits [B, T]        float32
      │  activation      activation.py: σ for binary tasks, the inverse transform for regressions
    probabilities [B, T] of the data as sampled for training

`Scorer` continues: probabilities → calibrated probabilities → score. `Objective` turns logits and labels into losses.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn

from recap.config.recap import RecapConfig
from recap.data.batch import Batch
from recap.data.encoding.assets import Assets
from recap.model.activation import OutputActivation
from recap.model.inputs.inputs import Inputs
from recap.model.inputs.tables import BuildTables
from recap.model.names import NamedModules
from recap.model.sharing import build_sharing
from recap.model.sharing.cascade import build_cascade
from recap.model.towers import Tower


class RankerOutput(NamedTuple):
    """Outputs for B rows, tasks in the order of `model.tasks`.

    In the column of a regression task `logits` holds the raw output of its tower, and `probabilities` the predicted
    value, in the unit of the label: it is not limited to [0, 1].
    """

    logits: Tensor  # [B, T] float32
    probabilities: Tensor  # [B, T] float32, for the data as sampled for training


class Ranker(nn.Module):
    """inputs → sharing → cascade → towers → cascade → logits → probabilities."""

    def __init__(self, config: RecapConfig, assets: Assets, build_tables: BuildTables | None = None) -> None:
        """`assets`: the vocabularies and masks of the features. `build_tables`: instead of whole tables."""
        super().__init__()
        self.inputs = Inputs(config, assets, build_tables)
        self.sharing = build_sharing(config.model, self.inputs.layout)
        self.cascade = build_cascade(config.model, self.sharing.layout)
        tasks = zip(config.model.tasks.items(), self.cascade.layouts, strict=True)
        self.towers = NamedModules({name: Tower(task, layout) for (name, task), layout in tasks})
        self.activation = OutputActivation(config.model.tasks)
        self._always_in_evaluation: list[nn.Module] = []

    def keep_in_evaluation(self, modules: Iterable[nn.Module]) -> None:
        """Keep `modules` of this ranker in evaluation mode during training."""
        self._always_in_evaluation += modules

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for module in self._always_in_evaluation:
            module.eval()
        return self

    def forward(self, batch: Batch) -> RankerOutput:
        """Score the rows of `batch`; its labels are not read."""
        logits = torch.stack(self.raw_outputs(batch), dim=1)  # [B, T]
        return RankerOutput(logits, self.activation(logits))

    def raw_outputs(self, batch: Batch) -> list[Tensor]:
        """The columns of `logits` as separate tensors, T × [B], so that each task can be differentiated alone."""
        inputs = self.inputs(batch)
        if torch.is_autocast_enabled(inputs.device.type):  # round once, for all layers that read them
            inputs = inputs.to(torch.get_autocast_dtype(inputs.device.type))
        representations = self.cascade(self.sharing(inputs))
        towers = zip(self.towers.values(), representations, strict=True)
        outputs = [tower(representation) for tower, representation in towers]
        return self.cascade.chained(outputs)

    def gate_weights(self, batch: Batch) -> dict[str, Tensor]:
        """Gate → the weights of its experts for the rows of `batch`, [B, experts]; the gates are `sharing.gates`."""
        return self.sharing.gate_weights(self.inputs(batch))

    def tower_parameters(self, task: str) -> Iterator[nn.Parameter]:
        """The parameters of a task's tower, including its affine map."""
        return self.towers.named(task).parameters()

    def last_bias(self, task: str) -> nn.Parameter:
        """The bias that a task's tower adds last."""
        tower = self.towers.named(task)
        assert isinstance(tower, Tower)
        return tower.last_bias

    def shared_parameters(self) -> Iterator[nn.Parameter]:
        """All parameters outside the towers."""
        for name, module in self.named_children():
            if name != "towers":
                yield from module.parameters()
