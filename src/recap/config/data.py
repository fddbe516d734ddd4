"""Where rows come from, how they were sampled, and how many make a step."""

from typing import Annotated, Literal

from pydantic import Field

from recap.config.base import BaseConfig, Globs, Name, NonNegativeInt, PositiveInt, Rate


class ParquetConfig(BaseConfig):
    """Parquet files, taken in the order of their names."""

    kind: Literal["parquet"] = "parquet"
    inputs: Globs
    """One glob or a list of them, relative to the working directory; `**` matches folders of any depth."""


class DataTaskConfig(BaseConfig):
    """How the examples of one task were sampled before they were written."""

    pos_downsampling_rate: Rate = 1.0
    """Share of positives that was kept."""
    neg_downsampling_rate: Rate = 1.0
    """Share of negatives that was kept."""


class DataConfig(BaseConfig):
    """A data set with labels: one 0/1 column for each task, named as the task."""

    source: ParquetConfig
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
