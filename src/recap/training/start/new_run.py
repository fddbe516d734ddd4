"""The start of a new run: earlier weights if configured, rates of fresh towers, quantiles and statistics of rows."""

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

from recap.config.recap import JobMode, RecapConfig
from recap.data.batch import Batch
from recap.data.encoding.assets import Assets
from recap.data.encoding.encoder import RowEncoder
from recap.data.sample import sampled_batches
from recap.data.statistics import Statistics, statistics_of
from recap.data.stream.batch_stream import BatchStream
from recap.data.stream.source import Source
from recap.distributed import Ranks
from recap.model.directory import SavedModel, check_whole
from recap.reporting import Say
from recap.runs import find_model_directory
from recap.training.start.fit import fit_numbers
from recap.training.start.initial_rates import InitialRates
from recap.training.start.order import order_warnings
from recap.training.start.warm_start import start_from


class TrainingStatistics:
    """The statistics of the training rows when the run started, the same in all its checkpoints.

    Empty in runs of an earlier recap, and on all ranks but the first of a new run, which writes the checkpoints.
    """

    def __init__(self) -> None:
        self.value: Statistics | None = None

    def state_dict(self) -> Mapping[str, Any]:
        return {} if self.value is None else self.value.model_dump(mode="json")

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.value = Statistics.model_validate(state)

    def start(self, config: RecapConfig, assets: Assets, sample: Sequence[Batch]) -> None:
        """Measure the rows of `sample`, a `population_sample`; none if it is empty."""
        if sample:
            read = RowEncoder.for_job(config, assets, JobMode.INFERENCE)
            self.value = statistics_of(read, config.tasks, sample)


def population_sample(source: Source) -> list[Batch]:
    """At most 50,000 rows, spread over the files of `source`; their weights undo down-sampling.

    Parts of files that cannot be read are left out: training reports them.
    """
    population, labels = copy(source), source.encoder.labels
    assert labels is not None
    encoder = replace(source.encoder, labels=replace(labels, weigh_samples=True), teachers=())
    population.loader = replace(source.loader, encoder=encoder)
    return sampled_batches(population)


def check_initial_checkpoint(config: RecapConfig) -> None:
    """Raise CheckpointError for an initial checkpoint that is missing or in parts, before anything large is built."""
    path = config.training.initial_checkpoint_dir
    if path is not None:
        check_whole(find_model_directory(Path(path)))


def start_new_run(
    model: SavedModel,
    rates: InitialRates,
    statistics: TrainingStatistics,
    stream: BatchStream,
    ranks: Ranks,
    say: Say,
) -> None:
    """Set the weights of `model`, which are random, `rates` and `statistics`; every rank must call it.

    Raises ConfigError and CheckpointError for a warm start that does not fit, DataError for bad labels, and for data
    that cannot be read where the model needs their quantiles.
    """
    path, warm = model.config.training.initial_checkpoint_dir, None
    if path is not None:
        warm = start_from(find_model_directory(Path(path)), model)
        for line in warm.messages:
            say(line)
    names = warm.names if warm is not None else ()
    rates.start(model, stream, names, ranks, say)
    sample = population_sample(stream.source) if ranks.is_first else []
    fit_numbers(model.ranker, sample, names, ranks)
    for line in order_warnings(model.ranker, sample):
        say(line)
    statistics.start(model.config, model.assets, sample)
