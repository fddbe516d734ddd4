"""The data of a run: the training stream, and one of each validation split."""

from collections.abc import Sequence

from recap.config.recap import JobMode, RecapConfig
from recap.data.encoding.assets import Assets
from recap.data.encoding.encoder import RowEncoder
from recap.data.open import check_caches_fit, open_stream
from recap.data.stream.batch_stream import BatchStream
from recap.distributed import Ranks
from recap.evaluation.observers.strata import check_strata
from recap.reporting import Say


def open_streams(
    config: RecapConfig, assets: Assets, ranks: Ranks, say: Say, teachers: Sequence[RowEncoder] = ()
) -> tuple[BatchStream, dict[str, BatchStream]]:
    """The training stream and one per split; data that does not fit the configuration fails before training.

    `teachers`: encoders of what teachers read, which the training stream reads too.
    """
    stream = open_stream(config, assets, JobMode.TRAIN, say=say, ranks=ranks, teachers=teachers)
    validation = {
        split: open_stream(config, assets, JobMode.EVALUATE, split, say, ranks) for split in config.validation_data
    }
    check_strata(config, assets)
    check_caches_fit({"train_data": stream, **validation})
    return stream, validation


def length(config: RecapConfig, stream: BatchStream) -> int:
    """The length of a run in steps, if no data is bad; the same before and after a resume."""
    steps, epochs = config.training.num_train_steps, stream.epochs
    if epochs is None:
        return steps
    return min(steps, epochs * stream.order.rows // config.train_data.rows_per_step)
