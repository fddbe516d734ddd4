"""Means and deviations of continuous values after sign(x)·log1p|x|: what `z_score_log` normalises by."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from recap.config.features import FeaturesConfig
from recap.config.recap import JobMode, RecapConfig
from recap.data.assets import Assets, column_width, load_assets
from recap.data.sources.files import open_file
from recap.data.stream import open_stream
from recap.errors import ConfigError, DataError

Floats = npt.NDArray[np.float64]


def analyse(config: RecapConfig, after_rows: Callable[[int], None] = lambda rows: None) -> pa.Table:
    """Read all rows to train on, once: a table of `name`, `mean` and `deviation`, a continuous value a row, in order.

    What is not finite counts as 0, as in the model; rows are not weighted. Partial results are merged as by Chan,
    Golub & LeVeque (1979), so that memory is constant. Raises ConfigError where nothing is continuous, DataError for
    files that cannot be read.
    """
    features = FeaturesConfig(continuous=config.features.continuous)
    if not features.continuous:
        raise ConfigError("features.continuous: is empty; there is nothing to analyse")
    assets = load_assets(features)
    names = value_names(features, assets)
    means, squares, rows = np.zeros(len(names)), np.zeros(len(names)), 0
    stream = open_stream(config.model_copy(update={"features": features}), assets, JobMode.INFERENCE)
    for batch in stream:
        values = batch.continuous.double().numpy()
        values = np.where(np.isfinite(values), values, 0.0)
        logs = np.sign(values) * np.log1p(np.abs(values))
        more, mean = len(logs), logs.mean(axis=0)
        shift = mean - means
        squares += ((logs - mean) ** 2).sum(axis=0) + shift**2 * (rows * more / (rows + more))
        means += shift * (more / (rows + more))
        rows += more
        after_rows(more)
    return pa.table({"name": names, "mean": means, "deviation": np.sqrt(squares / rows)})


def value_names(features: FeaturesConfig, assets: Assets) -> list[str]:
    """A name for each continuous value that a model reads: that of its column, with its place if it is one of many."""
    names: list[str] = []
    for column in features.continuous:
        width = column_width(column, assets)
        names += [column.name] if column.length == 1 else [f"{column.name}[{place}]" for place in range(width)]
    return names


def load_analysis(path: str, features: FeaturesConfig, assets: Assets) -> tuple[Floats, Floats]:
    """Means and deviations [C] of the continuous values of `features`. Raises DataError where they do not fit."""
    where = f"{path}: analysis of continuous values"
    advice = "write it with 'recap data analysis'"
    try:
        with open_file(path) as stream:
            table = pq.read_table(stream)
    except FileNotFoundError:
        raise DataError(f"{where}: no such file; {advice}") from None
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{where}: not readable as Parquet ({error})") from None
    expected = value_names(features, assets)
    for name in ("mean", "deviation"):
        if table.schema.names.count(name) != 1:
            raise DataError(f"{where}: has no one column {name!r}, found {', '.join(table.schema.names)}; {advice}")
    if table.num_rows != len(expected):
        raise DataError(f"{where}: holds {table.num_rows} rows, but the model reads {len(expected)} values; {advice}")
    if "name" in table.schema.names:
        for row, (found, name) in enumerate(zip(table.column("name").to_pylist(), expected, strict=True)):
            if found != name:
                raise DataError(f"{where}: row {row} is of {found!r}, but the model reads {name!r} there; {advice}")
    try:
        means, deviations = (
            table.column(name).cast(pa.float64()).to_numpy().astype(np.float64) for name in ("mean", "deviation")
        )
    except pa.ArrowException as error:
        raise DataError(f"{where}: mean and deviation must be numbers ({error})") from None
    wrong = np.flatnonzero(~(np.isfinite(means) & np.isfinite(deviations) & (deviations >= 0)))
    if len(wrong):
        row = wrong[0]
        found = f"mean {means[row]:g} and deviation {deviations[row]:g}"
        raise DataError(f"{where}: row {row} has {found}; both must be finite, and no deviation below 0")
    return means, deviations
