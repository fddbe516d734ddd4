"""The layers that all networks are made of."""

from recap.model.layers.dropout import Dropout, drop_rates
from recap.model.layers.ensemble import EnsembleOutput
from recap.model.layers.linear import (
    ExactLinear,
    Linear,
    affine,
    initialize,
    initializing_with,
    linear,
    product,
    rows_in_lanes,
)
from recap.model.layers.mlp import EnsembleMlp, Mlp, SeparateMlps, StarMlp
from recap.model.layers.norms import (
    BatchRenorm,
    PartitionedNorm,
    batch_norm,
    layer_norm,
    row_norms,
    running_statistics,
)
from recap.model.layers.star import StarLinear

__all__ = [
    "BatchRenorm",
    "Dropout",
    "EnsembleMlp",
    "EnsembleOutput",
    "ExactLinear",
    "Linear",
    "Mlp",
    "PartitionedNorm",
    "SeparateMlps",
    "StarLinear",
    "StarMlp",
    "affine",
    "batch_norm",
    "drop_rates",
    "initialize",
    "initializing_with",
    "layer_norm",
    "linear",
    "product",
    "row_norms",
    "rows_in_lanes",
    "running_statistics",
]
