"""A sample of lists for tests, of a model with four tasks."""

import numpy as np

from recap.data.encoding.hashing import hash_ids
from recap.evaluation.metrics.whole_lists import ListedRows
from recap.evaluation.weights.lists import ListSample

TASKS = ["like", "<script>alert(1)</script>", "report", "watch_time"]
WEIGHTS = {"like": 1.0, TASKS[1]: 4.0, "report": -15.0}


def sample_of(seed: int = 0, lists: int = 60, weights: dict[str, float] = WEIGHTS) -> ListSample:
    """Lists of 3 to 40 rows, in which likes and reports go together."""
    random = np.random.default_rng(seed)
    sizes = random.integers(3, 41, lists)
    rows = int(sizes.sum())
    mood = random.normal(size=rows)
    logits = [mood - 1, random.normal(size=rows) - 2, 0.7 * mood + random.normal(size=rows) - 6]
    predictions = np.stack([*(1 / (1 + np.exp(-logit)) for logit in logits), 30 * random.normal(size=rows)], axis=1)
    labels = np.c_[random.random((rows, 3)) < predictions[:, :3], predictions[:, 3] + random.normal(size=rows)]
    draws = np.repeat(hash_ids(np.arange(lists)), sizes)
    values = np.concatenate([predictions, labels], axis=1).astype(np.float32)
    return ListSample.of(ListedRows(draws, values), TASKS, weights, ["watch_time"], share=0.5)
