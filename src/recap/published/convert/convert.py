"""A file in the published form → one of ours, with a remark on all that changes in meaning."""

import json
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recap.config.base import DEFAULT, KeyPath, all_problems
from recap.config.file.environment import substitute
from recap.config.file.layers import inherit_train_data, read_mapping
from recap.config.file.node import Node, plain
from recap.config.file.validate import disagreements, in_order, origin_at, validate
from recap.config.file.yaml import render
from recap.config.recap import RecapConfig
from recap.errors import Problem
from recap.published.convert.columns import find_columns
from recap.published.convert.data_sets import DataSets
from recap.published.convert.inputs import InputsConverter, accepted_epsilon
from recap.published.convert.large import LargeTables
from recap.published.convert.rates import rate_of
from recap.published.convert.tree import TreeBuilder
from recap.published.form.config import METRIC_ALIASES, Optimizer, PublishedConfig, hit_ranks, metric_names
from recap.published.form.model import Mlp, SmallTable, TaskModel
from recap.published.form.rates import LearningRate

_Test = Callable[[Any], bool]
_TRAINING: dict[str, tuple[_Test, str]] = {
    "num_train_steps": (bool, "exactly so many steps; the published code did one more"),
    "initial_checkpoint_dir": (bool, "must be a run or model of recap; a published checkpoint is neither"),
    "num_eval_steps": (lambda steps: steps < 0, "the whole data set, which the published code did not keep to"),
    "checkpoint_every_n": (bool, "holds by itself; the published code saved only where a logging step coincided"),
    "checkpoint_max_to_keep": (bool, "holds; the published code never read it"),
    "eval_log_every_n": (bool, "holds; the published code never read it"),
    "gradient_accumulation": (lambda n: n > 2, "all micro-batches count; the published code dropped all but two"),
}
"""Of which values of a field a word is due, and which."""


@dataclass(frozen=True)
class Imported:
    """A configuration in our form, and what reads differently in it, each with its place in the published file."""

    text: str
    remarks: Sequence[Problem]


def import_config(file: str) -> Imported:
    """Turn a file in the published form into one that `load_config` reads.

    References to the environment stay. Raises ConfigError with every mistake and every field that cannot be taken
    over, each with its place and the reason.
    """
    problems: list[Problem] = []
    raw = read_mapping(file, problems, PublishedConfig)
    root = deepcopy(raw)
    substitute(root, problems)
    published = validate(PublishedConfig, root, problems)
    refused = disagreements(root, all_problems(published))
    tree = TreeBuilder(raw)
    ours = _Converter(tree, published).whole()
    checked = deepcopy(ours)
    substitute(checked, tree.problems)
    inherit_train_data(checked)
    validate(RecapConfig, checked, [*refused, *tree.problems])
    name = json.dumps(Path(file).name)
    return Imported(f"# From {name}, in the published form.\n{render(plain(ours))}", in_order(tree.remarks))


