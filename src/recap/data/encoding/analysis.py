"""Reads the analysis that `z_score_log` needs: the mean and deviation of each continuous value."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recap.config.features import FeaturesConfig
from recap.data.encoding.assets import Assets, column_width, read_asset
from recap.errors import DataError

Floats = npt.NDArray[np.float64]


def value_names(features: FeaturesConfig, assets: Assets) -> list[str]:
    """The names of the continuous values that a model reads: `column`, or `column[0]`, … for a list column."""
    names: list[str] = []
    for column in features.continuous:
        width = column_width(column, assets)
        names += [column.name] if column.length == 1 else [f"{column.name}[{index}]" for index in range(width)]
    return names


def load_analysis(path: str, features: FeaturesConfig, assets: Assets) -> tuple[Floats, Floats]:
    """Means and deviations [C] of the continuous values of `features`, matched by name if the file has names.

    Raises DataError if the file does not fit.
    """
    where = f"{path}: analysis of continuous values"
    advice = "write it with 'recap data analysis'"
    table = read_asset(path, where, advice)
    expected = value_names(features, assets)
    for name in ("mean", "deviation"):
        if table.schema.names.count(name) != 1:
            raise DataError(
                f"{where}: must have exactly one column {name!r}, found {', '.join(table.schema.names)}; {advice}"
            )
    if "name" in table.schema.names:
        stored = table.column("name").to_pylist()
        lacking = [name for name in expected if stored.count(name) != 1]
        if lacking:
            raise DataError(f"{where}: must have exactly one row for {lacking[0]!r}, a value of the model; {advice}")
        table = table.take([stored.index(name) for name in expected])
    elif table.num_rows != len(expected):
        raise DataError(f"{where}: has {table.num_rows} rows, but the model reads {len(expected)} values; {advice}")
    try:
        means, deviations = (
            table.column(name).cast(pa.float64()).to_numpy().astype(np.float64) for name in ("mean", "deviation")
        )
    except pa.ArrowException as error:
        raise DataError(f"{where}: mean and deviation must be numbers ({error})") from None
    wrong = np.flatnonzero(~(np.isfinite(means) & np.isfinite(deviations) & (deviations >= 0)))
    if len(wrong):
        row = wrong[0]
        numbers = f"mean {means[row]:g} and deviation {deviations[row]:g}"
        raise DataError(
            f"{where}: row {row} has {numbers}; both must be finite, and the deviation at least 0; {advice}"
        )
    return means, deviations
