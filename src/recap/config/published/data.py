"""A data set in the published form."""

from typing import Annotated, Literal

from recap.config.base import Disagreements, Name, PositiveInt
from recap.config.data import DataTaskConfig
from recap.config.published.section import PublishedSection, Refused, Unread, not_built


class Hourly(PublishedSection):
    """Hourly folders."""

    data_root: Name
    end_datetime: Name
    hours: int
    num_missing_hours_tol: int = 0


class Daily(PublishedSection):
    """Daily folders."""

    data_root: Name
    end_date: Name
    days: int
    num_missing_days_tol: int = 0


class SegDenseSchema(PublishedSection):
    """How the columns of the data are called."""

    schema_path: str
    features: list[str] = []
    renamed_features: dict[str, str] = {}
    mask_mantissa_features: Annotated[dict[str, int], not_built("masking mantissa bits")] = {}


class TruncateAndSlice(PublishedSection):
    """Fewer values of the dense columns."""

    continuous_feature_truncation: PositiveInt | None = None
    binary_feature_truncation: PositiveInt | None = None
    continuous_feature_mask_path: Annotated[Unread, not_built("slicing by a mask")] = None
    binary_feature_mask_path: Annotated[Unread, not_built("slicing by a mask")] = None


class RectifyLabels(PublishedSection):
    """Labels that came too late."""

    label_rectification_window_in_hours: float = 3.0
    served_timestamp_field: Name
    impressed_timestamp_field: Name
    label_to_engaged_timestamp_field: dict[Name, Name]


class Preprocess(PublishedSection):
    """What is done to a batch before the model sees it."""

    truncate_and_slice: TruncateAndSlice | None = None
    downcast: Annotated[Unread, not_built("casting columns down")] = None
    rectify_labels: RectifyLabels | None = None
    extract_features: Annotated[Unread, not_built("extracting single features")] = None
    downsample_negatives: Annotated[Unread, not_built("sampling while reading")] = None


class Data(PublishedSection):
    """A data set."""

    one_of = (("inputs", "explicit_datetime_inputs", "explicit_date_inputs"),)
    inputs: Name | None = None
    explicit_datetime_inputs: Hourly | None = None
    explicit_date_inputs: Daily | None = None
    global_batch_size: int
    num_files_to_keep: Annotated[PositiveInt | None, not_built("reading some of the files")] = None
    repeat_files: bool = True
    file_batch_size: PositiveInt = 16
    cache: Annotated[bool, not_built("holding the data in memory")] = False
    data_service_dispatcher: Annotated[str | None, not_built("reading by other processes or hosts")] = None
    dataset_service_compression: Literal["AUTO"] | None = None
    ignore_data_errors: Annotated[bool, not_built("reading on past bad data")] = False
    examples_shuffle_buffer_size: int = 1024
    map_num_parallel_calls: PositiveInt | None = None
    interleave_num_parallel_calls: PositiveInt | None = None
    seg_dense_schema: SegDenseSchema
    tasks: dict[Name, DataTaskConfig]
    evaluation_tasks: list[str] = []
    preprocess: Preprocess | None = None
    sampler: Annotated[Unread, Refused("deprecated; sample when the data is made")] = None

    @property
    def rectify_labels(self) -> RectifyLabels | None:
        """Which positives came too late."""
        return (self.preprocess or Preprocess()).rectify_labels

    @property
    def truncation(self) -> dict[str, int | None]:
        """How many values of each dense column are kept."""
        said = (self.preprocess or Preprocess()).truncate_and_slice or TruncateAndSlice()
        return {"continuous": said.continuous_feature_truncation, "binary": said.binary_feature_truncation}

    def problems(self) -> Disagreements:
        """Tasks to evaluate that it does not have."""
        for task in self.evaluation_tasks:
            if task not in self.tasks:
                yield ("evaluation_tasks",), f"{task!r} is no task of it. Known: {', '.join(self.tasks)}"
