"""Data sets: their files, labels and sampling, how they are read, and how many rows make a step."""

import re
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag

from recap.config.base import (
    BaseConfig,
    Check,
    FreeOnResume,
    Globs,
    Name,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Problems,
    Rate,
)


class HourlyInputs(BaseConfig):
    """A folder of files per hour, for the hours up to `end_datetime`."""

    kind: Literal["hourly"]
    data_root: Name
    """The folder that contains the hourly folders."""
    end_datetime: Name
    """The last hour, as YYYY/MM/DD/HH."""
    hours: PositiveInt
    """Number of hours, up to and including the last."""
    num_missing_hours_tol: NonNegativeInt = 0
    """Maximum number of hours without files; one more is an error."""
    folders: Name = "%Y/%m/%d/%H"
    """strftime pattern of an hourly folder, such as `date=%Y-%m-%d/hour=%H`."""
    files: Name = "*"
    """Glob of the files in an hourly folder."""

    def checks(self) -> tuple[Check, ...]:
        return (lambda: date_problems("end_datetime", self.end_datetime, "%Y/%m/%d/%H", "YYYY/MM/DD/HH"),)


class DailyInputs(BaseConfig):
    """A folder of files per day, for the days up to `end_date`."""

    kind: Literal["daily"]
    data_root: Name
    """The folder that contains the daily folders."""
    end_date: Name
    """The last day, as YYYY/MM/DD."""
    days: PositiveInt
    """Number of days, up to and including the last."""
    num_missing_days_tol: NonNegativeInt = 0
    """Maximum number of days without files; one more is an error."""
    folders: Name = "%Y/%m/%d"
    """strftime pattern of a daily folder, such as `date=%Y%m%d`."""
    files: Name = "*"
    """Glob of the files in a daily folder; `**/*` includes subfolders."""

    def checks(self) -> tuple[Check, ...]:
        return (lambda: date_problems("end_date", self.end_date, "%Y/%m/%d", "YYYY/MM/DD"),)


def date_problems(field: str, text: str, pattern: str, shown: str) -> Problems:
    """Check that `text` is a date in the strptime format `pattern`, which messages call `shown`."""
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
"""Globs, or one folder per hour or day."""


class FilesConfig(BaseConfig):
    """The fields of every source; `kind` comes first."""

    kind: str
    inputs: Inputs
    """A glob, a list of globs, or one folder per hour or day. Globs are relative to the working directory, or URLs such
    as `s3://bucket/train/*.parquet`; `**` matches folders of any depth."""
    num_files_to_keep: PositiveInt | None = None
    """Number of files to read, the first by name. Optional; default: all."""


class ParquetConfig(FilesConfig):
    """Parquet files, read in the order of their names, one row group at a time."""

    kind: Literal["parquet"] = "parquet"


class ArrowConfig(FilesConfig):
    """Arrow IPC files (Feather 2), read one record batch at a time."""

    kind: Literal["arrow"]


CSV_NULLS = ("", "NA", "N/A", "NULL", "null", "NaN", "nan", "None", "\\N")
"""What pandas, R, SQL and Hive write for a missing value."""


class CsvConfig(FilesConfig):
    """CSV files, plain or gzip, in UTF-8, with column names in the first line and one row per line."""

    kind: Literal["csv"]
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] = ","
    """The character between two values."""
    null_values: list[str] = list(CSV_NULLS)
    """Texts that mean null, in every column, where they are not in quotes."""

    def checks(self) -> tuple[Check, ...]:
        return self._delimiter_divides, self._nulls_can_occur

    def _delimiter_divides(self) -> Problems:
        if not self.delimiter.isascii() or self.delimiter in '"\r\n\0':
            yield ("delimiter",), f"{self.delimiter!r} cannot separate values; use an ASCII character such as , or ;"

    def _nulls_can_occur(self) -> Problems:
        for index, text in enumerate(self.null_values):
            if any(character in text for character in (self.delimiter, '"', "\r", "\n")):
                problem = f"{text!r} cannot occur: an unquoted value holds no delimiter, quote or line break"
                yield ("null_values", index), problem


class JsonLinesConfig(FilesConfig):
    """JSON Lines files, plain or gzip, with one object per line. A missing key is null."""

    kind: Literal["jsonl"]


class TfRecordConfig(FilesConfig):
    """TFRecord files, plain or gzip, of tf.train.Example. A feature missing from a record is read as zeros."""

    kind: Literal["tfrecord"]
    schema_path: Name
    """JSON file that lists the columns: `{"schema": [{"feature_name", "dtype", "length"}]}`."""


