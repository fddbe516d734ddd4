"""Sampling while reading: of the rows that are read for a step, positives are kept and negatives fill up."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from recap.config.data import DownsampleNegativesConfig
from recap.data.batch import Batch


class NegativeSampler:
    """`batch_rows` of the rows that were read, with weights under which sums stay, in expectation, what they were.

    Positives (of any task that is named) and negatives are two strata. Each row of a stratum is kept with the same
    probability kept / read, and its weights are multiplied by read / kept (Horvitz & Thompson 1952), so the weighted
    sum of any function of the rows is unbiased. Positives are all kept as long as they leave 1 / `batch_multiplier` of
    the step to negatives; where they do not, they are sampled too.
    """

    def __init__(self, config: DownsampleNegativesConfig, tasks: Sequence[str], batch_rows: int, seed: int) -> None:
        """`tasks` in the order of the task axis."""
        self.columns = [tasks.index(task) for task in config.keep_positives_of]
        self.read_rows = batch_rows * config.batch_multiplier
        self.batch_rows = batch_rows
        self.least_negatives = -(-batch_rows // config.batch_multiplier)
        self.seed = seed

    def __call__(self, batch: Batch, position: int) -> Batch:
        """`batch_rows` of the `read_rows` of `batch`: a pure function of the rows, the seed and their `position`."""
        assert batch.labels is not None
        assert batch.weights is not None
        positive = (batch.labels[:, self.columns] == 1).any(dim=1).numpy()
        strata = np.flatnonzero(positive), np.flatnonzero(~positive)
        negatives = min(len(strata[1]), max(self.batch_rows - len(strata[0]), self.least_negatives))
        random = np.random.default_rng([self.seed, _PURPOSE, position])
        rows: list[np.ndarray] = []
        factors: list[np.ndarray] = []
        for stratum, kept in zip(strata, (self.batch_rows - negatives, negatives), strict=True):
            rows.append(random.choice(stratum, kept, replace=False))
            factors.append(np.full(kept, len(stratum) / max(kept, 1), np.float32))
        chosen = np.concatenate(rows)
        order = np.argsort(chosen)  # as they were read
        sampled = batch.rows(torch.from_numpy(chosen[order]))
        assert sampled.weights is not None
        return replace(sampled, weights=sampled.weights * torch.from_numpy(np.concatenate(factors)[order])[:, None])


_PURPOSE = 0x5A4D
"""Keeps these random numbers apart from those that order the rows."""
