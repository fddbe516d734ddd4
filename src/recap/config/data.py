"""Data sets: their files, labels and sampling, how they are read, and how many rows make a step."""

import re
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag

from recap.config.base import (
    BaseConfig,
    Check,
    FreeOnResume,
    Globs,
    Name,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Problems,
    Rate,
)


class HourlyInputs(BaseConfig):
    """One folder of files per hour, up to a given hour."""

    kind: Literal["hourly"]
    data_root: Name
    """The folder that contains the folders of the hours."""
    end_datetime: Name
    """The last hour, as YYYY/MM/DD/HH."""
    hours: PositiveInt
    """Number of hours, up to and including the last."""
    num_missing_hours_tol: NonNegativeInt = 0
    """Maximum number of hours without files; more are an error."""
    folders: Name = "%Y/%m/%d/%H"
    """strftime pattern of the folder of an hour, such as `date=%Y-%m-%d/hour=%H`."""
    files: Name = "*"
    """Glob of the files in the folder of an hour."""

    def checks(self) -> tuple[Check, ...]:
        return (lambda: date_problems("end_datetime", self.end_datetime, "%Y/%m/%d/%H", "YYYY/MM/DD/HH"),)


class DailyInputs(BaseConfig):
    """One folder of files per day, up to a given day."""

    kind: Literal["daily"]
    data_root: Name
    """The folder that contains the folders of the days."""
    end_date: Name
    """The last day, as YYYY/MM/DD."""
    days: PositiveInt
    """Number of days, up to and including the last."""
    num_missing_days_tol: NonNegativeInt = 0
    """Maximum number of days without files; more are an error."""
    folders: Name = "%Y/%m/%d"
    """strftime pattern of the folder of a day, such as `date=%Y%m%d`."""
    files: Name = "*"
    """Glob of the files in the folder of a day; `**/*` includes its subfolders."""

    def checks(self) -> tuple[Check, ...]:
        return (lambda: date_problems("end_date", self.end_date, "%Y/%m/%d", "YYYY/MM/DD"),)


def date_problems(field: str, text: str, pattern: str, shown: str) -> Problems:
    """A problem if `text` is not a date in the strptime format `pattern`, which messages write as `shown`."""
    try:
        datetime.strptime(text, pattern)
    except ValueError:
        yield (field,), f"expected a date {shown}, found {text!r}"


_GLOBS = "a glob or globs"


def _inputs_kind(value: Any) -> str | None:
    """Discriminator of `Inputs`: the `kind` of a mapping, else globs."""
    if isinstance(value, dict):
        return str(value["kind"]) if "kind" in value else None
    return str(getattr(value, "kind", _GLOBS))


Inputs = Annotated[
    Annotated[Globs, Tag(_GLOBS)] | Annotated[HourlyInputs, Tag("hourly")] | Annotated[DailyInputs, Tag("daily")],
    Discriminator(_inputs_kind),
]
"""Files, as globs or as folders by hour or day."""


class FilesConfig(BaseConfig):
    """The fields of every source."""

    kind: str
    """Which one this is."""
    inputs: Inputs
    """A glob, a list of globs, or folders by hour or day. Globs are relative to the working directory, or URLs such as
    `s3://bucket/train/*.parquet`; `**` matches folders of any depth."""
    num_files_to_keep: PositiveInt | None = None
    """Read only this many files, the first by name. Optional; default: all."""


class ParquetConfig(FilesConfig):
    """Parquet files, read in the order of their names, one row group at a time."""

    kind: Literal["parquet"] = "parquet"


class ArrowConfig(FilesConfig):
    """Arrow IPC files (Feather 2), read one record batch at a time."""

    kind: Literal["arrow"]


class CsvConfig(FilesConfig):
    """CSV files, plain or gzip, with column names in the first line; an empty value is null."""

    kind: Literal["csv"]
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] = ","
    """The character between two values."""


class JsonLinesConfig(FilesConfig):
    """JSON Lines files, plain or gzip, with one object per line; a missing key is null."""

    kind: Literal["jsonl"]


class TfRecordConfig(FilesConfig):
    """TFRecord files, plain or gzip, of tf.train.Example; a feature missing from a record is zeros."""

    kind: Literal["tfrecord"]
    schema_path: Name
    """JSON file that lists the columns: `{"schema": [{"feature_name", "dtype", "length"}]}`."""


