"""The optimizer: a parameter group for the shared part of the ranker and one per tower, each with its schedule.

Embedding tables have their own group if `optimizer.tables` is configured.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from recap.config.base import DEFAULT
from recap.config.optimizer import AdamWConfig, LearningRateConfig
from recap.config.recap import RecapConfig
from recap.data.batch import Batch
from recap.distributed import ONE_RANK, Ranks
from recap.model.directory import TABLES as TABLES_PATH
from recap.model.ranker import Ranker
from recap.native.torch_private import foreach_add_
from recap.training.ids.local import LocalIds
from recap.training.optimizer.algorithms import build_algorithm
from recap.training.optimizer.rounded_weights import rounded_weights
from recap.training.optimizer.row_penalty import LOOKUPS, RowPenalty
from recap.training.optimizer.schedule import learning_rate
from recap.training.sharded_tables.tables import ShardedTables

SHARED, TABLES = "backbone", "tables"
RateCut = Callable[[float], float]
"""A scheduled rate → the rate after cuts."""


def no_cut(rate: float) -> float:
    """The rate itself."""
    return rate


class ScheduledOptimizer:
    """The algorithms of a run, with rates set by step. Groups follow modules, not the names of parameters."""

    def __init__(
        self,
        config: RecapConfig,
        ranker: Ranker,
        others: Mapping[str, nn.Parameter] | None = None,
        cut: RateCut = no_cut,
        last_step: int | None = None,
        ranks: Ranks = ONE_RANK,
    ) -> None:
        """`others`: parameters by name that do not belong to the ranker, moved at the rate of the backbone.

        `cut`: applied to each scheduled rate at every step; the watched metric decides it. `last_step`: the length of
        the run; default: `num_train_steps`. `ranks`: those that take the same steps.
        """
        optimizer, tasks = config.optimizer, config.tasks
        rates = {task: optimizer.towers[task if task in optimizer.towers else DEFAULT] for task in tasks}
        self.schedules: dict[str, LearningRateConfig] = {SHARED: optimizer.backbone}
        self.schedules |= {f"towers/{task}": rate for task, rate in rates.items()}
        self._cut = cut
        self._last_step = config.training.num_train_steps if last_step is None else last_step
        others = dict(others or {})
        embeddings = ranker.inputs.embeddings
        tables = dict.fromkeys(embeddings.parameters())
        self._sharded = embeddings if isinstance(embeddings, ShardedTables) else None
        self._local = LocalIds(ranker.inputs, ranks, config.training.seed)
        self._row_penalty = RowPenalty(optimizer, ranker.inputs, ranks)
        table_algorithm = optimizer.algorithm if optimizer.tables is None else optimizer.tables.algorithm
        self._initial_sum: float = getattr(table_algorithm, "initial_accumulator_value", 0.0)
        shared = list(ranker.shared_parameters())
        if optimizer.tables is not None:
            shared = [parameter for parameter in shared if parameter not in tables]
        groups = [[*shared, *others.values()], *(list(ranker.tower_parameters(task)) for task in tasks)]
        self._groups = list(self.schedules)
        """The schedule of each parameter group."""
        if isinstance(optimizer.algorithm, AdamWConfig):  # which decays by group
            last = [ranker.last_bias(task) for task in tasks]
            groups = [
                [parameter for parameter in group if all(parameter is not bias for bias in last)] for group in groups
            ]
            groups += [[bias] for bias in last]
            self._groups += self._groups[1:]
        self._algorithms = [build_algorithm(optimizer.algorithm, groups, copies=rounded_weights(ranker))]
        if optimizer.tables is not None:
            self.schedules[TABLES] = optimizer.tables.learning_rate
            sparse = optimizer.tables.sparse
            if sparse:
                embeddings.make_gradients_sparse()
            if self._sharded is None:  # else they have an algorithm of their own
                self._groups.append(TABLES)
                self._algorithms.append(build_algorithm(optimizer.tables.algorithm, [list(tables)], sparse=sparse))
        self._names = {parameter: name for name, parameter in ranker.named_parameters()}
        # λ/2·‖W‖² has the gradient λ·W. Added to the gradient, it has the same meaning for every algorithm.
        penalties = (
            (list(tables), optimizer.embedding_l2 if optimizer.embedding_l2_rows == "all" else 0.0),
            ([parameter for parameter in self._names if parameter not in tables], optimizer.network_l2),
        )
        self._penalties = [(parameters, strength) for parameters, strength in penalties if strength and parameters]
        self._names |= {parameter: name for name, parameter in others.items()}

    def spare_decay(self, parameters: Sequence[nn.Parameter]) -> None:
        """Let neither `network_l2` nor the weight decay of AdamW move `parameters`, the last biases of towers.

        A bias that starts at log-odds far from 0 would be drawn to a probability of ½.
        """
        spared = set(parameters)
        self._penalties = [
            ([parameter for parameter in penalised if parameter not in spared], strength)
            for penalised, strength in self._penalties
        ]
        for algorithm in self._algorithms:
            for group in algorithm.param_groups:
                if "weight_decay" in group and spared.issuperset(group["params"]):
                    group["weight_decay"] = 0.0

    def rates(self, step: int) -> dict[str, float]:
        """The rate of each group at step number `step`, counted from 1, after all cuts so far."""
        return {
            name: self._cut(learning_rate(schedule, step - 1, self._last_step))
            for name, schedule in self.schedules.items()
        }

    def zero_grad(self) -> None:
        """Clear all gradients."""
        for algorithm in self._algorithms:
            algorithm.zero_grad(set_to_none=True)
        if self._sharded is not None:
            self._sharded.forget()

    def prepare(self, step: int) -> None:
        """Clear all gradients before the forward passes of step number `step`, in which sharded tables read a rate."""
        self.zero_grad()
        if self._sharded is not None:
            self._sharded.set_rate(self.rates(step)[TABLES])

    def unscale(self, scale: float) -> None:
        """Divide the gradients of sharded tables by `scale`; those of parameters are left to the balancing."""
        if self._sharded is not None:
            self._sharded.scale_gradients(1 / scale)

    def step(self, step: int, batch: Batch | None = None) -> None:
        """Update the weights, as step number `step`, counted from 1.

        `batch`: this rank's rows, whose ids are counted where that decides their rows or their penalty.
        """
        rates = self.rates(step)
        groups = [group for algorithm in self._algorithms for group in algorithm.param_groups]
        for group, name in zip(groups, self._groups, strict=True):
            group["lr"] = rates[name]
        for parameters, strength in self._penalties:
            _add_to_gradients(parameters, strength)
        if batch is not None:
            self._row_penalty.add(batch)
        for algorithm in self._algorithms:
            algorithm.step()
        if self._sharded is not None:
            self._sharded.step()
        if batch is not None:
            for table, vectors in self._local.step(batch).items():
                self._restart_rows(table, *vectors)

    def _restart_rows(self, table: nn.Parameter, rows: Tensor, vectors: Tensor) -> None:
        """Give rows of a table new vectors and the state of new rows, because they belong to other ids now."""
        with torch.no_grad():
            table[rows] = vectors
        self._row_penalty.restart(table, rows)
        for algorithm in self._algorithms:
            for key, value in algorithm.state.get(table, {}).items():
                if value.dim():
                    value[rows] = self._initial_sum if key == "sum" else 0.0

    def state_dict(self) -> dict[str, Tensor]:
        """The state of every parameter, such as its moments: `parameter/key` → tensor.

        That of sharded tables has the names of whole ones, and `ShardedTensor`s as values.
        """
        of_tables = self._row_penalty.state_dict()
        of_tables |= self._local.state_dict() if self._sharded is None else self._sharded.optimizer_state()
        return {f"{TABLES_PATH}.{entry}": value for entry, value in of_tables.items()} | {
            f"{name}/{key}": value
            for parameter, name in self._names.items()
            for algorithm in self._algorithms
            for key, value in algorithm.state.get(parameter, {}).items()
        }

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        prefix = f"{TABLES_PATH}."
        apart = (prefix,) if self._sharded is not None else (f"{prefix}row_ids.", f"{prefix}{LOOKUPS}.")
        of_tables = {entry: value for entry, value in tensors.items() if entry.startswith(apart)}
        tensors = {entry: value for entry, value in tensors.items() if entry not in of_tables}
        of_tables = {entry[len(prefix) :]: value for entry, value in of_tables.items()}
        if self._sharded is not None:
            self._sharded.load_optimizer_state(of_tables)
        else:
            self._local.load_state_dict(of_tables)
            self._row_penalty.load_state_dict(of_tables)
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
            on_cpu = key == "step" and not algorithm.defaults.get("fused")  # where torch keeps the step count
            algorithm.state[parameter][key] = value.to("cpu" if on_cpu else parameter.device)


def _add_to_gradients(parameters: Sequence[Tensor], strength: float) -> None:
    """Add `strength` · parameter to the gradient of each parameter that has one."""
    moving = [parameter for parameter in parameters if parameter.grad is not None]
    if moving:
        with torch.no_grad():
            foreach_add_([parameter.grad for parameter in moving if parameter.grad is not None], moving, strength)
