"""The data sets of a published file → `train_data` and `validation_data`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from recap.config.base import KeyPath
from recap.config.file.node import Node, node_at, plain
from recap.published.convert.tree import TreeBuilder
from recap.published.form.config import PublishedConfig
from recap.published.form.data import Data

_INPUTS = {"inputs": None, "explicit_datetime_inputs": "hourly", "explicit_date_inputs": "daily"}
"""What says where files are → the kind of our inputs; globs have none."""
_BUDGET = 1000
"""Bad parts that an imported configuration passes over, where the published code set no limit."""
_KNOBS = ["file_batch_size", "map_num_parallel_calls", "interleave_num_parallel_calls"]
"""Fields that tune the published reader and change no result."""


@dataclass
class DataSets:
    """Says them in the words of the published file."""

    tree: TreeBuilder
    published: PublishedConfig

    def train_data(self) -> Node:
        """The section `train_data`."""
        path: KeyPath = ("train_data",)
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
        labels = {task: self._label(path, data, task) for task in data.tasks if task in heads}
        shuffle = self.tree.copied((*path, "examples_shuffle_buffer_size"))
        return self.tree.mapping(
            path,
            {
                "source": self.tree.mapping(
                    path,
                    {
                        "kind": self.tree.made("tfrecord", path),
                        "inputs": self._inputs(path),
                        "num_files_to_keep": self.tree.copied((*path, "num_files_to_keep")),
                        "schema_path": self.tree.copied((*path, "seg_dense_schema", "schema_path")),
                    },
                ),
                "global_batch_size": self.tree.copied((*path, "global_batch_size")),
                "tasks": self.tree.mapping((*path, "tasks"), labels),
                "rectify_labels": self._rectify_labels(path, data),
                "on_bad_data": self._on_bad_data(path, data) if data.ignore_data_errors else None,
                "readers": self._readers(path, data),
                "cache": self.tree.copied((*path, "cache")),
                "num_epochs": None if data.repeat_files else self.tree.made(1, (*path, "repeat_files")),
                "downsample_negatives": self._downsample_negatives(path, data),
                "shuffle_window_rows": shuffle or self.tree.made(data.examples_shuffle_buffer_size, path),
            },
        )

    def _label(self, path: KeyPath, data: Data, task: str) -> Node | None:
        """What is said of a task, and the column of its label if that is stored under another name."""
        copied = self.tree.copied((*path, "tasks", task))
        stored: KeyPath = (*path, "seg_dense_schema", "renamed_features", task)
        if task not in data.seg_dense_schema.renamed_features or copied is None:
            return copied
        return self.tree.mapping((*path, "tasks", task), {"column": self.tree.copied(stored), **copied.value})

    def _readers(self, path: KeyPath, data: Data) -> Node | None:
        """Other hosts that read, or those of `train_data` taken back; nothing where this process reads anyway."""
        compression: KeyPath = (*path, "dataset_service_compression")
        path = (*path, "data_service_dispatcher")
        if data.data_service_dispatcher is None:
            if data.dataset_service_compression is not None:
                self.tree.remark(compression, "left out, it means nothing here: there is no data_service_dispatcher")
            return None
        copied = self.tree.copied(path)
        assert copied is not None
        copied.value = copied.value.removeprefix("grpc://")
        self.tree.remark(path, "must be processes that run 'recap data serve' with this configuration, each by itself")
        entries = {"kind": self.tree.made("service", path), "address": copied}
        if data.dataset_service_compression is not None:
            self.tree.remark(compression, "AUTO becomes lz4")
            entries["compression"] = self.tree.made("lz4", compression)
        elif self.published.train_data.dataset_service_compression is not None:
            entries["compression"] = self.tree.made("none", path)
        return self.tree.mapping(path, entries)

    def _on_bad_data(self, path: KeyPath, data: Data) -> Node:
        """The published reader passes over what is bad without counting."""
        path = (*path, "ignore_data_errors")
        if not data.ignore_data_errors:
            return self.tree.made({"kind": "stop"}, path)
        text = f"at most {_BUDGET:,} bad parts are passed over, each told; the published code did so without end"
        self.tree.remark(path, text)
        return self.tree.made({"kind": "skip", "budget": _BUDGET}, path)

    def _downsample_negatives(self, path: KeyPath, data: Data) -> Node | None:
        """For the tasks that have a head."""
        said = data.downsample_negatives
        path = (*path, "preprocess", "downsample_negatives")
        if said is None:
            return None
        if said.batch_multiplier == 1:
            self.tree.remark(path, "left out: with a batch_multiplier of 1 nothing is sampled")
            return None
        kept = [task for task in said.engagements_list if task in self.published.model.tasks]
        if len(kept) < len(said.engagements_list):
            left_out = ", ".join(task for task in said.engagements_list if task not in kept)
            self.tree.remark((*path, "engagements_list"), f"left out, as no head predicts them: {left_out}")
        if not kept:
            self.tree.refuse((*path, "engagements_list"), "no head predicts any of them; name tasks of the model")
        text = "positives are sampled too where they would leave negatives no place; the published code did wrong there"
        self.tree.remark(path, text)
        copied = self.tree.copied((*path, "batch_multiplier"))
        made = self.tree.made(kept, (*path, "engagements_list"))
        return self.tree.mapping(path, {"batch_multiplier": copied, "keep_positives_of": made})

    def _inputs(self, path: KeyPath) -> Node:
        """Globs, or folders by hour or by day."""
        for name, kind in _INPUTS.items():
            copied = self.tree.copied((*path, name))
            if copied is not None and kind is not None:
                return self.tree.mapping((*path, name), {"kind": self.tree.made(kind, path), **copied.value})
            if copied is not None:
                return copied
        return self.tree.made("none", path)  # stands in for what is refused

    def _rectify_labels(self, path: KeyPath, data: Data) -> Node | None:
        """For the tasks that have a head."""
        said = data.rectify_labels
        if said is None:
            return None
        path = (*path, "preprocess", "rectify_labels")
        engaged_path: KeyPath = (*path, "label_to_engaged_timestamp_field")
        names = [task for task in said.label_to_engaged_timestamp_field if task in self.published.model.tasks]
        renamed = {
            "window_hours": "label_rectification_window_in_hours",
            "served_at": "served_timestamp_field",
            "impressed_at": "impressed_timestamp_field",
        }
        entries = {ours: self.tree.copied((*path, theirs)) for ours, theirs in renamed.items()}
        engaged = self.tree.mapping(engaged_path, {task: self.tree.copied((*engaged_path, task)) for task in names})
        return self.tree.mapping(path, {**entries, "engaged_at": engaged}) if names else None

    def _remark_reading(self, path: KeyPath, data: Data) -> None:
        for name in _KNOBS:
            if self.tree.stated((*path, name)):
                self.tree.remark((*path, name), "left out, it means nothing here: it tunes the published reader")
        train = path == ("train_data",)
        if self.tree.stated((*path, "examples_shuffle_buffer_size")):
            whole = "row groups are shuffled over the whole epoch, and rows in windows of whole row groups of this size"
            text = whole if data.examples_shuffle_buffer_size else "rows are read in order"
            self.tree.remark((*path, "examples_shuffle_buffer_size"), text if train else "left out: read in order")
        if not train and self.tree.stated((*path, "repeat_files")):
            self.tree.remark((*path, "repeat_files"), "left out: an evaluation reads each row once at most")
        if not train and data.downsample_negatives is not None:
            text = "left out: an evaluation uses every row it reads"
            self.tree.remark((*path, "preprocess", "downsample_negatives"), text)

    def validation_data(self) -> Node | None:
        """The section `validation_data`."""
        sets = self.published.validation_data
        if not sets:
            return None
        made = {name: self._validation_set(("validation_data", name), data) for name, data in sets.items()}
        return self.tree.mapping(("validation_data",), made)

    def _validation_set(self, path: KeyPath, data: Data) -> Node:
        """What differs from `train_data`, which a validation set inherits."""
        train, heads = self.published.train_data, self.published.model.tasks
        self._remark_reading(path, data)
        tasks = dict(self._rates_that_differ(path, data))
        fewer = self.tree.copied((*path, "num_files_to_keep"))
        if fewer is None and train.num_files_to_keep is not None:
            fewer = self.tree.made(None, path)
        schema_path = ("seg_dense_schema", "schema_path")
        entries = {"inputs": self._inputs(path), "num_files_to_keep": fewer}
        if not self._agree(path, data, *schema_path):
            entries["schema_path"] = self.tree.copied((*path, *schema_path))
        source = self.tree.mapping(path, entries)
        rectify = self._rectify_labels(path, data) or self.tree.made(None, path)
        same_files = all(self._agree(path, data, name) for name in (*_INPUTS, "num_files_to_keep"))
        same_files = same_files and "schema_path" not in entries
        same_readers = all(
            self._agree(path, data, name) for name in ("data_service_dispatcher", "dataset_service_compression")
        )
        threads = self.tree.made({"kind": "threads"}, path) if train.data_service_dispatcher is not None else None
        same_faults = data.ignore_data_errors == train.ignore_data_errors
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
                "on_bad_data": None if same_faults else self._on_bad_data(path, data),
                "readers": None if same_readers else self._readers(path, data) or threads,
                "cache": None if self._agree(path, data, "cache") else self.tree.made(data.cache, (*path, "cache")),
                "evaluation_tasks": None if len(chosen) in (0, len(heads)) else self.tree.made(chosen, path),
            },
        )

    def _agree(self, path: KeyPath, data: Data, *below: str) -> bool:
        """Whether a validation set and `train_data` say the same, today and with any environment."""
        stated = node_at(self.tree.raw, (*path, *below)), node_at(self.tree.raw, ("train_data", *below))
        raw = [None if node is None else plain(node) for node in stated]
        if "${" in repr(raw):
            return bool(raw[0] == raw[1])
        return bool(_value_at(data, below) == _value_at(self.published.train_data, below))

    def _rates_that_differ(self, path: KeyPath, data: Data) -> Iterator[tuple[str, Node]]:
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


def _value_at(data: Data, path: Sequence[str]) -> Any:
    where: Any = data
    for step in path:
        where = where[step] if isinstance(where, dict) else getattr(where, step)
    return where