SourceKind = Literal["parquet", "arrow", "csv", "jsonl", "tfrecord"]
"""The kinds of source: file formats."""


def _kind(value: Any) -> str:
    """Discriminator of `SourceConfig`: Parquet unless `kind` is set."""
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
    """The label of one task, and how its examples were sampled before the files were written."""

    column: Name | None = None
    """The label column. Optional; default: the column named like the task."""
    pos_downsampling_rate: Rate = 1.0
    """Share of positives that the files keep, in (0, 1]."""
    neg_downsampling_rate: Rate = 1.0
    """Share of negatives that the files keep, in (0, 1]."""


class RectifyLabelsConfig(BaseConfig):
    """Turns late positives into negatives. All times are columns in milliseconds.

    A positive stays positive only if impression and engagement both came within the window after serving."""

    window_hours: PositiveFloat = 3.0
    """Length of the window, in hours after serving."""
    served_at: Name
    """Column of the time at which the candidate was served."""
    impressed_at: Name
    """Column of the time of the impression."""
    engaged_at: Annotated[dict[Name, Name], Field(min_length=1)]
    """Task → column of the time of its engagement. Tasks that are not listed stay unchanged."""


class StopConfig(BaseConfig):
    """Bad data stops the run, with an error that gives its location."""

    kind: Literal["stop"]


class SkipConfig(BaseConfig):
    """Skips the smallest part that contains the bad data: a row, a row group or block, the end of a file, or a file.

    Each skipped part is reported once, with its location. The same parts are skipped in every epoch and after a
    resume."""

    kind: Literal["skip"]
    budget: PositiveInt
    """Maximum number of skipped parts; one more stops the run."""


OnBadDataConfig = Annotated[StopConfig | SkipConfig, Field(discriminator="kind")]


class ThreadsConfig(BaseConfig):
    """Threads of this process: nothing is copied between processes, and most of the work runs outside the GIL."""

    kind: Literal["threads"]
    count: PositiveInt = 2
    """Windows read in parallel, in addition to the one in use."""


class ProcessesConfig(BaseConfig):
    """Separate processes, for machines with many cores; batches are passed through shared memory."""

    kind: Literal["processes"]
    count: PositiveInt = 2
    """Windows read in parallel, in addition to the one in use."""


_ADDRESS = re.compile(r"([^\s/:\[\]]+|\[[0-9a-fA-F:.]+\]):([0-9]{1,5})")


def _addresses(value: object) -> object:
    addresses = [value] if isinstance(value, str) else value
    for address in addresses if isinstance(addresses, list) else [addresses]:
        match = _ADDRESS.fullmatch(address) if isinstance(address, str) else None
        if match is None or not 0 < int(match[2]) < 65536:
            wrong = f"; {address!r} is not one" if isinstance(value, list) else ""
            raise ValueError(f"expected HOST:PORT, or a list of them{wrong}")
    return addresses


class ServiceConfig(BaseConfig):
    """Other processes or hosts that run `recap data serve` with this configuration: they read, decode and encode.

    There is no authentication and no encryption; use it in trusted networks only."""

    kind: Literal["service"]
    address: Annotated[
        list[Name], BeforeValidator(_addresses, json_schema_input_type=Name | list[Name]), Field(min_length=1)
    ]
    """HOST:PORT of a server, or a list of servers that share the work; servers that go away are skipped as long as one
    is left."""
    count: PositiveInt = 2
    """Windows requested in parallel, in addition to the one in use."""
    compression: Literal["none", "lz4", "zstd"] = "none"
    """Compression of the rows in transit."""


ReadersConfig = Annotated[ThreadsConfig | ProcessesConfig | ServiceConfig, Field(discriminator="kind")]


class DownsampleNegativesConfig(BaseConfig):
    """Reads more rows than a step uses: positives are kept, negatives fill the rest, and weights undo the sampling.

    A row is positive if one of the tasks is positive. Each kept negative weighs negatives read / negatives kept, so
    that the weighted sum over the step equals, in expectation, the sum over all rows that were read. Positives are
    sampled in the same way if there are too many."""

    batch_multiplier: PositiveInt
    """Rows read for a step, as a multiple of `global_batch_size`; at least 1 / `batch_multiplier` of the step's rows
    are negatives."""
    keep_positives_of: Annotated[list[Name], Field(min_length=1)]
    """Tasks whose positives are kept."""


