"""A file in the published form → one in ours, with a remark for each value that changes its meaning."""

import json
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recap.config.base import KeyPath, all_problems
from recap.config.file.environment import substitute
from recap.config.file.layers import inherit_train_data, read_mapping
from recap.config.file.node import Node, plain
from recap.config.file.validate import in_order, located, validate
from recap.config.file.yaml import render
from recap.config.recap import RecapConfig
from recap.errors import Problem
from recap.published.convert.data import DataConverter
from recap.published.convert.features import FeaturesConverter
from recap.published.convert.inputs import InputsConverter
from recap.published.convert.large_tables import LargeTables
from recap.published.convert.networks import NetworkConverter
from recap.published.convert.optimizer import OptimizerConverter
from recap.published.convert.tree import TreeBuilder
from recap.published.form.config import METRIC_ALIASES, PublishedConfig, hit_ranks, metric_names
from recap.published.form.model import SmallTable

_TRAINING: dict[str, tuple[Callable[[Any], bool], str]] = {
    "num_train_steps": (bool, "exact; the published code took one more step"),
    "initial_checkpoint_dir": (bool, "must be a run or model directory of recap; published checkpoints cannot be read"),
    "num_eval_steps": (lambda steps: steps < 0, "evaluates the complete data set; the published code did not"),
    "checkpoint_every_n": (bool, "independent of logging; the published code saved only at steps that it logged"),
    "checkpoint_max_to_keep": (bool, "takes effect; the published code ignored it"),
    "eval_log_every_n": (bool, "takes effect; the published code ignored it"),
    "gradient_accumulation": (lambda n: n > 2, "uses every micro-batch; the published code dropped all but two"),
}
"""Field of `training` → (whether a value gets a remark, the remark)."""


@dataclass(frozen=True)
class Imported:
    """A configuration in our form, and remarks on values that changed their meaning, with origins in its file."""

    text: str
    remarks: Sequence[Problem]


def import_config(file: str) -> Imported:
    """Convert a file in the published form into one that `load_config` reads.

    References to the environment stay references. Raises ConfigError with every mistake and every field that cannot be
    converted, each with its origin and the reason.
    """
    problems: list[Problem] = []
    raw = read_mapping(file, problems, PublishedConfig)
    root = deepcopy(raw)
    substitute(root, problems)
    published = validate(PublishedConfig, root, problems)
    refused = located(root, all_problems(published))
    tree = TreeBuilder(raw)
    ours = _Converter(tree, published).config()
    checked = deepcopy(ours)
    substitute(checked, tree.problems)
    inherit_train_data(checked)
    validate(RecapConfig, checked, [*refused, *tree.problems])
    name = json.dumps(Path(file).name)
    return Imported(f"# From {name}, in the published form.\n{render(plain(ours))}", in_order(tree.remarks))


@dataclass
class _Converter:
    """Converts all sections."""

    tree: TreeBuilder
    published: PublishedConfig

    def config(self) -> Node:
        """The complete file, with sections in our order."""
        data = DataConverter(self.tree, self.published)
        sections: dict[str, Node | None] = {
            "training": self._training(),
            "features": self._features(),
            "model": self._model(),
            "train_data": data.train_data(),
            "validation_data": data.validation_data(),
            "optimizer": OptimizerConverter(self.tree, self.published).optimizer(),
        }
        text = "the published form has no scoring.weights; add them, otherwise every score is 0"
        self.tree.remark(("model",), text)
        if self.published.which_metrics is not None:
            path: KeyPath = ("which_metrics",)
            names = [METRIC_ALIASES.get(name, name) for name in metric_names(self.published.which_metrics)]
            sections["which_metrics"] = self.tree.node(names, path)
            ranks = hit_ranks(self.published.which_metrics)
            sections["metrics"] = self.tree.node({"hit_at": ranks}, path) if ranks else None
        sections["strata"] = self._inputs.strata()
        return self.tree.mapping((), sections)

    def _training(self) -> Node | None:
        for name, (gets_remark, text) in _TRAINING.items():
            value = getattr(self.published.training, name)
            if self.tree.is_set(("training", name)) and value is not None and gets_remark(value):
                self.tree.remark(("training", name), text)
        training, log_norms = self.tree.copy(("training",)), self._large.log_norms()
        if log_norms is None:
            return training
        entries = training.value if training is not None else {}
        return self.tree.mapping(("training",), {**entries, "log_norms": log_norms})

    def _features(self) -> Node:
        featurization = self.published.model.featurization_config
        joined = featurization.feature_names_to_concat if featurization is not None else []
        codes = [*self._tables, *self._inputs.codes()]
        return FeaturesConverter(self.tree, self.published.train_data, codes, self._large.features(), joined).features()

    def _model(self) -> Node:
        model, networks = self.published.model, NetworkConverter(self.tree)
        if self._tables:
            text = "codes without a row share one row for unknown codes; the published code failed on them"
            self.tree.remark(("model", "small_embeddings"), text)
        text = "tasks and labels are matched by name; the published code matched them by position"
        self.tree.remark(("model", "tasks"), text)
        towers = {name: networks.task(("model", "tasks", name), task) for name, task in model.tasks.items()}
        backbone = networks.backbone(("model", "backbone"), model.backbone) if model.backbone is not None else None
        return self.tree.mapping(
            ("model",),
            {
                "featurization": self._inputs.featurization(),
                "embeddings": self._embeddings(),
                "position_debias": self._inputs.position_debias(),
                "backbone": backbone,
                "sharing": self.tree.node({"kind": model.multi_task_type}, ("model", "multi_task_type")),
                "tasks": self.tree.mapping(("model", "tasks"), towers),
            },
        )

    def _embeddings(self) -> Node | None:
        widths = {table.name: table.embedding_dim for table in self._tables} | self._inputs.unembedded()
        widths |= self._large.widths()
        sections = [name for name in ("small_embeddings", "large_embeddings") if getattr(self.published.model, name)]
        return self.tree.node(widths, ("model", (sections or ["stratifiers"])[0])) if widths else None

    @property
    def _inputs(self) -> InputsConverter:
        return InputsConverter(self.tree, self.published, self._tables)

    @property
    def _large(self) -> LargeTables:
        return LargeTables(self.tree, self.published)

    @property
    def _tables(self) -> list[SmallTable]:
        small = self.published.model.small_embeddings
        return small.tables if small is not None else []
