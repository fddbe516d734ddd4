"""What a new run measures in a sample of its training rows and stores with the weights: quantiles of columns."""

from collections.abc import Collection, Sequence
from copy import deepcopy

import torch
from torch import Tensor

from recap.data.batch import Batch
from recap.distributed import Ranks
from recap.errors import DataError
from recap.model.inputs.featurization import Featurization, Quantile, finite
from recap.model.inputs.numbers import PiecewiseLinear
from recap.model.inputs.quantiles import quantiles_of
from recap.model.ranker import Ranker

_PATH = "inputs.featurization"


def fit_numbers(ranker: Ranker, sample: Sequence[Batch], warm: Collection[str], ranks: Ranks) -> None:
    """Set the quantiles of `featurization: {kind: quantile}` and the bins of `piecewise_linear`, if the model has them.

    Every rank must call it; rank 0 has the `sample`, for the others it is empty. `warm`: the names of the weights that
    come from another model, which stay. Raises DataError if the model needs a sample, and no rows can be read.
    """
    featurization = ranker.inputs.featurization
    quantile = featurization if isinstance(featurization, Quantile) else None
    bins = featurization.embedding if isinstance(featurization.embedding, PiecewiseLinear) else None
    if quantile is not None and f"{_PATH}.points" in warm:
        quantile = None
    if bins is not None and f"{_PATH}.embedding.edges" in warm:
        bins = None
    if quantile is None and bins is None:
        return
    if ranks.is_first:
        if not sample:
            raise DataError(
                "train_data: none of the rows that are sampled can be read, so the model has no quantiles to start "
                "from; fix the data"
            )
        values = torch.cat([batch.continuous.float() for batch in sample])
        if quantile is not None:
            quantile.set_quantiles(quantiles_of(values, quantile.points.shape[2]))
        if bins is not None:
            bins.set_edges(quantiles_of(_normalized(featurization, values), bins.edges.shape[1]))
    ranks.broadcast_([] if quantile is None else [quantile.points])
    ranks.broadcast_([] if bins is None else [bins.edges])


def _normalized(featurization: Featurization, values: Tensor) -> Tensor:
    """[N, C] → the same shape: as one batch of training, without effect on running statistics; NaN where missing."""
    training = deepcopy(featurization).cpu().train()
    observed = values.isfinite()
    with torch.no_grad():
        normal = training.normalized(finite(values), observed, None)
    return normal.where(observed, torch.nan)
