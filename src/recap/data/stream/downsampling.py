"""Sampling while reading: a step keeps the positives of the rows it reads, and fills up with negatives."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from recap.config.data import DownsampleNegativesConfig
from recap.data.batch import Batch


class NegativeSampler:
    """Samples `batch_rows` of the rows that were read, and weighs them so that weighted sums are unbiased.

    Positives (of any of the tasks `keep_positives_of`) and negatives are two strata. Each row of a stratum is sampled
    with the same probability sampled / read, and its weights are multiplied by read / sampled (Horvitz & Thompson
    1952). All positives are sampled as long as they leave 1 / `batch_multiplier` of the step to negatives.
    """

    def __init__(self, config: DownsampleNegativesConfig, tasks: Sequence[str], batch_rows: int, seed: int) -> None:
        """`tasks`: the task axis."""
        self.columns = [tasks.index(task) for task in config.keep_positives_of]
        self.read_rows = batch_rows * config.batch_multiplier
        self.batch_rows = batch_rows
        self.min_negatives = -(-batch_rows // config.batch_multiplier)
        self.seed = seed

    def __call__(self, batch: Batch, position: int) -> Batch:
        """`batch_rows` of the `read_rows` rows of `batch`: a pure function of rows, seed and stream `position`."""
        assert batch.labels is not None
        assert batch.weights is not None
        positive = (batch.labels[:, self.columns] == 1).any(dim=1).numpy()
        strata = np.flatnonzero(positive), np.flatnonzero(~positive)
        negatives = min(len(strata[1]), max(self.batch_rows - len(strata[0]), self.min_negatives))
        random = np.random.default_rng([self.seed, _PURPOSE, position])
        rows: list[np.ndarray] = []
        factors: list[np.ndarray] = []
        for stratum, count in zip(strata, (self.batch_rows - negatives, negatives), strict=True):
            rows.append(random.choice(stratum, count, replace=False))
            factors.append(np.full(count, len(stratum) / max(count, 1), np.float32))
        drawn = np.concatenate(rows)
        order = np.argsort(drawn)  # the order in which they were read
        sampled = batch.rows(torch.from_numpy(drawn[order]))
        assert sampled.weights is not None
        return replace(sampled, weights=sampled.weights * torch.from_numpy(np.concatenate(factors)[order])[:, None])


_PURPOSE = 0x5A4D
"""Separates these random numbers from those that order the rows."""