SourceKind = Literal["parquet", "arrow", "csv", "jsonl", "tfrecord"]
"""File formats."""


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
    """The label column. Optional; default: the name of the task."""
    at_least: Annotated[float, Field(allow_inf_nan=False)] | None = None
    """The number from which on the label is 1, and below it 0, such as 4 for a rating of 1 to 5. Optional; default: the
    column holds 0 and 1."""
    pos_downsampling_rate: Rate = 1.0
    """Share of all positives that the files contain."""
    neg_downsampling_rate: Rate = 1.0
    """Share of all negatives that the files contain."""
    weight: Name | None = None
    """Column of the weight of each row in the loss and metrics of the task. Optional; default: that of the data set."""


class RectifyLabelsConfig(BaseConfig):
    """Turns late positives into negatives, from columns of times in milliseconds.

    A positive stays positive only if impression and engagement both happened within the window after serving."""

    window_hours: PositiveFloat = 3.0
    """Length of the window, in hours after serving."""
    served_at: Name
    """Column of the time when the candidate was served, in milliseconds."""
    impressed_at: Name
    """Column of the time of the impression, in milliseconds."""
    engaged_at: Annotated[dict[Name, Name], Field(min_length=1)]
    """Task → column of the time of its engagement, in milliseconds. Labels of other tasks do not change."""


class StopConfig(BaseConfig):
    """Stops the run at bad data, with an error that gives its location."""

    kind: Literal["stop"]


class SkipConfig(BaseConfig):
    """Skips the smallest part that contains bad data: a row, a row group or block, the end of a file, or a file.

    Each skipped part is reported once, with its location. The same parts are skipped in every epoch and after a
    resume."""

    kind: Literal["skip"]
    budget: PositiveInt
    """Maximum number of skipped parts; one more stops the run."""


OnBadDataConfig = Annotated[StopConfig | SkipConfig, Field(discriminator="kind")]


class ThreadsConfig(BaseConfig):
    """Reads in threads: nothing is copied between processes, and most of the work runs outside the GIL."""

    kind: Literal["threads"]
    count: PositiveInt = 2
    """Windows read in parallel, in addition to the one in use."""


class ProcessesConfig(BaseConfig):
    """Reads in separate processes, for machines with many cores; batches pass through shared memory."""

    kind: Literal["processes"]
    count: PositiveInt = 2
    """Windows read in parallel, in addition to the one in use."""


_ADDRESS = re.compile(r"([^\s/:\[\]]+|\[[0-9a-fA-F:.]+\]):([0-9]{1,5})")


def _host_and_port(address: str) -> str:
    match = _ADDRESS.fullmatch(address)
    if match is None or not 0 < int(match[2]) < 65536:
        raise ValueError("expected HOST:PORT")
    return address


def _one_or_many(value: object) -> object:
    if not isinstance(value, str | list):
        raise ValueError("expected HOST:PORT, or a list of them")
    return [value] if isinstance(value, str) else value


class ServiceConfig(BaseConfig):
    """Reads on other hosts or processes that run `recap data serve` with this configuration."""

    kind: Literal["service"]
    address: Annotated[
        list[Annotated[Name, AfterValidator(_host_and_port)]],
        BeforeValidator(_one_or_many, json_schema_input_type=Name | list[Name]),
        Field(min_length=1),
    ]
    """HOST:PORT of a server, or a list of servers that share the work, also that of one that fails until it is back."""
    count: PositiveInt = 2
    """Windows requested in parallel, in addition to the one in use."""
    compression: Literal["none", "lz4", "zstd"] = "none"
    """Compression of the rows that servers send."""
    wait_seconds: NonNegativeFloat = 60.0
    """How long a run waits for a server while none can be reached, before it fails, in seconds."""
    token_file: Name | None = None
    """File with the token of the servers (`--token-file`). Optional; default: no token."""
    server_ca: Name | None = None
    """PEM file of the authority that signs the certificates of the servers; connections are then encrypted (TLS).
    Optional; default: no encryption."""
    certificate: Name | None = None
    """PEM file of this run's certificate chain, for servers that demand one (`--client-ca`). Optional."""
    private_key: Name | None = None
    """PEM file of the key of `certificate`. Optional."""

    def checks(self) -> tuple[Check, ...]:
        return (self._has_both_halves_of_a_certificate,)

    def _has_both_halves_of_a_certificate(self) -> Problems:
        if (self.certificate is None) != (self.private_key is None):
            name, other = ("private_key", "certificate") if self.certificate is None else ("certificate", "private_key")
            yield (name,), f"a certificate needs its key; set {other} too"
        elif self.certificate is not None and self.server_ca is None:
            yield ("certificate",), "certificates need TLS; set server_ca too"


