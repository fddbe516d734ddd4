"""The scale of numeric columns: what `recap data analysis` measures, from a table."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from recap.data.encoding.kinds import decoded


def scale_of(table: pa.Table, names: Sequence[str]) -> pa.Table:
    """A table with the `name`, `mean` and `deviation` of numeric columns after sign(x)·log1p|x|, for `z_score_log`.

    Only finite values count, as in `recap data analysis`.
    """
    means, deviations = [], []
    for name in names:
        numbers = decoded(table.column(name).combine_chunks()).drop_null().cast(pa.float64(), safe=False)
        values = numbers.to_numpy(zero_copy_only=False)
        values = values[np.isfinite(values)]
        logs = np.sign(values) * np.log1p(np.abs(values))
        means.append(float(logs.mean()) if len(logs) else 0.0)
        deviations.append(float(logs.std()) if len(logs) else 0.0)
    return pa.table({"name": pa.array(names, pa.string()), "mean": means, "deviation": deviations})
