"""A data set in the published form."""

from typing import Annotated, Any, Literal

from recap.config.base import Name, NonNegativeInt, PositiveInt, Problems
from recap.config.data import DataTaskConfig
from recap.config.features import Dtype
from recap.published.form.section import PublishedSection, Refused, Unread


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
    mask_mantissa_features: dict[str, PositiveInt] = {}


class TruncateAndSlice(PublishedSection):
    """Fewer values of the dense columns."""

    continuous_feature_truncation: PositiveInt | None = None
    binary_feature_truncation: PositiveInt | None = None
    continuous_feature_mask_path: Name | None = None
    binary_feature_mask_path: Name | None = None


class Downcast(PublishedSection):
    """Features held as less than float32."""

    features: dict[Name, Dtype]


class ExtractedFeature(PublishedSection):
    """One value of a dense tensor, under a name."""

    name: Name
    source_tensor: Name
    index: NonNegativeInt


class ExtractFeatures(PublishedSection):
    """Values of dense tensors, under names."""

    extract_feature_table: list[ExtractedFeature]


class DownsampleNegatives(PublishedSection):
    """Sampling while reading."""

    batch_multiplier: PositiveInt
    engagements_list: list[Name]
    num_engagements: int | None = None


class RectifyLabels(PublishedSection):
    """Labels that came too late."""

    label_rectification_window_in_hours: float = 3.0
    served_timestamp_field: Name
    impressed_timestamp_field: Name
    label_to_engaged_timestamp_field: dict[Name, Name]


class Preprocess(PublishedSection):
    """What is done to a batch before the model sees it."""

    truncate_and_slice: TruncateAndSlice | None = None
    downcast: Downcast | None = None
    rectify_labels: RectifyLabels | None = None
    extract_features: ExtractFeatures | None = None
    downsample_negatives: DownsampleNegatives | None = None


class Data(PublishedSection):
    """A data set."""

    one_of = (("inputs", "explicit_datetime_inputs", "explicit_date_inputs"),)
    inputs: Name | None = None
    explicit_datetime_inputs: Hourly | None = None
    explicit_date_inputs: Daily | None = None
    global_batch_size: int
    num_files_to_keep: PositiveInt | None = None
    repeat_files: bool = True
    file_batch_size: PositiveInt = 16
    cache: bool = False
    data_service_dispatcher: Name | None = None
    dataset_service_compression: Literal["AUTO"] | None = None
    ignore_data_errors: bool = False
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
    def downsample_negatives(self) -> DownsampleNegatives | None:
        """Sampling while reading."""
        return (self.preprocess or Preprocess()).downsample_negatives

    @property
    def extracted(self) -> list[ExtractedFeature]:
        """Single values that have names of their own."""
        said = (self.preprocess or Preprocess()).extract_features
        return said.extract_feature_table if said is not None else []

    @property
    def dtypes(self) -> dict[str, Dtype]:
        """What features are held as."""
        said = (self.preprocess or Preprocess()).downcast
        return said.features if said is not None else {}

    @property
    def slices(self) -> dict[str, tuple[int | None, str | None]]:
        """How many values of each dense column are kept, and the file that says which of them."""
        said = (self.preprocess or Preprocess()).truncate_and_slice or TruncateAndSlice()
        return {
            "continuous": (said.continuous_feature_truncation, said.continuous_feature_mask_path),
            "binary": (said.binary_feature_truncation, said.binary_feature_mask_path),
        }

    @property
    def shaping(self) -> dict[str, Any]:
        """All that is done to features, by the part of `preprocess` that says it."""
        return {"truncate_and_slice": self.slices, "downcast": self.dtypes, "extract_features": self.extracted}

    def problems(self) -> Problems:
        """Tasks to evaluate that it does not have."""
        for task in self.evaluation_tasks:
            if task not in self.tasks:
                yield ("evaluation_tasks",), f"{task!r} is no task of it. Known: {', '.join(self.tasks)}"
