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

    Only finite values count: as zeros among years, a few missing ones would widen the deviation so far that all years
    look alike. All rows have equal weight. Batches are merged by the update of Chan, Golub & LeVeque (1979), so memory
    is constant. Raises ConfigError without continuous features, and
    DataError for files that cannot be read.
    """
    features = FeaturesConfig(continuous=config.features.continuous)
    if not features.continuous:
        raise ConfigError("features.continuous: is empty; add the features to analyse")
    assets = load_assets(features)
    names = value_names(features, assets)
    means, squares, counts = np.zeros((3, len(names)))
    stream = open_stream(config.model_copy(update={"features": features}), assets, JobMode.INFERENCE)
    for batch in stream:
        values = batch.continuous.double().numpy()
        present = np.isfinite(values)
        logs = np.where(present, np.sign(values) * np.log1p(np.abs(values)), 0.0)
        added = present.sum(axis=0)
        total = np.maximum(counts + added, 1)
        mean = logs.sum(axis=0) / np.maximum(added, 1)
        shift = mean - means
        squares += (present * (logs - mean) ** 2).sum(axis=0) + shift**2 * (counts * added / total)
        means += shift * (added / total)
        counts += added
        after_rows(len(values))
    return pa.table({"name": names, "mean": means, "deviation": np.sqrt(squares / np.maximum(counts, 1))})