ReadersConfig = Annotated[ThreadsConfig | ProcessesConfig | ServiceConfig, Field(discriminator="kind")]


class DownsampleNegativesConfig(BaseConfig):
    """Reads more rows than a step uses, and keeps the positives and a sample of the negatives.

    A row is positive if a task of `keep_positives_of` is positive. Each sampled negative has the weight negatives
    read / negatives sampled, so that the expected weighted sum over a step equals the sum over all rows read. Positives
    are sampled in the same way if there are too many."""

    batch_multiplier: PositiveInt
    """Rows read for a step, as a multiple of `global_batch_size`. At least 1 / `batch_multiplier` of the rows of a step
    are negatives."""
    keep_positives_of: Annotated[list[Name], Field(min_length=1)]
    """Tasks whose positives are kept, if they fit into a step."""


class DataConfig(BaseConfig):
    """A data set with one label column per task: 0 or 1, or a number for a regression."""

    source: Annotated[SourceConfig, FreeOnResume()]
    """The files and their format."""
    global_batch_size: PositiveInt = 1024
    """Rows of one optimizer step, summed over all micro-batches and ranks."""
    tasks: dict[Name, DataTaskConfig]
    """Task → its label column and down-sampling rates."""
    weight: Name | None = None
    """Column of the weight of each row in the loss and metrics of all tasks: a number of at least 0, where 0 leaves the
    row out. Losses are means over rows, so a mean weight of 1 keeps their scale. Optional; default: every row counts as
    1."""
    rectify_labels: RectifyLabelsConfig | None = None
    """Turns late positives into negatives. Optional; off by default."""
    on_bad_data: Annotated[OnBadDataConfig, FreeOnResume()] = StopConfig(kind="stop")
    """What to do with a damaged file or an impossible value."""
    readers: Annotated[ReadersConfig, FreeOnResume()] = ThreadsConfig(kind="threads")
    """Where data is read ahead: threads, processes or other hosts. The order of rows does not depend on it."""
    cache: Annotated[bool, FreeOnResume()] = False
    """Whether to keep rows in memory once read; an error if they do not fit."""

    @property
    def labels(self) -> dict[str, DataTaskConfig]:
        """Task → label column and sampling rates, for the tasks whose labels a job reads."""
        return self.tasks


def _one_correction(value: Any) -> Any:
    """Refuse a list of corrections, and `both`."""
    if value == "both" or (isinstance(value, list) and len(value) > 1):
        raise ValueError("expected calibration or weights (both would correct for the same sampling twice)")
    return value


class TrainDataConfig(DataConfig):
    """The section `train_data`."""

    num_epochs: Annotated[PositiveInt | None, FreeOnResume()] = None
    """Maximum number of passes over the rows; `num_train_steps` may end the run earlier. Rows that do not fill the last
    batch are dropped. Optional; default: no limit."""
    shuffle_window_rows: NonNegativeInt = 65_536
    """Minimum number of rows shuffled together, in windows of row groups that are shuffled over the epoch. Memory holds
    `readers.count` + 1 windows. 0 reads in order."""
    interleave_files: PositiveInt = 1
    """Number of files to read in turn, one row group from each; above 1 only with `shuffle_window_rows: 0`."""
    downsample_negatives: DownsampleNegativesConfig | None = None
    """Samples negatives while reading. Optional; off by default."""
    sampling_correction: Annotated[Literal["calibration", "weights"], BeforeValidator(_one_correction)] = "calibration"
    """Correction for the down-sampling rates in `tasks`: `calibration` of predicted probabilities, or `weights` (1 /
    rate) of the examples in the loss."""

    @property
    def rows_per_step(self) -> int:
        """Number of rows read for a step."""
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
    """A split of `validation_data`; fields that are not set are inherited from `train_data`.

    Metrics weight its examples by 1 / down-sampling rate, so that they describe the population."""

    evaluation_tasks: Annotated[list[Name], Field(min_length=1)] | None = None
    """Tasks to evaluate on this split, the only ones whose labels it needs. Optional; default: all."""

    @property
    def labels(self) -> dict[str, DataTaskConfig]:
        """Task → label column and sampling rates, for the tasks to evaluate."""
        chosen = self.tasks if self.evaluation_tasks is None else self.evaluation_tasks
        return {task: rates for task, rates in self.tasks.items() if task in chosen}
