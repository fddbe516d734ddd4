"""Where rows come from, how they were sampled, and how many make a step."""

import re
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag

from recap.config.base import BaseConfig, Check, Globs, Name, NonNegativeInt, PositiveFloat, PositiveInt, Problems, Rate


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

    def checks(self) -> tuple[Check, ...]:
        """A date that is none."""
        return (lambda: date_problems("end_datetime", self.end_datetime, "%Y/%m/%d/%H", "YYYY/MM/DD/HH"),)


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

    def checks(self) -> tuple[Check, ...]:
        """A date that is none."""
        return (lambda: date_problems("end_date", self.end_date, "%Y/%m/%d", "YYYY/MM/DD"),)


def date_problems(field: str, text: str, pattern: str, shown: str) -> Problems:
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


class FilesConfig(BaseConfig):
    """What every kind of source says."""

    kind: str
    """Which one this is."""
    inputs: Inputs
    """One glob or a list of them, or folders by hour or by day; relative to the working directory, or a URL such as
    `s3://bucket/train/*.parquet`. `**` in a glob matches folders of any depth."""
    num_files_to_keep: PositiveInt | None = None
    """How many files are read, the first by name; none given: all."""


class ParquetConfig(FilesConfig):
    """Parquet files, as all files taken in the order of their names; a row group is the smallest part that is read."""

    kind: Literal["parquet"] = "parquet"


class ArrowConfig(FilesConfig):
    """Arrow IPC files (Feather 2); a record batch is the smallest part that is read."""

    kind: Literal["arrow"]


class CsvConfig(FilesConfig):
    """CSV files, plain or gzip, whose first line names the columns; a row is a line, an empty value is null."""

    kind: Literal["csv"]
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] = ","
    """What stands between two values."""


class JsonLinesConfig(FilesConfig):
    """Files, plain or gzip, whose every line is a JSON object; a key that is missing from a line is null."""

    kind: Literal["jsonl"]


class TfRecordConfig(FilesConfig):
    """TFRecord files, plain or gzip, of tf.train.Example; a feature that is absent from a record is zeros."""

    kind: Literal["tfrecord"]
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
    """The label of one task, and how its examples were sampled before they were written."""

    column: Name | None = None
    """The column of the label; none given: the one named as the task."""
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


class StopConfig(BaseConfig):
    """Bad data stops the run, with its place."""

    kind: Literal["stop"]


class SkipConfig(BaseConfig):
    """The smallest part that is bad is passed over: a row, a row group or a block, the end of a file, a file.

    Each is told with its place, once. What is passed over is the same in every epoch, and after a resume."""

    kind: Literal["skip"]
    budget: PositiveInt
    """How many such parts may be passed over; one more stops the run."""


OnBadDataConfig = Annotated[StopConfig | SkipConfig, Field(discriminator="kind")]


class ThreadsConfig(BaseConfig):
    """Threads of this process: nothing is copied between processes, and most of the work runs beside Python."""

    kind: Literal["threads"]
    count: PositiveInt = 2
    """Windows that are read at once, while one more is used."""


class ProcessesConfig(BaseConfig):
    """Processes of their own, for machines of many cores; batches come through shared memory."""

    kind: Literal["processes"]
    count: PositiveInt = 2
    """Windows that are read at once, while one more is used."""


_ADDRESS = re.compile(r"([^\s/:\[\]]+|\[[0-9a-fA-F:.]+\]):([0-9]{1,5})")


def _addresses(value: object) -> object:
    found = [value] if isinstance(value, str) else value
    for each in found if isinstance(found, list) else [found]:
        match = _ADDRESS.fullmatch(each) if isinstance(each, str) else None
        if match is None or not 0 < int(match[2]) < 65536:
            raise ValueError(
                "expected HOST:PORT, or a list of them" + (f"; {each!r} is none" * isinstance(value, list))
            )
    return found


class ServiceConfig(BaseConfig):
    """Other processes or hosts, where `recap data serve` runs with this configuration: they read, decode and encode.

    Who listens there is not proven to be who it should be, and nothing is encrypted: for networks that are trusted."""

    kind: Literal["service"]
    address: Annotated[
        list[Name], BeforeValidator(_addresses, json_schema_input_type=Name | list[Name]), Field(min_length=1)
    ]
    """HOST:PORT of such a process, or a list of them, which share the work; one that goes away is passed over while
    another is left."""
    count: PositiveInt = 2
    """Windows that are asked for at once, while one more is used."""
    compression: Literal["none", "lz4", "zstd"] = "none"
    """What rows are compressed with on their way."""