@dataclass
class _Converter:
    """Says everything of ours in the words of the published file."""

    tree: TreeBuilder
    published: PublishedConfig

    def whole(self) -> Node:
        """Everything."""
        published, sets = self.published, DataSets(self.tree, self.published)
        sections: dict[str, Node | None] = {
            "training": self._training(),
            "features": self._features(),
            "model": self._model(),
            "train_data": sets.train_data(),
            "validation_data": sets.validation_data(),
            "optimizer": self._optimizer(),
        }
        self.tree.remark(("model",), "scoring.weights is not said in the published form; add it, or every score is 0")
        if published.which_metrics is not None:
            names = [METRIC_ALIASES.get(name, name) for name in metric_names(published.which_metrics)]
            sections["which_metrics"] = self.tree.made(names, ("which_metrics",))
            ranks = hit_ranks(published.which_metrics)
            sections["metrics"] = self.tree.made({"hit_at": ranks}, ("which_metrics",)) if ranks else None
        sections["strata"] = self._inputs.strata()
        return self.tree.mapping((), sections)

    # The sections, in the order of ours.

    def _training(self) -> Node | None:
        for name, (is_due, text) in _TRAINING.items():
            value = getattr(self.published.training, name)
            if self.tree.stated(("training", name)) and value is not None and is_due(value):
                self.tree.remark(("training", name), text)
        copied, norms = self.tree.copied(("training",)), self._large.log_norms()
        if norms is None:
            return copied
        return self.tree.mapping(("training",), {**(copied.value if copied is not None else {}), "log_norms": norms})

    def _features(self) -> Node:
        path: KeyPath = ("train_data", "seg_dense_schema")
        tables = [*self._tables, *self._inputs.codes()]
        large = self._large.features()
        said = self.published.model.featurization_config
        joined = said.feature_names_to_concat if said is not None else []
        say = self.tree.remark, self.tree.refuse
        columns = find_columns(self.published.train_data, tables, large, joined, path, *say)
        entries = {name: self.tree.made(value, path) for name, value in columns.items() if value}
        return self.tree.mapping(path, entries)

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

    def _model(self) -> Node:
        model = self.published.model
        widths = {table.name: table.embedding_dim for table in self._tables} | self._inputs.unembedded()
        widths |= self._large.widths()
        told_in = next(
            (name for name in ("small_embeddings", "large_embeddings") if getattr(model, name)), "stratifiers"
        )
        if self._tables:
            text = "a code that a table has no row for is unknown, and shares one row; the published code failed there"
            self.tree.remark(("model", "small_embeddings"), text)
        self.tree.remark(
            ("model", "tasks"), "heads and labels are matched by name; the published code matched by position"
        )
        towers = {name: self._task(("model", "tasks", name), task) for name, task in model.tasks.items()}
        backbone: Node | None = None
        if model.backbone is not None:
            path: KeyPath = ("model", "backbone")
            kind, entries = self._network(path, model.backbone)
            backbone = self.tree.mapping(path, {"kind": self.tree.made(kind, path), **entries})
        return self.tree.mapping(
            ("model",),
            {
                "featurization": self._inputs.featurization(),
                "embeddings": self.tree.made(widths, ("model", told_in)) if widths else None,
                "position_debias": self._inputs.position_debias(),
                "backbone": backbone,
                "sharing": self.tree.made({"kind": model.multi_task_type}, ("model", "multi_task_type")),
                "tasks": self.tree.mapping(("model", "tasks"), towers),
            },
        )

    def _task(self, path: KeyPath, task: TaskModel) -> Node:
        kind, entries = self._network(path, task, to_logit=True)
        tower = self.tree.mapping(path, {"kind": self.tree.made(kind, path), **entries})
        return self.tree.mapping(path, {"tower": tower, **self.tree.copies(path, "affine_map", "pos_weight")})

    def _network(self, path: KeyPath, said: TaskModel, *, to_logit: bool = False) -> tuple[str, dict[str, Node | None]]:
        """Kind and fields of a network; `to_logit`: without the last layer, which every tower of ours has."""
        if said.mlp_config is not None:
            return "mlp", self._mlp((*path, "mlp_config"), said.mlp_config, to_logit=to_logit)
        last, _ = said.last_mlp
        ends = (*path, *last) if to_logit else None
        if said.mask_net_config is not None:
            path = (*path, "mask_net_config")
            entries = self.tree.copies(path, "mask_blocks", "use_parallel")
            return "mask_net", entries | self._mlps(path, {"mlp": said.mask_net_config.mlp}, ends)
        if said.dcn_config is not None:
            dcn, path = said.dcn_config, (*path, "dcn_config")
            entries = self.tree.copies(path, "poly_degree", "projection_dim")
            mlps = self._mlps(path, {"parallel_mlp": dcn.parallel_mlp, "output_mlp": dcn.output_mlp}, ends)
            if mlps["parallel_mlp"] is not None:  # else it means nothing, and ours refuses false
                entries |= self.tree.copies(path, "use_parallel")
            return "dcn", entries | mlps
        if said.dlrm_config is not None:
            path, dlrm = (*path, "dlrm_config"), said.dlrm_config
            return "dlrm", self._mlps(path, {"bottom_mlp": dlrm.bottom_mlp, "top_mlp": dlrm.top_mlp}, ends)
        return "mlp", {"layer_sizes": self.tree.made([1], path)}  # stands in for what is missing, which is refused

    def _mlps(self, path: KeyPath, said: dict[str, Mlp | None], ends: KeyPath | None) -> dict[str, Node | None]:
        """The MLPs inside a network; the one at `ends` without its last layer, which every tower of ours has."""
        found: dict[str, Node | None] = {}
        for name, mlp in said.items():
            at, to_logit = (*path, name), (*path, name) == ends
            found[name] = None
            if mlp is not None and not (to_logit and mlp.sizes == [1]):
                entries = self._mlp(at, mlp, to_logit=to_logit)
                if to_logit:  # what was a hidden layer is the last one here, and keeps its ReLU
                    entries["final_layer_activation"] = self.tree.made(True, at)
                    if mlp.batch_norm is not None:
                        entries["final_layer_batch_norm"] = self.tree.made(True, at)
                found[name] = self.tree.mapping(at, entries)
        return found

    def _mlp(self, path: KeyPath, said: Mlp, *, to_logit: bool) -> dict[str, Node | None]:
        sizes = self.tree.copied((*path, "layer_sizes")) if said.layer_sizes else None
        if sizes is None:
            items = [self.tree.copied((*path, "layers", index, "layer_size")) for index in range(len(said.sizes))]
            sizes = Node(items, origin_at(self.tree.raw, (*path, "layers")))
        if to_logit:
            sizes.value = sizes.value[:-1]
        if said.dropout is not None and said.final_layer_activation and not to_logit:
            self.tree.remark((*path, "dropout"), "follows the last ReLU too; the published code has none there")
        names = ("batch_norm", "dropout") + (() if to_logit else ("final_layer_activation",))
        entries = {"layer_sizes": sizes, **self.tree.copies(path, *names)}
        return entries | ({"dropout": self._drop_rates(path, said)} if said.has_own_rates else {})

    def _drop_rates(self, path: KeyPath, said: Mlp) -> Node:
        """The dropout of each layer that has a ReLU; a layer that states none has none."""
        rates: list[Node] = []
        for index, layer in enumerate(said.layers or []):
            at: KeyPath = (*path, "layers", index)
            rate = layer.dropout.rate if layer.dropout is not None else 0.0
            rates.append(self.tree.copied((*at, "dropout", "rate")) or self.tree.made(rate, at))
        origin = origin_at(self.tree.raw, (*path, "layers"))
        kept = rates if said.final_layer_activation else rates[:-1]
        return self.tree.mapping((*path, "layers"), {"rates": Node(kept, origin)})

    def _optimizer(self) -> Node:
        said = self.published.optimizer
        shared = {"algorithm": self._algorithm(said), "tables": self._large.optimizer()}
        path: KeyPath = ("optimizer", "single_task_learning_rate")
        several = said.multi_task_learning_rates
        if several is None:
            one = rate_of(self.tree, path, said.single_task_learning_rate or LearningRate())
            self.tree.remark(path, "one rate for everything: the backbone and every tower")
            towers = self.tree.mapping(path, {DEFAULT: deepcopy(one)})
            return self.tree.mapping(("optimizer",), {**shared, "backbone": one, "towers": towers})
        path = ("optimizer", "multi_task_learning_rates")
        backbone_path, tower_path = (*path, "backbone_learning_rate"), (*path, "tower_learning_rates")
        if several.backbone_learning_rate is not None:
            backbone = rate_of(self.tree, backbone_path, several.backbone_learning_rate)
        else:
            backbone = self.tree.made({"kind": "constant", "learning_rate": 0.0}, path)
            self.tree.remark(path, "no backbone_learning_rate: what is no tower stays as it starts")
        rates = several.tower_learning_rates.items()
        towers = self.tree.mapping(
            tower_path, {task: rate_of(self.tree, (*tower_path, task), rate) for task, rate in rates}
        )
        return self.tree.mapping(path, {**shared, "backbone": backbone, "towers": towers})

    def _algorithm(self, said: Optimizer) -> Node:
        """The one that is stated, or Adam."""
        if said.sgd is not None:
            kind, entries = "sgd", self.tree.copies(("optimizer", "sgd"), "momentum")
        elif said.adagrad is not None:
            kind, place = "adagrad", ("optimizer", "adagrad", "eps")
            entries = {"epsilon": accepted_epsilon(self.tree, place, said.adagrad.eps, self.tree.copied(place))}
        else:
            kind, place = "adam", ("optimizer", "adam", "epsilon")
            entries = self.tree.copies(("optimizer", "adam"), "beta_1", "beta_2", "epsilon")
            if said.adam is not None:
                entries["epsilon"] = accepted_epsilon(self.tree, place, said.adam.epsilon, entries["epsilon"])
        path: KeyPath = ("optimizer", kind)
        if self.tree.stated((*path, "lr")):
            self.tree.remark((*path, "lr"), "left out: rates are those of the learning rates beside it")
        return self.tree.mapping(path, {"kind": self.tree.made(kind, path), **entries})
