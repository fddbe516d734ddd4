"""The ranker: `Batch` → a probability, or the value of a regression, for every task.

The forward pass, for B rows and T tasks (`tests/model/kinds.py` has an example of every kind of part):

    Batch                continuous [B, C], binary [B, K], discrete codes [B, D], vectors {name: [B, E]}, histories
      │  inputs          inputs/: featurized numbers, vectors, the position, histories, embeddings side by side
    [B, N]               N = layout.width
      │  scenario        scenarios/: PEPNet scales inputs, and the hidden units of each tower; STAR normalises inputs,
      │                  and tells MLPs the domain; or nothing
    [B, N]
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
In training a task may have several outputs, its members, each with a loss of its own: `objective/members.py`. Those of
an ensemble that includes the backbone have a row each, [B · M, …], from the backbone to the logits.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn

from recap.config.loss import SelfEnsembleConfig, TriBceConfig
from recap.config.recap import RecapConfig
from recap.data.batch import Batch
from recap.data.encoding.assets import Assets
from recap.model.activation import OutputActivation, output_of_mean
from recap.model.backbones.rank_mixer import SparseExperts
from recap.model.inputs.inputs import Inputs
from recap.model.inputs.tables import BuildTables
from recap.model.layers import initializing_with
from recap.model.names import NamedModules
from recap.model.scenarios import Context, build_scenario
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
    """inputs → scenario → sharing → cascade → towers → cascade → logits → probabilities."""

    def __init__(self, config: RecapConfig, assets: Assets, build_tables: BuildTables | None = None) -> None:
        """`assets`: the vocabularies and masks of the features. `build_tables`: instead of whole tables."""
        super().__init__()
        with initializing_with(config.model.initialization.layers):
            self.inputs = Inputs(config, assets, build_tables)
            self.scenario = build_scenario(config, assets, self.inputs.layout)
            domains = self.scenario.domains if self.scenario is not None else 0
            self.sharing = build_sharing(config.model, self.inputs.layout, domains)
            self.cascade = build_cascade(config.model, self.sharing.layout)
            tasks = zip(config.model.tasks.items(), self.cascade.layouts, strict=True)
            parts = self.sharing.parts if isinstance(config.model.auxiliary_loss, TriBceConfig) else None
            ensemble = config.model.shared_ensemble
            self.towers = NamedModules(
                {name: Tower(task, layout, parts, ensemble, domains) for (name, task), layout in tasks}
            )
        self.activation = OutputActivation(config.model.tasks)
        self.two_passes = isinstance(config.model.auxiliary_loss, SelfEnsembleConfig)
        self._towers = [tower for tower in self.towers.values() if isinstance(tower, Tower)]
        self._experts = [module for module in self.modules() if isinstance(module, SparseExperts)]
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
        logits = torch.stack(self.raw_outputs(batch)[: len(self.towers)], dim=1)  # [B, T]
        return RankerOutput(logits, self.activation(logits))

    def raw_outputs(self, batch: Batch) -> list[Tensor]:
        """The columns of `logits` as separate tensors, T × [B], so that each task can be differentiated alone.

        In training the auxiliary outputs follow, [B] each: the members of every task that has several, in the order of
        tasks (`recap.model.objective.members`), then the penalty of the experts of a backbone, if there is one.
        """
        return [*self.network_outputs(batch), *self.penalty()]

    def network_outputs(self, batch: Batch) -> list[Tensor]:
        """`raw_outputs` without the penalty: what `training.compile` compiles."""
        inputs = self.inputs(batch)
        if torch.is_autocast_enabled(inputs.device.type):  # round once, for all layers that read them
            inputs = inputs.to(torch.get_autocast_dtype(inputs.device.type))
        if not self.training:
            return self._own_outputs(inputs, batch.discrete)
        passes = self._two_passes if self.two_passes else self._with_members
        outputs, members = passes(inputs, batch.discrete)
        return [*outputs, *members]

    def _read(self, inputs: Tensor, codes: Tensor) -> Iterator[tuple[Tower, Context]]:
        """[B, N] and `Batch.discrete` → each tower and what it reads, its representation first."""
        shared: Context = ()
        contexts: list[Context] = [()] * len(self._towers)
        if self.scenario is not None:
            inputs, shared, contexts = self.scenario(inputs, codes)
        representations = self.cascade(self.sharing(inputs, *shared))
        for tower, representation, context in zip(self._towers, representations, contexts, strict=True):
            yield tower, (representation, *context)

    def _own_outputs(self, inputs: Tensor, codes: Tensor) -> list[Tensor]:
        """[B, N] and `Batch.discrete` → T × [B]."""
        return self.cascade.chained([tower(*read) for tower, read in self._read(inputs, codes)])

    def _with_members(self, inputs: Tensor, codes: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """As `_own_outputs`: the tasks' own outputs T × [B], and the members of those that have several, [B] each."""
        outputs: list[Tensor] = []
        members: list[Tensor] = []
        for tower, read in self._read(inputs, codes):
            if tower.num_members == 1:
                outputs.append(tower(*read))
            else:
                columns = tower.members(*read)  # [B, M]
                outputs.append(tower.joined(columns))
                members += columns.unbind(dim=1)
        return self.cascade.chained(outputs), members

    def _two_passes(self, inputs: Tensor, codes: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """As `_with_members`; the members of every task are its outputs in two passes, each with dropout of its own."""
        outputs = self._own_outputs(inputs.repeat(2, 1), codes.repeat(2, 1))  # T × [2 B]
        passes = [torch.unflatten(output, 0, (2, -1)) for output in outputs]  # T × [2, B]
        towers = zip(passes, self._towers, strict=True)
        outputs = [output_of_mean(both.T, is_regression=tower.is_regression) for both, tower in towers]
        return outputs, [one for both in passes for one in both.unbind()]

    def penalty(self) -> list[Tensor]:
        """The penalty of the experts for the rows of the last pass, [B], if any are trained."""
        penalties = [penalty for experts in self._experts if (penalty := experts.take_penalty()) is not None]
        if not penalties:
            return []
        total = torch.stack(penalties).sum(dim=0).float()
        return [torch.unflatten(total, 0, (2, -1)).mean(dim=0) if self.two_passes else total]

    def gate_weights(self, batch: Batch) -> dict[str, Tensor]:
        """Gate → the weights of its experts for the rows of `batch`, [B, experts]; the gates are `sharing.gates`."""
        inputs = self.inputs(batch)
        if self.scenario is not None:
            inputs, *_ = self.scenario(inputs, batch.discrete)
        return self.sharing.gate_weights(inputs)

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