ReadersConfig = Annotated[ThreadsConfig | ProcessesConfig | ServiceConfig, Field(discriminator="kind")]


class DownsampleNegativesConfig(BaseConfig):
    """More rows are read than a step takes: positives are kept, negatives fill up, and weights undo the sampling.

    A row is positive if one of the tasks is. Negatives count (read / kept) each, so that the weighted sum over the step
    is, in expectation, that over all rows that were read; if there are too many positives, they are sampled alike."""

    batch_multiplier: PositiveInt
    """So many times `global_batch_size` rows are read for a step; of it, this share at least goes to negatives."""
    keep_positives_of: Annotated[list[Name], Field(min_length=1)]
    """Tasks whose positives are kept."""


class DataConfig(BaseConfig):
    """A data set with labels: one column for each task; 0 or 1, or a number for a regression."""

    source: SourceConfig
    """Where the rows are."""
    global_batch_size: PositiveInt = 1024
    """Rows of one optimizer step, over all micro-batches and ranks."""
    tasks: dict[Name, DataTaskConfig]
    """The label columns."""
    rectify_labels: RectifyLabelsConfig | None = None
    """Which positives came too late; none given: none."""
    on_bad_data: OnBadDataConfig = StopConfig(kind="stop")
    """What happens at a damaged file or a value that cannot be."""
    readers: ReadersConfig = ThreadsConfig(kind="threads")
    """What reads ahead; the order of the rows is the same with any of them."""
    cache: bool = False
    """Whether the rows stay in memory once they were read; refused where they do not fit."""

    @property
    def labels(self) -> dict[str, DataTaskConfig]:
        """The label columns that a job reads, and how each was sampled."""
        return self.tasks


def _one_correction(value: Any) -> Any:
    """Refuse what would correct for the same sampling twice, and say why."""
    if value == "both" or (isinstance(value, list) and len(value) > 1):
        raise ValueError(
            "weights and calibration each correct for down-sampling; both would correct twice, and give probabilities "
            "that are too low. Choose one"
        )
    return value


class TrainDataConfig(DataConfig):
    """The section `train_data`."""

    num_epochs: PositiveInt | None = None
    """How often each row is seen before training ends, if `num_train_steps` are not done before; none given: rows are
    read again and again. Rows that fill no batch at the very end are left out."""
    shuffle_window_rows: NonNegativeInt = 65_536
    """Rows shuffled together, held in memory three times; row groups are shuffled over the whole epoch.
    0 reads in order."""
    interleave_files: PositiveInt = 1
    """Where rows are read in order: files read in turn, a row group of each."""
    downsample_negatives: DownsampleNegativesConfig | None = None
    """Sampling while reading; none given: every row is used."""
    sampling_correction: Annotated[Literal["calibration", "weights"], BeforeValidator(_one_correction)] = "calibration"
    """What undoes the down-sampling that `tasks` tell of: `calibration` of the model's probabilities, or `weights`
    (1 / rate) of its examples in the loss."""

    @property
    def rows_of_a_step(self) -> int:
        """Rows that are read for one step."""
        sampling = self.downsample_negatives
        return self.global_batch_size * (sampling.batch_multiplier if sampling is not None else 1)

    def checks(self) -> tuple[Check, ...]:
        """Interleaving of what is shuffled, and sampling that reads nothing more."""
        return self._interleaves_in_order, self._samples_something

    def _interleaves_in_order(self) -> Problems:
        if self.interleave_files > 1 and self.shuffle_window_rows:
            yield (
                ("interleave_files",),
                "row groups are shuffled over all files already; leave it out, or set shuffle_window_rows: 0",
            )

    def _samples_something(self) -> Problems:
        sampling = self.downsample_negatives
        if sampling is not None and sampling.batch_multiplier < 2:
            yield (
                ("downsample_negatives", "batch_multiplier"),
                "1 reads no more rows than a step takes, so nothing is sampled; take 2 or more, or leave it out",
            )


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
