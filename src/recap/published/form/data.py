"""Data sets in the published form: `train_data` and each of `validation_data`."""

from typing import Annotated, Any, Literal

from recap.config.base import Name, NonNegativeInt, PositiveInt, Problems
from recap.config.checks.common import unknown
from recap.config.data import DataTaskConfig
from recap.config.features import Dtype
from recap.published.form.section import PublishedSection, Refused, Unread


class Hourly(PublishedSection):
    """A folder for each hour."""

    data_root: Name
    end_datetime: Name
    hours: int
    num_missing_hours_tol: int = 0


class Daily(PublishedSection):
    """A folder for each day."""

    data_root: Name
    end_date: Name
    days: int
    num_missing_days_tol: int = 0


class SegDenseSchema(PublishedSection):
    """The columns to read, and the names under which they are stored."""

    schema_path: str
    features: list[str] = []
    renamed_features: dict[str, str] = {}
    mask_mantissa_features: dict[str, PositiveInt] = {}


class TruncateAndSlice(PublishedSection):
    """Selects values of the dense columns."""

    continuous_feature_truncation: PositiveInt | None = None
    binary_feature_truncation: PositiveInt | None = None
    continuous_feature_mask_path: Name | None = None
    binary_feature_mask_path: Name | None = None


class Downcast(PublishedSection):
    """Stores features in a smaller type than float32."""

    features: dict[Name, Dtype]


class ExtractedFeature(PublishedSection):
    """A name for one value of a dense tensor."""

    name: Name
    source_tensor: Name
    index: NonNegativeInt


class ExtractFeatures(PublishedSection):
    """Names for single values of dense tensors."""

    extract_feature_table: list[ExtractedFeature]


class DownsampleNegatives(PublishedSection):
    """Samples negatives while reading."""

    batch_multiplier: PositiveInt
    engagements_list: list[Name]
    num_engagements: int | None = None


class RectifyLabels(PublishedSection):
    """Turns positives into negatives if the impression or engagement came too late."""

    label_rectification_window_in_hours: float = 3.0
    served_timestamp_field: Name
    impressed_timestamp_field: Name
    label_to_engaged_timestamp_field: dict[Name, Name]


class Preprocess(PublishedSection):
    """Transforms of a batch before the model reads it."""

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
        """`preprocess.rectify_labels`."""
        return (self.preprocess or Preprocess()).rectify_labels

    @property
    def downsample_negatives(self) -> DownsampleNegatives | None:
        """`preprocess.downsample_negatives`."""
        return (self.preprocess or Preprocess()).downsample_negatives

    @property
    def extracted(self) -> list[ExtractedFeature]:
        """The extracted features."""
        section = (self.preprocess or Preprocess()).extract_features
        return section.extract_feature_table if section is not None else []

    @property
    def dtypes(self) -> dict[str, Dtype]:
        """Feature → the type it is stored in, if not float32."""
        section = (self.preprocess or Preprocess()).downcast
        return section.features if section is not None else {}

    @property
    def slices(self) -> dict[str, tuple[int | None, str | None]]:
        """Dense column → the number of its values to read, and the file of a mask that selects them."""
        section = (self.preprocess or Preprocess()).truncate_and_slice or TruncateAndSlice()
        return {
            "continuous": (section.continuous_feature_truncation, section.continuous_feature_mask_path),
            "binary": (section.binary_feature_truncation, section.binary_feature_mask_path),
        }

    @property
    def shaping(self) -> dict[str, Any]:
        """Key of `preprocess` → its effect on features, which must be the same in all data sets."""
        return {"truncate_and_slice": self.slices, "downcast": self.dtypes, "extract_features": self.extracted}

    def problems(self) -> Problems:
        """Tasks to evaluate without labels in this data set."""
        for task in self.evaluation_tasks:
            if task not in self.tasks:
                yield ("evaluation_tasks",), unknown(task, "task", self.tasks)
