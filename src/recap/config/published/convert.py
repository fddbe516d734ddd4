"""A file in the published form → one of ours, with a remark on all that changes in meaning."""

import json
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

from recap.config.base import SMALLEST_EPSILON, all_disagreements
from recap.config.environment import substitute
from recap.config.layers import inherit_train_data, read_mapping
from recap.config.node import Node, Path, node_at, plain
from recap.config.optimizer import DEFAULT
from recap.config.problems import disagreements, in_order, origin_at, validate
from recap.config.published.columns import find_columns
from recap.config.published.data import Data
from recap.config.published.form import METRIC_ALIASES, LearningRate, PublishedConfig, metric_names
from recap.config.published.model import Mlp, SmallTable, TaskModel
from recap.config.published.tree import TreeBuilder
from recap.config.recap import RecapConfig
from recap.config.yaml_file import render
from recap.errors import Problem

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
_INPUTS = {"inputs": None, "explicit_datetime_inputs": "hourly", "explicit_date_inputs": "daily"}
"""What says where files are → the kind of our inputs; globs have none."""
_KNOBS = ["file_batch_size", "dataset_service_compression", "map_num_parallel_calls", "interleave_num_parallel_calls"]
"""Fields that tune the published reader and change no result."""


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
    refused = disagreements(root, all_disagreements(published))
    tree = TreeBuilder(raw)
    ours = _Converter(tree, published).whole()
    checked = deepcopy(ours)
    substitute(checked, tree.problems)
    inherit_train_data(checked)
    validate(RecapConfig, checked, [*refused, *tree.problems])
    name = json.dumps(FilePath(file).name)
    return Imported(f"# From {name}, in the published form.\n{render(plain(ours))}", in_order(tree.remarks))