class DataConfig(BaseConfig):
    """A data set with one label column per task: 0 or 1, or a number for a regression."""

    source: Annotated[SourceConfig, FreeOnResume()]
    """The files."""
    global_batch_size: PositiveInt = 1024
    """Rows of one optimizer step, summed over all micro-batches and ranks."""
    tasks: dict[Name, DataTaskConfig]
    """The label columns."""
    rectify_labels: RectifyLabelsConfig | None = None
    """Turns late positives into negatives. Optional; off by default."""
    on_bad_data: Annotated[OnBadDataConfig, FreeOnResume()] = StopConfig(kind="stop")
    """What to do with a damaged file or an impossible value."""
    readers: Annotated[ReadersConfig, FreeOnResume()] = ThreadsConfig(kind="threads")
    """What reads ahead: threads, processes or other hosts. The order of the rows does not depend on it."""
    cache: Annotated[bool, FreeOnResume()] = False
    """Whether rows stay in memory once read. An error if they do not fit."""

    @property
    def labels(self) -> dict[str, DataTaskConfig]:
        """Task → label column and sampling rates, for the tasks whose labels a job reads."""
        return self.tasks


def _one_correction(value: Any) -> Any:
    """Refuse both corrections together, which would correct for the same sampling twice."""
    if value == "both" or (isinstance(value, list) and len(value) > 1):
        raise ValueError(
            "weights and calibration each correct for down-sampling; both together would correct twice, and "
            "probabilities would be too low. Choose one"
        )
    return value


class TrainDataConfig(DataConfig):
    """The section `train_data`."""

    num_epochs: Annotated[PositiveInt | None, FreeOnResume()] = None
    """Train for this many passes over the rows, or until `num_train_steps`, whichever ends first. The rows that do not
    fill the very last batch are dropped. Optional; default: repeat without end."""
    shuffle_window_rows: NonNegativeInt = 65_536
    """Rows shuffled together; three windows are held in memory. Row groups are shuffled over the whole epoch. 0 reads
    in order."""
    interleave_files: PositiveInt = 1
    """When rows are read in order: number of files read in turn, one row group from each."""
    downsample_negatives: DownsampleNegativesConfig | None = None
    """Samples negatives while reading. Optional; off by default."""
    sampling_correction: Annotated[Literal["calibration", "weights"], BeforeValidator(_one_correction)] = "calibration"
    """How the down-sampling rates in `tasks` are corrected: by `calibration` of the model's probabilities, or by
    `weights` (1 / rate) of the examples in the loss."""

    @property
    def rows_of_a_step(self) -> int:
        """Rows read for one step."""
        sampling = self.downsample_negatives
        return self.global_batch_size * (sampling.batch_multiplier if sampling is not None else 1)

    def checks(self) -> tuple[Check, ...]:
        return self._interleaves_in_order, self._samples_something

    def _interleaves_in_order(self) -> Problems:
        if self.interleave_files > 1 and self.shuffle_window_rows:
            yield (
                ("interleave_files",),
                "row groups are already shuffled over all files; remove it, or set shuffle_window_rows: 0",
            )

    def _samples_something(self) -> Problems:
        sampling = self.downsample_negatives
        if sampling is not None and sampling.batch_multiplier < 2:
            yield (
                ("downsample_negatives", "batch_multiplier"),
                "1 reads no more rows than a step uses, so nothing is sampled; set 2 or more, or remove it",
            )


class ValidationDataConfig(DataConfig):
    """One split of `validation_data`; fields that are not set are inherited from `train_data`.

    Its down-sampling rates weight the examples in every metric, back to the population."""

    evaluation_tasks: Annotated[list[Name], Field(min_length=1)] | None = None
    """Tasks to evaluate on this split; it needs only their labels. Optional; default: all tasks."""

    @property
    def labels(self) -> dict[str, DataTaskConfig]:
        """Task → label column and sampling rates, for the tasks to evaluate."""
        chosen = self.tasks if self.evaluation_tasks is None else self.evaluation_tasks
        return {task: rates for task, rates in self.tasks.items() if task in chosen}
