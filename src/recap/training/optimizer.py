"""The optimizer: one parameter group for what towers share, one for each tower, each with its own schedule."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from recap.config.optimizer import DEFAULT, LearningRateConfig
from recap.config.recap import RecapConfig
from recap.model.ranker import Ranker
from recap.training.schedule import learning_rate

SHARED = "backbone"


class ScheduledOptimizer:
    """Adam whose rates are set from the step. Groups are found by module, never by parameter name."""

    def __init__(self, config: RecapConfig, ranker: Ranker, beside: Mapping[str, nn.Parameter] | None = None) -> None:
        """`beside`: parameters, by name, that are not the ranker's and move at the backbone's rate."""
        rates = config.optimizer.towers
        towers = {task: rates[task] if task in rates else rates[DEFAULT] for task in config.tasks}
        self.schedules: dict[str, LearningRateConfig] = {SHARED: config.optimizer.backbone}
        self.schedules |= {f"towers/{task}": rate for task, rate in towers.items()}
        more = dict(beside or {})
        groups = [
            [*ranker.shared_parameters(), *more.values()],
            *(list(ranker.tower_parameters(task)) for task in towers),
        ]
        algorithm = config.optimizer.algorithm
        self._names = {parameter: name for name, parameter in ranker.named_parameters()}
        # λ/2·‖W‖² has the gradient λ·W. It is added here, so that it means the same whatever the algorithm.
        tables = set(ranker.inputs.embeddings.parameters())
        l2 = config.optimizer
        self._penalties = [
            (parameters, strength)
            for strength, parameters in (
                (l2.embedding_l2, [each for each in self._names if each in tables]),
                (l2.network_l2, [each for each in self._names if each not in tables]),
            )
            if strength and parameters
        ]
        self._names |= {parameter: name for name, parameter in more.items()}
        self._adam = torch.optim.Adam(
            [{"params": parameters} for parameters in groups],
            lr=0.0,
            betas=(algorithm.beta_1, algorithm.beta_2),
            eps=algorithm.epsilon,
            fused=True,
        )

    def rates(self, step: int, cut: Callable[[float], float] = lambda rate: rate) -> dict[str, float]:
        """The rate of each group after `step` finished steps; `cut` is what an unmoved metric makes of a rate."""
        return {name: cut(learning_rate(schedule, step)) for name, schedule in self.schedules.items()}

    def zero_grad(self) -> None:
        """Forget all gradients."""
        self._adam.zero_grad(set_to_none=True)

    def step(self, rates: Mapping[str, float]) -> None:
        """Move the weights, at `rates` of the groups."""
        for group, name in zip(self._adam.param_groups, self.schedules, strict=True):
            group["lr"] = rates[name]
        for parameters, strength in self._penalties:
            _add_to_gradients(parameters, strength)
        self._adam.step()

    def state_dict(self) -> dict[str, Tensor]:
        """The moments of every parameter: `parameter/key` → tensor."""
        return {
            f"{name}/{key}": value
            for parameter, name in self._names.items()
            for key, value in self._adam.state.get(parameter, {}).items()
        }

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Bring back what `state_dict` gave."""
        parameters = {name: parameter for parameter, name in self._names.items()}
        for entry, value in tensors.items():
            name, _, key = entry.rpartition("/")
            parameter = parameters[name]
            device = value.device if key == "step" else parameter.device
            self._adam.state[parameter][key] = value.to(device)


def _add_to_gradients(parameters: Sequence[Tensor], strength: float) -> None:
    """Add `strength` · parameter to the gradient of each that has one: what no loss reads is left alone."""
    found = [(parameter, parameter.grad) for parameter in parameters if parameter.grad is not None]
    if found:
        with torch.no_grad():
            torch._foreach_add_([grad for _, grad in found], [parameter for parameter, _ in found], alpha=strength)
