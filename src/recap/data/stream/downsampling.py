"""Down-samples negatives while reading: a step takes the positives of the rows read, then fills up with negatives."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from recap.config.data import DownsampleNegativesConfig
from recap.data.batch import Batch


class NegativeSampler:
    """Samples `batch_rows` of the rows that were read, and weighs them so that weighted sums are unbiased.

    Positives (rows with label 1 for any task of `keep_positives_of`) and negatives are sampled separately. Each row of
    a group is sampled with probability sampled / read, and its weights are multiplied by read / sampled (Horvitz &
    Thompson 1952). All positives are sampled as long as they leave 1 / `batch_multiplier` of the step to negatives.
    """

    def __init__(self, config: DownsampleNegativesConfig, tasks: Sequence[str], batch_rows: int, seed: int) -> None:
        """`tasks`: the task axis."""
        self.columns = [tasks.index(task) for task in config.keep_positives_of]
        self.read_rows = batch_rows * config.batch_multiplier
        self.batch_rows = batch_rows
        self.min_negatives = -(-batch_rows // config.batch_multiplier)
        self.seed = seed

    def __call__(self, batch: Batch, position: int) -> Batch:
        """Sample `batch_rows` of the `read_rows` rows of `batch`: a pure function of rows, seed and `position`."""
        assert batch.labels is not None
        assert batch.weights is not None
        positive = (batch.labels[:, self.columns] == 1).any(dim=1).numpy()
        positives, negatives = np.flatnonzero(positive), np.flatnonzero(~positive)
        count = min(len(negatives), max(self.batch_rows - len(positives), self.min_negatives))
        random = np.random.default_rng([self.seed, _PURPOSE, position])
        rows: list[np.ndarray] = []
        factors: list[np.ndarray] = []
        for group, sampled_rows in ((positives, self.batch_rows - count), (negatives, count)):
            rows.append(random.choice(group, sampled_rows, replace=False))
            factors.append(np.full(sampled_rows, len(group) / max(sampled_rows, 1), np.float32))
        indices = np.concatenate(rows)
        order = np.argsort(indices)  # the order in which they were read
        sampled = batch.rows(torch.from_numpy(indices[order]))
        assert sampled.weights is not None
        return replace(sampled, weights=sampled.weights * torch.from_numpy(np.concatenate(factors)[order])[:, None])


_PURPOSE = 0x5A4D
"""Part of the seed, so that these random numbers are independent of those that order the rows."""
