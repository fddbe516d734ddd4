"""A file in the published form → one in ours, with a remark for each value that changes its meaning."""

import json
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap

from recap.config.base import KeyPath, all_problems
from recap.config.file.environment import substitute
from recap.config.file.layers import inherit_train_data
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
from recap.published.convert.reading import read_published
from recap.published.convert.tree import TreeBuilder
from recap.published.form.config import METRIC_ALIASES, PublishedConfig, hit_ranks, metric_names
from recap.published.form.model import SmallTable

_OBEYED = "takes effect; the published code ignored it"
_TRAINING = {
    "num_train_steps": "exact; the published code took one more step",
    "initial_checkpoint_dir": "must be a run or model directory of recap; 'recap model import' makes one of published "
    "weights",
    "num_eval_steps": _OBEYED,
    "checkpoint_every_n": "independent of logging; the published code saved only at steps that it logged",
    "checkpoint_max_to_keep": _OBEYED,
    "eval_log_every_n": "becomes null: published training never evaluates. To evaluate the validation sets, set it, or "
    "run 'recap evaluate --follow RUN' beside the training",
}
"""Field of `training` → the remark on it, if the file sets it."""
_STEPS = ("num_train_steps", "checkpoint_every_n", "train_log_every_n")
_WEIGHTS = {
    "is_favorited": 0.5,
    "is_retweeted": 1.0,
    "is_replied": 13.5,
    "is_profile_clicked_and_profile_engaged": 12.0,
    "is_video_playback_50": 0.005,
    "is_replied_reply_engaged_by_author": 75.0,
    "is_good_clicked_convo_desc_favorited_or_replied": 11.0,
    "is_good_clicked_convo_desc_v2": 10.0,
    "is_negative_feedback_v2": -74.0,
    "is_report_tweet_clicked": -369.0,
}
"""Task, without the prefix of its label → its weight in the published score of 2023-04-05."""
_OTHER_METRICS = {
    "count": "the number of rows; the published Count is the sum of the labels, our positives",
    "reciprocal_rank": "of the first positive of each user; the published one is over all positives of a batch",
    "hit_at": "the share of users with a positive in the first k; the published one is the share of all positives",
}
"""Our name of a metric that the published code computes differently → our meaning."""


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
    raw, root, published = read_published(file, problems)
    refused = located(root, all_problems(published))
    tree = TreeBuilder(raw, max(1, published.training.gradient_accumulation or 1))
    ours = _Converter(tree, published).config()
    checked = deepcopy(ours)
    substitute(checked, tree.problems)
    inherit_train_data(checked)
    validate(RecapConfig, checked, [*refused, *tree.problems])
    remarks = in_order(tree.remarks)
    return Imported(_header(Path(file).name, remarks) + render(plain(ours)), remarks)


def _header(name: str, remarks: Sequence[Problem]) -> str:
    """The comments at the top of the file: where it comes from, and the remarks."""
    lines = [f"# From {json.dumps(name)}, in the published form. Differences, by line of that file:"]
    for remark in remarks:
        text = f"{remark.origin.line}: {remark.path}: {remark.text}"
        lines += wrap(text, 116, initial_indent="# ", subsequent_indent="#     ", break_long_words=False)
    return "".join(f"{line}\n" for line in [*lines, ""])


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
        if self.published.validation_data:
            self.tree.remark(("validation_data",), _OBEYED)
        if self.published.which_metrics is not None:
            path: KeyPath = ("which_metrics",)
            names = [METRIC_ALIASES.get(name, name) for name in metric_names(self.published.which_metrics)]
            sections["which_metrics"] = self.tree.node(names, path)
            self.tree.remark(path, _OBEYED)
            for metric in filter(_OTHER_METRICS.__contains__, names):
                self.tree.remark(path, f"{metric} is {_OTHER_METRICS[metric]}")
            ranks = hit_ranks(self.published.which_metrics)
            sections["metrics"] = self.tree.node({"hit_at": ranks}, path) if ranks else None
        sections["strata"] = self._inputs.strata()
        sections["scoring"] = self._scoring()
        return self.tree.mapping((), sections)

    def _training(self) -> Node:
        path: KeyPath = ("training",)
        for name, text in _TRAINING.items():
            if self.tree.is_set((*path, name)):
                self.tree.remark((*path, name), text)
        training, batches = self.tree.copy(path), self.tree.batches_per_update
        entries = dict(training.value) if training is not None else {}
        if batches > 1:
            text = (
                f"{batches} batches make one update: global_batch_size is multiplied by {batches}, and the numbers of "
                f"steps in training and in learning rates are divided by {batches}, rounded up"
            )
            self.tree.remark((*path, "gradient_accumulation"), text)
            entries |= {name: self.tree.steps((*path, name), getattr(self.published.training, name)) for name in _STEPS}
        self.tree.remark(path, "precision becomes tf32, as published: float32, with products in TF32 on a GPU")
        entries |= {
            "eval_log_every_n": self.tree.node(None, path),
            "precision": self.tree.node("tf32", path),
            "log_norms": self._large.log_norms(),
        }
        return self.tree.mapping(path, entries)

    def _scoring(self) -> Node | None:
        """The published weights of the tasks that have one."""
        path: KeyPath = ("model",)
        weights = {task: _WEIGHTS.get(task.rpartition(".")[2]) for task in self.published.model.tasks}
        known = {task: weight for task, weight in weights.items() if weight is not None}
        if not known:
            text = "the published form has no scoring.weights; add them, otherwise every score is 0"
            self.tree.remark(path, text)
            return None
        text = "scoring.weights are those published for 2023-04-05"
        others = [task for task in weights if task not in known]
        self.tree.remark(path, text + (f"; without one, and 0 in the score: {', '.join(others)}" if others else ""))
        return self.tree.node({"weights": known}, path)

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
