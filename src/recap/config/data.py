"""Where rows come from, how they were sampled, and how many make a step."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from recap.config.base import BaseConfig, Globs, Name, NonNegativeInt, PositiveInt, Rate


class ParquetConfig(BaseConfig):
    """Parquet files, as all files taken in the order of their names; a row group is the smallest part that is read."""

    kind: Literal["parquet"] = "parquet"
    inputs: Globs
    """One glob or a list of them, relative to the working directory; `**` matches folders of any depth."""


class ArrowConfig(BaseConfig):
    """Arrow IPC files (Feather 2); a record batch is the smallest part that is read."""

    kind: Literal["arrow"]
    inputs: Globs
    """One glob or a list of them."""


class CsvConfig(BaseConfig):
    """CSV files, plain or gzip, whose first line names the columns; a row is a line, an empty value is null."""

    kind: Literal["csv"]
    inputs: Globs
    """One glob or a list of them."""
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] = ","
    """What stands between two values."""


class JsonLinesConfig(BaseConfig):
    """Files, plain or gzip, whose every line is a JSON object; a key that is missing from a line is null."""

    kind: Literal["jsonl"]
    inputs: Globs
    """One glob or a list of them."""


class TfRecordConfig(BaseConfig):
    """TFRecord files, plain or gzip, of tf.train.Example; a feature that is absent from a record is zeros."""

    kind: Literal["tfrecord"]
    inputs: Globs
    """One glob or a list of them."""
    schema_path: Name
    """JSON file that lists the columns: {"schema": [{"feature_name", "dtype", "length"}]}."""


SourceKind = Literal["parquet", "arrow", "csv", "jsonl", "tfrecord"]
"""The kinds of source, which are the formats of files."""


def _kind(value: Any) -> str:
    """The kind of a source; Parquet where none is said."""
    return str(value.get("kind", "parquet") if isinstance(value, dict) else getattr(value, "kind", "parquet"))


SourceConfig = Annotated[
    Annotated[ParquetConfig, Tag("parquet")]
    | Annotated[ArrowConfig, Tag("arrow")]
    | Annotated[CsvConfig, Tag("csv")]
    | Annotated[JsonLinesConfig, Tag("jsonl")]
    | Annotated[TfRecordConfig, Tag("tfrecord")],
    Discriminator(_kind),
]


class DataTaskConfig(BaseConfig):
    """How the examples of one task were sampled before they were written."""

    pos_downsampling_rate: Rate = 1.0
    """Share of positives that was kept."""
    neg_downsampling_rate: Rate = 1.0
    """Share of negatives that was kept."""


class DataConfig(BaseConfig):
    """A data set with labels: one 0/1 column for each task, named as the task."""

    source: SourceConfig
    """Where the rows are."""
    global_batch_size: PositiveInt = 1024
    """Rows of one optimizer step, over all micro-batches and ranks."""
    tasks: dict[Name, DataTaskConfig]
    """The label columns."""

    @property
    def labels(self) -> dict[str, DataTaskConfig]:
        """The label columns that a job reads, and how each was sampled."""
        return self.tasks


class TrainDataConfig(DataConfig):
    """The section `train_data`. Down-sampling rates here set the calibration of the model."""

    shuffle_window_rows: NonNegativeInt = 65_536
    """Rows shuffled together, held in memory twice; row groups are shuffled over the whole epoch.
    0 reads in order."""


class ValidationDataConfig(DataConfig):
    """One of `validation_data`; what it leaves out is as in `train_data`.

    Down-sampling rates here weigh its examples back to the population in every metric."""

    evaluation_tasks: Annotated[list[Name], Field(min_length=1)] | None = None
    """Tasks this set evaluates, whose labels alone it needs; none given: all of the model's."""

    @property
    def labels(self) -> dict[str, DataTaskConfig]:
        """Those of the tasks that are evaluated."""
        chosen = self.tasks if self.evaluation_tasks is None else self.evaluation_tasks
        return {task: rates for task, rates in self.tasks.items() if task in chosen}
