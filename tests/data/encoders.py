"""An encoder of a few columns, and the location of its rows."""

from typing import Any

import pyarrow as pa

from recap.config.data import DataTaskConfig
from recap.config.features import FeaturesConfig
from recap.data.encoding.encoder import RowEncoder
from recap.data.encoding.labels import LabelEncoder
from recap.data.formats.location import Location

LOCATION = Location("rows.parquet", first_row=100)
TASKS = {"like": DataTaskConfig(), "share": DataTaskConfig()}


def make_encoder(features: dict[str, Any], tasks: dict[str, DataTaskConfig] | None = None, **labels: Any) -> RowEncoder:
    """`tasks`: the tasks, of like and share, with a label; default: no labels. `labels`: fields of `LabelEncoder`."""
    config = FeaturesConfig.model_validate(features)
    encoder = LabelEncoder(["like", "share"], tasks, user=config.user, **labels) if tasks is not None else None
    return RowEncoder(config, {"word": pa.array(["a", "b"])}, encoder)
