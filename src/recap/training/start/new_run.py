"""The start of a new run: earlier weights if configured, then the rates of towers that start fresh."""

from pathlib import Path

from recap.data.stream.batch_stream import BatchStream
from recap.distributed import Ranks
from recap.model.directory import SavedModel
from recap.reporting import Say
from recap.runs import find_model_directory
from recap.training.start.initial_rates import InitialRates
from recap.training.start.warm_start import start_from


def start_new_run(model: SavedModel, rates: InitialRates, stream: BatchStream, ranks: Ranks, say: Say) -> None:
    """Set the weights of `model`, which are random, and `rates`; every rank must call it.

    Raises ConfigError and CheckpointError for a warm start that does not fit, DataError for bad labels.
    """
    path, warm = model.config.training.initial_checkpoint_dir, None
    if path is not None:
        warm = start_from(find_model_directory(Path(path)), model)
        for line in warm.messages:
            say(line)
    rates.start(model, stream, warm.names if warm is not None else (), ranks, say)
