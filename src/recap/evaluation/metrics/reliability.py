"""How well probabilities match rates: bins of equal weight by prediction, and the expected calibration error."""

import torch
from torch import Tensor


def equal_mass_bins(weights: Tensor, bins: int) -> Tensor:
    """[*leading, N] weights, predictions ascending → [*leading, N] int64, the bin of each entry, from 0.

    Entry i lies in bin ⌊bins · (the weight before it + half its own) / total⌋. An entry, the rows with one prediction
    or those of a bin of a histogram, is never divided, so bins may be empty.
    """
    middle = weights.cumsum(-1) - weights / 2
    share = middle / weights.sum(-1, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)
    return (share * bins).long().clamp(0, bins - 1)


def binned(values: Tensor, numbers: Tensor, bins: int) -> Tensor:
    """[*leading, N] → [*leading, bins], the sum of the entries of each bin; `numbers` as of `equal_mass_bins`."""
    return values.new_zeros((*values.shape[:-1], bins)).scatter_add_(-1, numbers, values)


def expected_calibration_error(weights: Tensor, predictions: Tensor, positives: Tensor, bins: int) -> Tensor:
    """Σ over bins of equal weight of abs(Σ wp − Σ wy) / Σ w, in [0, 1]; NaN without rows.

    Arguments: Σ w, Σ wp and Σ wy of entries [*leading, N], predictions ascending. Few rows in a bin differ from its
    rate by chance, so that even perfect probabilities have an error above 0, about √(bins · p(1 − p) / rows).
    """
    gaps = binned(predictions - positives, equal_mass_bins(weights, bins), bins)
    return gaps.abs().sum(-1) / weights.sum(-1)
