"""Opens data sets: composes the source, order, readers and sampling of a stream of batches."""

from collections.abc import Sequence
from typing import assert_never

from recap.config.data import ProcessesConfig, ReadersConfig, ServiceConfig, SkipConfig, ThreadsConfig
from recap.config.recap import JobMode, RecapConfig
from recap.data.encoding.assets import Assets, load_assets
from recap.data.encoding.encoder import RowEncoder
from recap.data.remote.client import ServiceClient
from recap.data.stream.batch_stream import BatchStream
from recap.data.stream.downsampling import NegativeSampler
from recap.data.stream.readers import Readers, start_processes
from recap.data.stream.shuffle import RowOrder
from recap.data.stream.source import Source
from recap.distributed import ONE_RANK, Ranks
from recap.errors import DataError
from recap.reporting import Say, say_to_stderr
from recap.runtime import free_memory

Teachers = Sequence[RowEncoder]
"""Encoders of what the teachers of a training job read."""


def open_source(
    config: RecapConfig, assets: Assets, mode: JobMode, split: str | None = None, teachers: Teachers = ()
) -> Source:
    """The source of `train_data`, or of validation set `split`, for a job of this mode. Raises DataError."""
    data = config.train_data if split is None else config.validation_data[split]
    return Source(
        data.source,
        RowEncoder.for_job(config, assets, mode, data, teachers),
        skip=isinstance(data.on_bad_data, SkipConfig),
        interleave=config.train_data.interleave_files if mode is JobMode.TRAIN else 1,
    )


def open_sources(config: RecapConfig, teachers: Teachers = ()) -> dict[str, Source]:
    """Name → source of every data set, as training and its evaluations read it. Raises DataError."""
    assets = load_assets(config.features)
    sets = {"train_data": open_source(config, assets, JobMode.TRAIN, teachers=teachers)}
    return sets | {name: open_source(config, assets, JobMode.EVALUATE, name) for name in config.validation_data}


def open_stream(
    config: RecapConfig,
    assets: Assets,
    mode: JobMode,
    split: str | None = None,
    say: Say = say_to_stderr,
    ranks: Ranks = ONE_RANK,
    teachers: Teachers = (),
) -> BatchStream:
    """The stream of `train_data`, or of validation set `split`, for one rank.

    Raises DataError if files are missing, do not fit the configuration, or hold fewer rows than one step.
    """
    train = config.train_data if mode is JobMode.TRAIN else None
    data = config.train_data if split is None else config.validation_data[split]
    bad = data.on_bad_data
    source = open_source(config, assets, mode, split, teachers)
    order = RowOrder(
        [chunk.rows for chunk in source.chunks],
        train.shuffle_window_rows if train is not None else 0,
        config.training.seed,
    )
    if train is not None and train.num_epochs is not None and train.num_epochs * order.rows < train.rows_per_step:
        raise DataError(
            f"train_data: {order.rows:,} rows × {train.num_epochs} epochs are fewer than the {train.rows_per_step:,} "
            "rows of one step; lower train_data.global_batch_size, or raise train_data.num_epochs"
        )
    sampler: NegativeSampler | None = None
    if train is not None and train.downsample_negatives is not None:
        sampler = NegativeSampler(
            train.downsample_negatives, config.tasks, data.global_batch_size, config.training.seed
        )
    readers = ThreadsConfig(kind="threads") if mode is JobMode.INFERENCE else data.readers
    name = "train_data" if split is None else split
    return BatchStream(
        source,
        order,
        _open_readers(readers, source, cache=data.cache, name=name, say=say),
        data.global_batch_size,
        epochs=train.num_epochs if train is not None else 1,
        keep_partial=train is None,
        sampler=sampler,
        budget=bad.budget if isinstance(bad, SkipConfig) else 0,
        say=say,
        ranks=ranks,
    )


def _open_readers(config: ReadersConfig, source: Source, *, cache: bool, name: str, say: Say) -> Readers:
    """The readers of `source`. `name`: the data set, as data servers know it."""
    match config:
        case ThreadsConfig():
            return Readers(source.loader, config.count, cache=cache)
        case ProcessesConfig():
            pool = start_processes(config.count, source.loader)
            return Readers(source.loader, config.count, pool=pool, cache=cache)
        case ServiceConfig():
            return Readers(ServiceClient(config, source, name, say), config.count, cache=cache)
        case _:
            assert_never(config)


def open_split(config: RecapConfig, assets: Assets, split: str, say: Say) -> BatchStream:
    """The stream of a validation set, read alone by one rank. Raises DataError as `open_stream`, and for its cache."""
    stream = open_stream(config, assets, JobMode.EVALUATE, split, say)
    check_caches_fit({split: stream})
    return stream


def check_caches_fit(streams: dict[str, BatchStream]) -> None:
    """Raise DataError if the caches of all streams together do not fit into free memory.

    `streams`: name of a data set → its stream. Every rank of this host caches all rows.
    """
    needed = {
        name: stream.cache_bytes * stream.ranks.local_world_size
        for name, stream in streams.items()
        if stream.cache_bytes
    }
    free = free_memory()
    if sum(needed.values()) > free:
        sizes = ", ".join(f"{name} {_gib(size)}" for name, size in needed.items())
        raise DataError(
            f"cache: the rows do not fit into free memory ({_gib(free)}): {sizes}. Set cache: false, read "
            "fewer columns or files, or give columns a smaller dtype"
        )


def _gib(size: int) -> str:
    return f"{size / 2**30:,.2f} GiB"
