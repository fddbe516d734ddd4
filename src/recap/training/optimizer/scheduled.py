"""The optimizer: one parameter group for what towers share, one for each tower, each with its own schedule.

Embedding tables have a group of their own where the configuration says how they move.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from recap.config.base import DEFAULT
from recap.config.optimizer import LearningRateConfig
from recap.config.recap import RecapConfig
from recap.model.ranker import Ranker
from recap.training.optimizer.algorithms import build_algorithm
from recap.training.optimizer.schedule import learning_rate

SHARED, TABLES = "backbone", "tables"


class ScheduledOptimizer:
    """Algorithms whose rates are set from the step. Groups are found by module, never by parameter name."""

    def __init__(self, config: RecapConfig, ranker: Ranker, beside: Mapping[str, nn.Parameter] | None = None) -> None:
        """`beside`: parameters, by name, that are not the ranker's and move at the backbone's rate."""
        said = config.optimizer
        towers = {task: said.towers[task] if task in said.towers else said.towers[DEFAULT] for task in config.tasks}
        self.schedules: dict[str, LearningRateConfig] = {SHARED: said.backbone}
        self.schedules |= {f"towers/{task}": rate for task, rate in towers.items()}
        more = dict(beside or {})
        tables = dict.fromkeys(ranker.inputs.embeddings.parameters())
        shared = [each for each in ranker.shared_parameters() if said.tables is None or each not in tables]
        groups = [[*shared, *more.values()], *(list(ranker.tower_parameters(task)) for task in towers)]
        self._algorithms = [build_algorithm(said.algorithm, groups)]
        if said.tables is not None:
            self.schedules[TABLES] = said.tables.learning_rate
            if said.tables.sparse:
                ranker.inputs.embeddings.make_gradients_sparse()
            self._algorithms.append(build_algorithm(said.tables.algorithm, [list(tables)], sparse=said.tables.sparse))
        self._names = {parameter: name for name, parameter in ranker.named_parameters()}
        # λ/2·‖W‖² has the gradient λ·W. It is added here, so that it means the same whatever the algorithm.
        self._penalties = [
            (parameters, strength)
            for strength, parameters in (
                (said.embedding_l2, list(tables)),
                (said.network_l2, [each for each in self._names if each not in tables]),
            )
            if strength and parameters
        ]
        self._names |= {parameter: name for name, parameter in more.items()}

    def rates(self, step: int, cut: Callable[[float], float] = lambda rate: rate) -> dict[str, float]:
        """The rate of each group after `step` finished steps; `cut` is what an unmoved metric makes of a rate."""
        return {name: cut(learning_rate(schedule, step)) for name, schedule in self.schedules.items()}

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for algorithm in self._algorithms:
            algorithm.zero_grad(set_to_none=True)

    def step(self, rates: Mapping[str, float]) -> None:
        """Move the weights, at `rates` of the groups."""
        groups = [group for algorithm in self._algorithms for group in algorithm.param_groups]
        for group, name in zip(groups, self.schedules, strict=True):
            group["lr"] = rates[name]
        for parameters, strength in self._penalties:
            _add_to_gradients(parameters, strength)
        for algorithm in self._algorithms:
            algorithm.step()

    def state_dict(self) -> dict[str, Tensor]:
        """What is kept of every parameter, such as its moments: `parameter/key` → tensor."""
        return {
            f"{name}/{key}": value
            for parameter, name in self._names.items()
            for algorithm in self._algorithms
            for key, value in algorithm.state.get(parameter, {}).items()
        }

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Bring back what `state_dict` gave."""
        parameters = {name: parameter for parameter, name in self._names.items()}
        moved_by = {
            parameter: algorithm
            for algorithm in self._algorithms
            for group in algorithm.param_groups
            for parameter in group["params"]
        }
        for entry, value in tensors.items():
            name, _, key = entry.rpartition("/")
            parameter = parameters[name]
            algorithm = moved_by[parameter]
            on_cpu = key == "step" and not algorithm.defaults.get("fused")  # where torch counts steps
            algorithm.state[parameter][key] = value.to("cpu" if on_cpu else parameter.device)


def _add_to_gradients(parameters: Sequence[Tensor], strength: float) -> None:
    """Add `strength` · parameter to the gradient of each that has one: what no loss reads is left alone."""
    found = [(parameter, parameter.grad) for parameter in parameters if parameter.grad is not None]
    if found:
        with torch.no_grad():
            torch._foreach_add_([grad for _, grad in found], [parameter for parameter, _ in found], alpha=strength)
