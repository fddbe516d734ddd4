"""Gradient-boosted trees on the same columns: a yardstick that any network should reach.

LightGBM (Ke et al., NIPS 2017), fitted on a sample of the training rows with early stopping on a part of it.
"""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from recap.config.recap import RecapConfig
from recap.data.batch import Batch
from recap.evaluation.evaluate import estimates_of, predictions_of
from recap.evaluation.metrics.estimate import Difference, difference
from recap.model.scorer import Scorer

_MIN_POSITIVES = 100
"""Positives of the training sample without which trees are not fitted."""
_MAX_TASKS = 8
"""Tasks with the most positives; fitting takes a few seconds each."""
_MAX_CODES = 255
"""Codes up to which a discrete column is a category of the trees; others are numbers."""
_PARAMETERS = {
    "objective": "binary",
    "num_leaves": 31,
    "learning_rate": 0.08,
    "min_data_in_leaf": 50,
    "feature_fraction": 0.8,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "deterministic": True,
    "force_row_wise": True,
    "seed": 0,
    "verbosity": -1,
}
_ROUNDS, _PATIENCE = 200, 15


def is_installed() -> bool:
    """Whether the extra `trees` is installed."""
    return find_spec("lightgbm") is not None


def against_trees(scorer: Scorer, training: Batch, rows: Batch, config: RecapConfig) -> Mapping[str, Difference]:
    """Task → AUC of the model minus that of trees on `rows`, paired by users; {} without LightGBM.

    For binary tasks with enough positives in `training`. Trees read all columns but histories.
    """
    assert training.labels is not None
    if not is_installed():
        return {}
    counts = training.labels.sum(dim=0)
    able = [
        index
        for index, task in enumerate(config.tasks)
        if task not in config.regressions and _MIN_POSITIVES <= counts[index] <= len(training) - _MIN_POSITIVES
    ]
    able = sorted(able, key=lambda index: -counts[index].item())[:_MAX_TASKS]
    if not able:
        return {}
    ours = estimates_of(predictions_of(scorer, [rows]), rows, config, ("auc",))
    predictions = torch.zeros(len(rows), len(config.tasks))
    inputs, categories = tree_inputs(training)
    tested, _ = tree_inputs(rows)
    for index in able:
        predictions[:, index] = torch.from_numpy(_fitted(inputs, categories, training, index, tested))
    theirs = estimates_of(predictions, rows, config, ("auc",))
    tasks = [config.tasks[index] for index in able]
    return {
        task: difference(ours[task]["auc"], theirs[task]["auc"])
        for task in tasks
        if "auc" in ours.get(task, {}) and ours[task]["auc"].buckets == theirs[task]["auc"].buckets
    }


def tree_inputs(rows: Batch) -> tuple[npt.NDArray[np.float32], list[int]]:
    """The columns as trees read them, [B, columns] float32, and the positions of categories among them."""
    parts = [rows.continuous.float(), rows.binary.float(), rows.discrete.float()]
    parts += [vector.float() for vector in rows.vectors.values()]
    start = rows.continuous.shape[1] + rows.binary.shape[1]
    few = (rows.discrete.amax(dim=0) <= _MAX_CODES).tolist() if len(rows) else []
    return torch.cat(parts, dim=1).numpy(), [start + index for index, is_few in enumerate(few) if is_few]


def _fitted(
    inputs: npt.NDArray[np.float32], categories: list[int], training: Batch, index: int, tested: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """The predictions of trees for the task in column `index`."""
    import lightgbm

    assert training.labels is not None
    assert training.weights is not None
    labels, weights = training.labels[:, index].numpy(), training.weights[:, index].numpy()
    held_out = np.arange(len(labels)) % 5 == 4
    parts: list[Any] = [
        lightgbm.Dataset(
            inputs[mask], labels[mask], weight=weights[mask], categorical_feature=categories, free_raw_data=False
        )
        for mask in (~held_out, held_out)
    ]
    booster = lightgbm.train(
        _PARAMETERS | {"num_threads": torch.get_num_threads()},
        parts[0],
        _ROUNDS,
        valid_sets=parts[1:],
        callbacks=[lightgbm.early_stopping(_PATIENCE, verbose=False)],
    )
    predicted: npt.NDArray[np.float32] = np.asarray(booster.predict(tested), np.float32).clip(0, 1)
    return predicted
