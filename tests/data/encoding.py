"""An encoder of a few columns, and where its rows stand."""

from typing import Any

import pyarrow as pa

from recap.config.data import DataTaskConfig
from recap.config.features import FeaturesConfig
from recap.data.encoding.encoder import RowEncoder
from recap.data.formats.location import Location


def encoder(features: dict[str, Any], tasks: dict[str, DataTaskConfig] | None = None, **kwargs: Any) -> RowEncoder:
    assets = {"word": pa.array(["a", "b"])}
    model_tasks = ["like", "share"] if tasks else None
    return RowEncoder(FeaturesConfig.model_validate(features), assets, model_tasks, tasks, **kwargs)


PLACE = Location("rows.parquet", first_row=100)