@dataclass
class _Converter:
    """Says everything of ours in the words of the published file."""

    tree: TreeBuilder
    published: PublishedConfig

    def whole(self) -> Node:
        """Everything."""
        published = self.published
        sections = {
            "training": self._training(),
            "features": self._features(),
            "model": self._model(),
            "train_data": self._train_data(),
            "validation_data": self._validation_data(),
            "optimizer": self._optimizer(),
        }
        self.tree.remark(("model",), "scoring.weights is not said in the published form; add it, or every score is 0")
        if published.which_metrics is not None:
            names = [METRIC_ALIASES.get(name, name) for name in metric_names(published.which_metrics)]
            sections["which_metrics"] = self.tree.made(names, ("which_metrics",))
        return self.tree.mapping((), sections)

    # The sections, in the order of ours.

    def _training(self) -> Node | None:
        for name, (is_due, text) in _TRAINING.items():
            value = getattr(self.published.training, name)
            if self.tree.stated(("training", name)) and value is not None and is_due(value):
                self.tree.remark(("training", name), text)
        return self.tree.copied(("training",))

    def _features(self) -> Node:
        path: Path = ("train_data", "seg_dense_schema")
        columns = find_columns(self.published.train_data, self._tables, path, self.tree.remark, self.tree.refuse)
        entries = {name: self.tree.made(value, path) for name, value in columns.items() if value}
        return self.tree.mapping(path, entries)

    @property
    def _tables(self) -> list[SmallTable]:
        small = self.published.model.small_embeddings
        return small.tables if small is not None else []

    def _model(self) -> Node:
        model = self.published.model
        widths = {table.name: table.embedding_dim for table in self._tables}
        if widths:
            text = "a code that a table has no row for is unknown, and shares one row; the published code failed there"
            self.tree.remark(("model", "small_embeddings"), text)
        self.tree.remark(
            ("model", "tasks"), "heads and labels are matched by name; the published code matched by position"
        )
        towers = {name: self._task(("model", "tasks", name), task) for name, task in model.tasks.items()}
        backbone: Node | None = None
        if model.backbone is not None:
            path: Path = ("model", "backbone")
            kind, entries = self._network(path, model.backbone)
            backbone = self.tree.mapping(path, {"kind": self.tree.made(kind, path), **entries})
        return self.tree.mapping(
            ("model",),
            {
                "featurization": self._featurization(),
                "embeddings": self.tree.made(widths, ("model", "small_embeddings")) if widths else None,
                "backbone": backbone,
                "sharing": self.tree.made({"kind": model.multi_task_type}, ("model", "multi_task_type")),
                "tasks": self.tree.mapping(("model", "tasks"), towers),
            },
        )

    def _featurization(self) -> Node | None:
        path: Path = ("model", "featurization_config", "double_norm_log_config")
        if self.published.model.featurization_config is None:
            text = "no featurization_config is given; ours is taken, double_norm_log between BatchNorm and LayerNorm"
            self.tree.remark(("model",), text)
            return None
        said = self.published.model.featurization_config.double_norm_log_config
        if said is None:  # another one, which is refused
            return None
        norm, norm_path = said.layer_norm_config, (*path, "layer_norm_config")
        layer_norm: Node | None = None
        if norm is not None:
            copied = self.tree.copied((*norm_path, "epsilon"))
            layer_norm = self.tree.mapping(
                norm_path,
                {
                    "epsilon": self._accepted_epsilon((*norm_path, "epsilon"), norm.epsilon, copied),
                    "affine": self.tree.made(norm.center, (*norm_path, "center")),
                },
            )
        return self.tree.mapping(
            path,
            {
                "kind": self.tree.made("double_norm_log", path),
                "batch_norm": self.tree.copied((*path, "batch_norm_config")) or self.tree.made(None, path),
                "clip_magnitude": self.tree.copied((*path, "clip_magnitude")),
                "layer_norm": layer_norm or self.tree.made(None, path),
            },
        )

    def _accepted_epsilon(self, path: Path, value: float, copied: Node | None) -> Node | None:
        """An epsilon that keeps a division finite."""
        if value >= SMALLEST_EPSILON:
            return copied
        self.tree.remark(
            path, f"{value:g} becomes {SMALLEST_EPSILON:g}, the smallest accepted: it keeps a division finite"
        )
        return self.tree.made(SMALLEST_EPSILON, path)

    def _task(self, path: Path, task: TaskModel) -> Node:
        kind, entries = self._network(path, task, to_logit=True)
        tower = self.tree.mapping(path, {"kind": self.tree.made(kind, path), **entries})
        return self.tree.mapping(path, {"tower": tower, **self.tree.copies(path, "affine_map", "pos_weight")})

    def _network(self, path: Path, said: TaskModel, *, to_logit: bool = False) -> tuple[str, dict[str, Node | None]]:
        """Kind and fields of a network; `to_logit`: without the last layer, which every tower of ours has."""
        if said.mlp_config is not None:
            return "mlp", self._mlp((*path, "mlp_config"), said.mlp_config, to_logit=to_logit)
        net = said.mask_net_config
        if net is None:  # another one, which is refused; this stands in for it
            return "mlp", {"layer_sizes": self.tree.made([1], path)}
        path = (*path, "mask_net_config")
        entries = self.tree.copies(path, "mask_blocks", "use_parallel")
        if net.mlp is not None and not (to_logit and net.mlp.sizes == [1]):
            mlp_path: Path = (*path, "mlp")
            mlp = self._mlp(mlp_path, net.mlp, to_logit=to_logit)
            if to_logit:  # what was a hidden layer is the last one here, and keeps its ReLU
                mlp["final_layer_activation"] = self.tree.made(True, mlp_path)
            entries["mlp"] = self.tree.mapping(mlp_path, mlp)
        return "mask_net", entries

    def _mlp(self, path: Path, said: Mlp, *, to_logit: bool) -> dict[str, Node | None]:
        sizes = self.tree.copied((*path, "layer_sizes")) if said.layer_sizes else None
        if sizes is None:
            items = [self.tree.copied((*path, "layers", index, "layer_size")) for index in range(len(said.sizes))]
            sizes = Node(items, origin_at(self.tree.raw, (*path, "layers")))
        if to_logit:
            sizes.value = sizes.value[:-1]
        if said.dropout is not None and said.final_layer_activation and not to_logit:
            self.tree.remark((*path, "dropout"), "follows the last ReLU too; the published code has none there")
        names = ("batch_norm", "dropout") + (() if to_logit else ("final_layer_activation",))
        return {"layer_sizes": sizes, **self.tree.copies(path, *names)}

    def _train_data(self) -> Node:
        path: Path = ("train_data",)
        data = self.published.train_data
        heads = self.published.model.tasks
        unread = [task for task in data.tasks if task not in heads]
        if unread:
            self.tree.remark((*path, "tasks"), f"labels that no head predicts are left out: {', '.join(unread)}")
        if any(task.pos_downsampling_rate != 1 or task.neg_downsampling_rate != 1 for task in data.tasks.values()):
            text = "sampling rates calibrate the probabilities; they do not weigh examples too, which corrects twice"
            self.tree.remark((*path, "tasks"), text)
        self._remark_reading(path, data)
        if data.evaluation_tasks:
            self.tree.remark((*path, "evaluation_tasks"), "left out: training evaluates the validation sets alone")
        labels = {task: self.tree.copied((*path, "tasks", task)) for task in data.tasks if task in heads}
        shuffle = self.tree.copied((*path, "examples_shuffle_buffer_size"))
        return self.tree.mapping(
            path,
            {
                "source": self.tree.mapping(
                    path,
                    {
                        "kind": self.tree.made("tfrecord", path),
                        "inputs": self._inputs(path),
                        "schema_path": self.tree.copied((*path, "seg_dense_schema", "schema_path")),
                    },
                ),
                "global_batch_size": self.tree.copied((*path, "global_batch_size")),
                "tasks": self.tree.mapping((*path, "tasks"), labels),
                "rectify_labels": self._rectify_labels(path, data),
                "shuffle_window_rows": shuffle or self.tree.made(data.examples_shuffle_buffer_size, path),
            },
        )

    def _inputs(self, path: Path) -> Node:
        """Globs, or folders by hour or by day."""
        for name, kind in _INPUTS.items():
            copied = self.tree.copied((*path, name))
            if copied is not None and kind is not None:
                return self.tree.mapping((*path, name), {"kind": self.tree.made(kind, path), **copied.value})
            if copied is not None:
                return copied
        return self.tree.made("none", path)  # stands in for what is refused

    def _rectify_labels(self, path: Path, data: Data) -> Node | None:
        """For the tasks that have a head."""
        said = data.rectify_labels
        if said is None:
            return None
        path = (*path, "preprocess", "rectify_labels")
        engaged_path: Path = (*path, "label_to_engaged_timestamp_field")
        names = [task for task in said.label_to_engaged_timestamp_field if task in self.published.model.tasks]
        renamed = {
            "window_hours": "label_rectification_window_in_hours",
            "served_at": "served_timestamp_field",
            "impressed_at": "impressed_timestamp_field",
        }
        entries = {ours: self.tree.copied((*path, theirs)) for ours, theirs in renamed.items()}
        engaged = self.tree.mapping(engaged_path, {task: self.tree.copied((*engaged_path, task)) for task in names})
        return self.tree.mapping(path, {**entries, "engaged_at": engaged}) if names else None

    def _remark_reading(self, path: Path, data: Data) -> None:
        for name in _KNOBS:
            if self.tree.stated((*path, name)):
                self.tree.remark((*path, name), "left out, it means nothing here: it tunes the published reader")
        train = path == ("train_data",)
        if self.tree.stated((*path, "examples_shuffle_buffer_size")):
            whole = "row groups are shuffled over the whole epoch, and rows in windows of whole row groups of this size"
            text = whole if data.examples_shuffle_buffer_size else "rows are read in order"
            self.tree.remark((*path, "examples_shuffle_buffer_size"), text if train else "left out: read in order")
        if data.repeat_files and not train and self.tree.stated((*path, "repeat_files")):
            self.tree.remark((*path, "repeat_files"), "left out: an evaluation reads each row once at most")

    def _validation_data(self) -> Node | None:
        sets = self.published.validation_data
        if not sets:
            return None
        made = {name: self._validation_set(("validation_data", name), data) for name, data in sets.items()}
        return self.tree.mapping(("validation_data",), made)

    def _validation_set(self, path: Path, data: Data) -> Node:
        """What differs from `train_data`, which a validation set inherits."""
        train, heads = self.published.train_data, self.published.model.tasks
        self._remark_reading(path, data)
        tasks = dict(self._rates_that_differ(path, data))
        source = self.tree.mapping(path, {"inputs": self._inputs(path)})
        rectify = self._rectify_labels(path, data) or self.tree.made(None, path)
        same_files = all(self._agree(path, data, name) for name in _INPUTS)
        batch = self.tree.copied((*path, "global_batch_size"))
        evaluated = data.evaluation_tasks or list(data.tasks)
        chosen = [task for task in heads if task in evaluated]
        headless = [task for task in evaluated if task not in heads and task not in train.tasks]
        headless += [task for task in data.evaluation_tasks if task not in heads and task in train.tasks]
        if headless:
            self.tree.remark((*path, "tasks"), f"left out, as no head predicts them: {', '.join(headless)}")
        if not chosen:
            self.tree.refuse((*path, "tasks"), "no head predicts any task of it; take the set out")
        return self.tree.mapping(
            path,
            {
                "source": None if same_files else source,
                "global_batch_size": None if self._agree(path, data, "global_batch_size") else batch,
                "tasks": self.tree.mapping((*path, "tasks"), tasks) if tasks else None,
                "rectify_labels": None if data.rectify_labels == train.rectify_labels else rectify,
                "evaluation_tasks": None if len(chosen) in (0, len(heads)) else self.tree.made(chosen, path),
            },
        )

    def _agree(self, path: Path, data: Data, *below: str) -> bool:
        """Whether a validation set and `train_data` say the same, today and with any environment."""
        stated = node_at(self.tree.raw, (*path, *below)), node_at(self.tree.raw, ("train_data", *below))
        raw = [None if node is None else plain(node) for node in stated]
        if "${" in repr(raw):
            return bool(raw[0] == raw[1])
        return bool(_value_at(data, below) == _value_at(self.published.train_data, below))

    def _rates_that_differ(self, path: Path, data: Data) -> Iterator[tuple[str, Node]]:
        for task, rates in data.tasks.items():
            before = self.published.train_data.tasks.get(task)
            if task not in self.published.model.tasks:
                continue
            task_path = (*path, "tasks", task)
            changed = {
                name: self.tree.copied((*task_path, name)) or self.tree.made(value, task_path)
                for name, value in rates
                if before is None or not self._agree(path, data, "tasks", task, name)
            }
            if changed or before is None:
                yield task, self.tree.mapping(task_path, changed)

    def _optimizer(self) -> Node:
        said = self.published.optimizer
        adam_path: Path = ("optimizer", "adam")
        adam = self.tree.copies(adam_path, "beta_1", "beta_2", "epsilon")
        adam["epsilon"] = self._accepted_epsilon((*adam_path, "epsilon"), said.adam.epsilon, adam["epsilon"])
        algorithm = self.tree.mapping(adam_path, {"kind": self.tree.made("adam", adam_path), **adam})
        path: Path = ("optimizer", "single_task_learning_rate")
        several = said.multi_task_learning_rates
        if several is None:
            one = self._rate(path, said.single_task_learning_rate or LearningRate())
            self.tree.remark(path, "one rate for everything: the backbone and every tower")
            towers = self.tree.mapping(path, {DEFAULT: deepcopy(one)})
            return self.tree.mapping(("optimizer",), {"algorithm": algorithm, "backbone": one, "towers": towers})
        path = ("optimizer", "multi_task_learning_rates")
        backbone_path, tower_path = (*path, "backbone_learning_rate"), (*path, "tower_learning_rates")
        if several.backbone_learning_rate is not None:
            backbone = self._rate(backbone_path, several.backbone_learning_rate)
        else:
            backbone = self.tree.made({"kind": "constant", "learning_rate": 0.0}, path)
            self.tree.remark(path, "no backbone_learning_rate: what is no tower stays as it starts")
        rates = several.tower_learning_rates.items()
        towers = self.tree.mapping(tower_path, {task: self._rate((*tower_path, task), rate) for task, rate in rates})
        return self.tree.mapping(path, {"algorithm": algorithm, "backbone": backbone, "towers": towers})

    def _rate(self, path: Path, said: LearningRate) -> Node:
        """The one schedule that is set."""
        given = [kind for kind, value in said if value is not None]
        kind = given[0] if given else "constant"  # stands in for what is refused
        copied = self.tree.copied((*path, kind)) or self.tree.made(0.0, path)
        fields = {"learning_rate": copied} if kind == "constant" else dict(copied.value)
        return self.tree.mapping((*path, kind), {"kind": self.tree.made(kind, path), **fields})


def _value_at(data: Data, path: Sequence[str]) -> Any:
    where: Any = data
    for step in path:
        where = where[step] if isinstance(where, dict) else getattr(where, step)
    return where
