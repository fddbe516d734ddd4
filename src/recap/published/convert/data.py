"""The data sets of a published file → `train_data` and `validation_data`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from recap.config.base import KeyPath
from recap.config.file.node import Node, node_at, plain
from recap.published.convert.tree import TreeBuilder
from recap.published.form.config import PublishedConfig
from recap.published.form.data import Data

_TRAIN: KeyPath = ("train_data",)
_SCHEMA_PATH = ("seg_dense_schema", "schema_path")
_INPUTS = {"inputs": None, "explicit_datetime_inputs": "hourly", "explicit_date_inputs": "daily"}
"""Published field that names the files → kind of our inputs; None for globs."""
_READERS = ("data_service_dispatcher", "dataset_service_compression")
_BUDGET = 1000
"""Bad rows, chunks or files that are skipped before training stops; the published code had no limit."""
_TUNING = ("file_batch_size", "map_num_parallel_calls", "interleave_num_parallel_calls")
"""Fields that tune the published reader and change no result."""


@dataclass
class DataConverter:
    """Converts the data sets of a published config."""

    tree: TreeBuilder
    published: PublishedConfig

    def train_data(self) -> Node:
        """The section `train_data`."""
        data = self.published.train_data
        self._remark_labels(data)
        self._remark_reading(_TRAIN, data)
        labels = {task: self._label(data, task) for task in data.tasks if task in self.published.model.tasks}
        shuffle = self.tree.copy((*_TRAIN, "examples_shuffle_buffer_size"))
        source = {
            "kind": self.tree.node("tfrecord", _TRAIN),
            "inputs": self._inputs(_TRAIN),
            "num_files_to_keep": self.tree.copy((*_TRAIN, "num_files_to_keep")),
            "schema_path": self.tree.copy((*_TRAIN, *_SCHEMA_PATH)),
        }
        return self.tree.mapping(
            _TRAIN,
            {
                "source": self.tree.mapping(_TRAIN, source),
                "global_batch_size": self._batch_size(data),
                "tasks": self.tree.mapping((*_TRAIN, "tasks"), labels),
                "rectify_labels": self._rectify_labels(_TRAIN, data),
                "on_bad_data": self._on_bad_data(_TRAIN, data) if data.ignore_data_errors else None,
                "readers": self._readers(_TRAIN, data),
                "cache": self.tree.copy((*_TRAIN, "cache")),
                "downsample_negatives": self._downsample_negatives(data),
                "shuffle_window_rows": shuffle or self.tree.node(data.examples_shuffle_buffer_size, _TRAIN),
            },
        )

    def validation_data(self) -> Node | None:
        """The section `validation_data`."""
        sets = self.published.validation_data
        if not sets:
            return None
        converted = {name: self._validation_set(("validation_data", name), data) for name, data in sets.items()}
        return self.tree.mapping(("validation_data",), converted)

    def _validation_set(self, path: KeyPath, data: Data) -> Node:
        """The fields that differ from `train_data`; a validation set inherits the others."""
        train = self.published.train_data
        self._remark_reading(path, data)
        rectify = self._rectify_labels(path, data) or self.tree.node(None, path)
        threads = self.tree.node({"kind": "threads"}, path) if train.data_service_dispatcher is not None else None
        batch = self.tree.copy((*path, "global_batch_size"))
        same_batch = self._agree(path, data, "global_batch_size") and self.tree.batches_per_update == 1
        tasks = dict(self._rates_that_differ(path, data))
        entries = {
            "source": self._validation_source(path, data),
            "global_batch_size": None if same_batch else batch,
            "tasks": self.tree.mapping((*path, "tasks"), tasks) if tasks else None,
            "rectify_labels": None if data.rectify_labels == train.rectify_labels else rectify,
        }
        if data.ignore_data_errors != train.ignore_data_errors:
            entries["on_bad_data"] = self._on_bad_data(path, data)
        if not all(self._agree(path, data, name) for name in _READERS):
            entries["readers"] = self._readers(path, data) or threads
        if not self._agree(path, data, "cache"):
            entries["cache"] = self.tree.node(data.cache, (*path, "cache"))
        entries["evaluation_tasks"] = self._evaluation_tasks(path, data)
        return self.tree.mapping(path, entries)

    def _batch_size(self, data: Data) -> Node | None:
        """The rows of an update."""
        path: KeyPath = (*_TRAIN, "global_batch_size")
        if self.tree.batches_per_update == 1:
            return self.tree.copy(path)
        return self.tree.node(data.global_batch_size * self.tree.batches_per_update, path)

    def _validation_source(self, path: KeyPath, data: Data) -> Node | None:
        """The source of a validation set; None if it reads the files of `train_data`."""
        same_schema = self._agree(path, data, *_SCHEMA_PATH)
        if same_schema and all(self._agree(path, data, name) for name in (*_INPUTS, "num_files_to_keep")):
            return None
        num_files = self.tree.copy((*path, "num_files_to_keep"))
        if num_files is None and self.published.train_data.num_files_to_keep is not None:
            num_files = self.tree.node(None, path)
        entries = {"inputs": self._inputs(path), "num_files_to_keep": num_files}
        if not same_schema:
            entries["schema_path"] = self.tree.copy((*path, *_SCHEMA_PATH))
        return self.tree.mapping(path, entries)

    def _evaluation_tasks(self, path: KeyPath, data: Data) -> Node | None:
        """The tasks to evaluate; None for all tasks of the model."""
        predicted, labelled = self.published.model.tasks, self.published.train_data.tasks
        listed = data.evaluation_tasks or list(data.tasks)
        evaluated = [task for task in predicted if task in listed]
        left_out = [task for task in listed if task not in predicted and task not in labelled]
        left_out += [task for task in data.evaluation_tasks if task not in predicted and task in labelled]
        if left_out:
            self._remark_left_out((*path, "tasks"), left_out)
        if data.evaluation_tasks:
            self.tree.remark((*path, "evaluation_tasks"), "takes effect; the published code ignored it")
        if not evaluated:
            self.tree.refuse((*path, "tasks"), "the model predicts none of its tasks; remove this data set")
        return None if len(evaluated) in (0, len(predicted)) else self.tree.node(evaluated, path)

    def _agree(self, path: KeyPath, data: Data, *field: str) -> bool:
        """Whether a field of a validation set equals that of `train_data`, whatever the environment."""
        nodes = node_at(self.tree.raw, (*path, *field)), node_at(self.tree.raw, (*_TRAIN, *field))
        own, train = (None if node is None else plain(node) for node in nodes)
        if "${" in repr((own, train)):
            return bool(own == train)
        return bool(_value_at(data, field) == _value_at(self.published.train_data, field))

    def _rates_that_differ(self, path: KeyPath, data: Data) -> Iterator[tuple[str, Node]]:
        for task, rates in data.tasks.items():
            in_training = self.published.train_data.tasks.get(task)
            if task not in self.published.model.tasks:
                continue
            task_path = (*path, "tasks", task)
            changed = {
                name: self.tree.copy((*task_path, name)) or self.tree.node(value, task_path)
                for name, value in rates
                if in_training is None or not self._agree(path, data, "tasks", task, name)
            }
            if changed or in_training is None:
                yield task, self.tree.mapping(task_path, changed)

    def _label(self, data: Data, task: str) -> Node | None:
        """The options of a task, and the column of its label if that has another name."""
        copied = self.tree.copy((*_TRAIN, "tasks", task))
        stored: KeyPath = (*_TRAIN, "seg_dense_schema", "renamed_features", task)
        if task not in data.seg_dense_schema.renamed_features or copied is None:
            return copied
        return self.tree.mapping((*_TRAIN, "tasks", task), {"column": self.tree.copy(stored), **copied.value})

    def _inputs(self, path: KeyPath) -> Node:
        """Globs, or folders by hour or by day."""
        for name, kind in _INPUTS.items():
            copied = self.tree.copy((*path, name))
            if copied is not None and kind is not None:
                return self.tree.mapping((*path, name), {"kind": self.tree.node(kind, path), **copied.value})
            if copied is not None:
                return copied
        return self.tree.node("none", path)  # a placeholder: a data set without inputs is refused

    def _readers(self, path: KeyPath, data: Data) -> Node | None:
        """Readers on other hosts; None if there are none."""
        compression: KeyPath = (*path, "dataset_service_compression")
        path = (*path, "data_service_dispatcher")
        if data.data_service_dispatcher is None:
            if data.dataset_service_compression is not None:
                self.tree.remark(compression, "left out: it has no effect without data_service_dispatcher")
            return None
        address = self.tree.copy(path)
        assert address is not None
        address.value = address.value.removeprefix("grpc://")
        text = "must be the address of a 'recap data serve' with this configuration"
        self.tree.remark(path, text)
        entries = {"kind": self.tree.node("service", path), "address": address}
        if data.dataset_service_compression is not None:
            self.tree.remark(compression, "AUTO becomes lz4")
            entries["compression"] = self.tree.node("lz4", compression)
        elif self.published.train_data.dataset_service_compression is not None:
            entries["compression"] = self.tree.node("none", path)
        return self.tree.mapping(path, entries)

    def _on_bad_data(self, path: KeyPath, data: Data) -> Node:
        path = (*path, "ignore_data_errors")
        if not data.ignore_data_errors:
            return self.tree.node({"kind": "stop"}, path)
        text = (
            f"at most {_BUDGET:,} bad rows, chunks or files are skipped, each reported; the published code had no limit"
        )
        self.tree.remark(path, text)
        return self.tree.node({"kind": "skip", "budget": _BUDGET}, path)

    def _downsample_negatives(self, data: Data) -> Node | None:
        """`downsample_negatives`, for the tasks that the model predicts."""
        sampling = data.downsample_negatives
        path: KeyPath = (*_TRAIN, "preprocess", "downsample_negatives")
        if sampling is None:
            return None
        if sampling.batch_multiplier == 1:
            self.tree.remark(path, "left out: a batch_multiplier of 1 samples nothing")
            return None
        predicted = [task for task in sampling.engagements_list if task in self.published.model.tasks]
        left_out = [task for task in sampling.engagements_list if task not in predicted]
        if left_out:
            self._remark_left_out((*path, "engagements_list"), left_out)
        if not predicted:
            self.tree.refuse((*path, "engagements_list"), "the model predicts none of these; name some of its tasks")
        text = "positives are sampled too if they leave no room for negatives; the published code failed"
        self.tree.remark(path, text)
        multiplier = self.tree.copy((*path, "batch_multiplier"))
        keep = self.tree.node(predicted, (*path, "engagements_list"))
        return self.tree.mapping(path, {"batch_multiplier": multiplier, "keep_positives_of": keep})

    def _rectify_labels(self, path: KeyPath, data: Data) -> Node | None:
        """`rectify_labels`, for the tasks that the model predicts."""
        rectify = data.rectify_labels
        if rectify is None:
            return None
        path = (*path, "preprocess", "rectify_labels")
        engaged_path: KeyPath = (*path, "label_to_engaged_timestamp_field")
        tasks = [task for task in rectify.label_to_engaged_timestamp_field if task in self.published.model.tasks]
        names = {
            "window_hours": "label_rectification_window_in_hours",
            "served_at": "served_timestamp_field",
            "impressed_at": "impressed_timestamp_field",
        }
        entries = {ours: self._stored(data, (*path, published)) for ours, published in names.items()}
        engaged = self.tree.mapping(engaged_path, {task: self._stored(data, (*engaged_path, task)) for task in tasks})
        return self.tree.mapping(path, {**entries, "engaged_at": engaged}) if tasks else None

    def _stored(self, data: Data, path: KeyPath) -> Node | None:
        """The value at `path`; if it names a renamed feature, the column that stores it."""
        node, renamed = self.tree.copy(path), data.seg_dense_schema.renamed_features
        if node is None or node.value not in renamed:
            return node
        return self.tree.copy((*_TRAIN, "seg_dense_schema", "renamed_features", node.value))

    def _remark_left_out(self, path: KeyPath, tasks: Sequence[str]) -> None:
        self.tree.remark(path, f"left out, since the model does not predict them: {', '.join(tasks)}")

    def _remark_labels(self, data: Data) -> None:
        left_out = [task for task in data.tasks if task not in self.published.model.tasks]
        if left_out:
            self._remark_left_out((*_TRAIN, "tasks"), left_out)
        if any(task.pos_downsampling_rate != 1 or task.neg_downsampling_rate != 1 for task in data.tasks.values()):
            text = "sampling rates calibrate the probabilities; weighting examples as well would correct twice"
            self.tree.remark((*_TRAIN, "tasks"), text)
        if data.evaluation_tasks:
            text = "left out: training evaluates the validation sets only"
            self.tree.remark((*_TRAIN, "evaluation_tasks"), text)
        if not data.repeat_files:
            text = "left out: the published code ignored it; set num_epochs to end the run after that many passes"
            self.tree.remark((*_TRAIN, "repeat_files"), text)

    def _remark_reading(self, path: KeyPath, data: Data) -> None:
        for name in _TUNING:
            if self.tree.is_set((*path, name)):
                self.tree.remark((*path, name), "left out: it only tunes the published reader")
        shuffle: KeyPath = (*path, "examples_shuffle_buffer_size")
        if path == _TRAIN:
            if self.tree.is_set(shuffle):
                text = "row groups are shuffled over the epoch, and rows within windows of at least this many rows"
                text_in_order = "rows are read in order"
                self.tree.remark(shuffle, text if data.examples_shuffle_buffer_size else text_in_order)
            return
        if self.tree.is_set(shuffle):
            self.tree.remark(shuffle, "left out: an evaluation reads rows in order")
        if data.downsample_negatives is not None:
            text = "left out: an evaluation uses every row it reads"
            self.tree.remark((*path, "preprocess", "downsample_negatives"), text)


def _value_at(data: Data, path: Sequence[str]) -> Any:
    value: Any = data
    for key in path:
        value = value[key] if isinstance(value, dict) else getattr(value, key)
    return value
