"""`recap data analysis`: means and deviations of continuous values after sign(x)·log1p|x|, for `z_score_log`."""

from collections.abc import Callable

import numpy as np
import pyarrow as pa

from recap.config.features import FeaturesConfig
from recap.config.recap import JobMode, RecapConfig
from recap.data.encoding.analysis import value_names
from recap.data.encoding.assets import load_assets
from recap.data.open import open_stream
from recap.errors import ConfigError


def analyse(config: RecapConfig, after_rows: Callable[[int], None] = lambda rows: None) -> pa.Table:
    """Read the training rows once; return a table with the `name`, `mean` and `deviation` of each continuous value.

    Values that are not finite count as 0, as in the model; all rows have equal weight. Batches are merged by the update
    of Chan, Golub & LeVeque (1979), so memory is constant. Raises ConfigError without continuous features, and
    DataError for files that cannot be read.
    """
    features = FeaturesConfig(continuous=config.features.continuous)
    if not features.continuous:
        raise ConfigError("features.continuous: is empty; add the features to analyse")
    assets = load_assets(features)
    names = value_names(features, assets)
    means, squares, rows = np.zeros(len(names)), np.zeros(len(names)), 0
    stream = open_stream(config.model_copy(update={"features": features}), assets, JobMode.INFERENCE)
    for batch in stream:
        values = batch.continuous.double().numpy()
        values = np.where(np.isfinite(values), values, 0.0)
        logs = np.sign(values) * np.log1p(np.abs(values))
        count, mean = len(logs), logs.mean(axis=0)
        shift = mean - means
        squares += ((logs - mean) ** 2).sum(axis=0) + shift**2 * (rows * count / (rows + count))
        means += shift * (count / (rows + count))
        rows += count
        after_rows(count)
    return pa.table({"name": names, "mean": means, "deviation": np.sqrt(squares / rows)})
