"""The published section `optimizer` → ours."""

from copy import deepcopy
from dataclasses import dataclass

from recap.config.base import DEFAULT, KeyPath
from recap.config.file.node import Node
from recap.published.convert.large_tables import LargeTables
from recap.published.convert.rates import convert_rate
from recap.published.convert.tree import TreeBuilder
from recap.published.form.config import PublishedConfig
from recap.published.form.rates import LearningRate

_PATH: KeyPath = ("optimizer",)


@dataclass
class OptimizerConverter:
    """Converts the algorithm and the learning rates."""

    tree: TreeBuilder
    published: PublishedConfig

    def optimizer(self) -> Node:
        """The section `optimizer`."""
        tables = LargeTables(self.tree, self.published).optimizer()
        shared = {"algorithm": self._algorithm(), "tables": tables}
        rates = self.published.optimizer.multi_task_learning_rates
        if rates is None:
            path: KeyPath = (*_PATH, "single_task_learning_rate")
            rate = convert_rate(self.tree, path, self.published.optimizer.single_task_learning_rate or LearningRate())
            self.tree.remark(path, "one rate for the backbone and all towers")
            towers = self.tree.mapping(path, {DEFAULT: deepcopy(rate)})
            return self.tree.mapping(_PATH, {**shared, "backbone": rate, "towers": towers})
        path = (*_PATH, "multi_task_learning_rates")
        backbone_path, tower_path = (*path, "backbone_learning_rate"), (*path, "tower_learning_rates")
        if rates.backbone_learning_rate is not None:
            backbone = convert_rate(self.tree, backbone_path, rates.backbone_learning_rate)
        else:
            backbone = self.tree.node({"kind": "constant", "learning_rate": 0.0}, path)
            self.tree.remark(
                path, "no backbone_learning_rate: all weights outside the towers keep their initial values"
            )
        towers = self.tree.mapping(
            tower_path,
            {
                task: convert_rate(self.tree, (*tower_path, task), rate)
                for task, rate in rates.tower_learning_rates.items()
            },
        )
        return self.tree.mapping(path, {**shared, "backbone": backbone, "towers": towers})

    def _algorithm(self) -> Node:
        """The algorithm, by default Adam."""
        optimizer = self.published.optimizer
        if optimizer.sgd is not None:
            kind, entries = "sgd", self.tree.copy_fields((*_PATH, "sgd"), "momentum")
        elif optimizer.adagrad is not None:
            kind, epsilon_path = "adagrad", (*_PATH, "adagrad", "eps")
            entries = {"epsilon": self.tree.epsilon(epsilon_path, optimizer.adagrad.eps)}
        else:
            kind, epsilon_path = "adam", (*_PATH, "adam", "epsilon")
            entries = self.tree.copy_fields((*_PATH, "adam"), "beta_1", "beta_2", "epsilon")
            if optimizer.adam is not None:
                entries["epsilon"] = self.tree.epsilon(epsilon_path, optimizer.adam.epsilon)
        path: KeyPath = (*_PATH, kind)
        if self.tree.is_set((*path, "lr")):
            self.tree.remark((*path, "lr"), "left out: single_task_learning_rate or multi_task_learning_rates apply")
        return self.tree.mapping(path, {"kind": self.tree.node(kind, path), **entries})
