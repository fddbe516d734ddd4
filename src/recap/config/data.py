"""Where rows come from, how they were sampled, and how many make a step."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from recap.config.base import BaseConfig, Disagreements, Globs, Name, NonNegativeInt, PositiveFloat, PositiveInt, Rate


class HourlyInputs(BaseConfig):
    """Files in a folder an hour, the last of them named."""

    kind: Literal["hourly"]
    data_root: Name
    """The folder that holds those of the hours."""
    end_datetime: Name
    """The last hour, as YYYY/MM/DD/HH."""
    hours: PositiveInt
    """How many hours, up to the last."""
    num_missing_hours_tol: NonNegativeInt = 0
    """How many of them may have no file; more are an error."""
    folders: Name = "%Y/%m/%d/%H"
    """How the folder of an hour is called, as strftime has it, such as `date=%Y-%m-%d/hour=%H`."""
    files: Name = "*"
    """Glob of the files in such a folder."""

    def checks(self) -> tuple[Disagreements, ...]:
        """A date that is none."""
        return (date_problems("end_datetime", self.end_datetime, "%Y/%m/%d/%H", "YYYY/MM/DD/HH"),)


class DailyInputs(BaseConfig):
    """Files in a folder a day, the last of them named."""

    kind: Literal["daily"]
    data_root: Name
    """The folder that holds those of the days."""
    end_date: Name
    """The last day, as YYYY/MM/DD."""
    days: PositiveInt
    """How many days, up to the last."""
    num_missing_days_tol: NonNegativeInt = 0
    """How many of them may have no file; more are an error."""
    folders: Name = "%Y/%m/%d"
    """How the folder of a day is called, as strftime has it, such as `date=%Y%m%d`."""
    files: Name = "*"
    """Glob of the files in such a folder; `**/*` for those below it too."""

    def checks(self) -> tuple[Disagreements, ...]:
        """A date that is none."""
        return (date_problems("end_date", self.end_date, "%Y/%m/%d", "YYYY/MM/DD"),)


def date_problems(field: str, text: str, pattern: str, shown: str) -> Disagreements:
    """What keeps `text` from being a date written as `pattern`, which people call `shown`."""
    try:
        datetime.strptime(text, pattern)
    except ValueError:
        yield (field,), f"expected a date {shown}, found {text!r}"


_GLOBS = "a glob or globs"


def _inputs_kind(value: Any) -> str | None:
    """Folders by hour or by day, which say their kind, or globs."""
    if isinstance(value, dict):
        return str(value["kind"]) if "kind" in value else None
    return str(getattr(value, "kind", _GLOBS))


Inputs = Annotated[
    Annotated[Globs, Tag(_GLOBS)] | Annotated[HourlyInputs, Tag("hourly")] | Annotated[DailyInputs, Tag("daily")],
    Discriminator(_inputs_kind),
]
"""Where files are: globs, or folders by hour or by day."""


class ParquetConfig(BaseConfig):
    """Parquet files, as all files taken in the order of their names; a row group is the smallest part that is read."""

    kind: Literal["parquet"] = "parquet"
    inputs: Inputs
    """One glob or a list of them, or folders by hour or by day; relative to the working directory. `**` in a glob
    matches folders of any depth."""


class ArrowConfig(BaseConfig):
    """Arrow IPC files (Feather 2); a record batch is the smallest part that is read."""

    kind: Literal["arrow"]
    inputs: Inputs
    """As for Parquet."""


class CsvConfig(BaseConfig):
    """CSV files, plain or gzip, whose first line names the columns; a row is a line, an empty value is null."""

    kind: Literal["csv"]
    inputs: Inputs
    """As for Parquet."""
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] = ","
    """What stands between two values."""


class JsonLinesConfig(BaseConfig):
    """Files, plain or gzip, whose every line is a JSON object; a key that is missing from a line is null."""

    kind: Literal["jsonl"]
    inputs: Inputs
    """As for Parquet."""


class TfRecordConfig(BaseConfig):
    """TFRecord files, plain or gzip, of tf.train.Example; a feature that is absent from a record is zeros."""

    kind: Literal["tfrecord"]
    inputs: Inputs
    """As for Parquet."""
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


class RectifyLabelsConfig(BaseConfig):
    """Positives that came too late become negatives: all times are columns of milliseconds.

    A positive stays only where both impression and engagement are less than the window after the row was served."""

    window_hours: PositiveFloat = 3.0
    """Hours from serving on in which they count."""
    served_at: Name
    """Column: when the candidate was served."""
    impressed_at: Name
    """Column: when it was seen."""
    engaged_at: Annotated[dict[Name, Name], Field(min_length=1)]
    """Task → the column that says when it was engaged with; tasks not named are left as they are."""


class DataConfig(BaseConfig):
    """A data set with labels: one 0/1 column for each task, named as the task."""

    source: SourceConfig
    """Where the rows are."""
    global_batch_size: PositiveInt = 1024
    """Rows of one optimizer step, over all micro-batches and ranks."""
    tasks: dict[Name, DataTaskConfig]
    """The label columns."""
    rectify_labels: RectifyLabelsConfig | None = None
    """Which positives came too late; none given: none."""

    @property
    def labels(self) -> dict[str, DataTaskConfig]:
        """The label columns that a job reads, and how each was sampled."""
        return self.tasks


class TrainDataConfig(DataConfig):
    """The section `train_data`. Down-sampling rates here set the calibration of the model."""

    shuffle_window_rows: NonNegativeInt = 65_536
    """Rows shuffled together, held in memory three times; row groups are shuffled over the whole epoch.
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
