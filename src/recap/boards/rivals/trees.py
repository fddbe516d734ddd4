"""LightGBM as a rival: settings are tuned with a stated budget on the last training rows; then all rows are fitted.

The settings are drawn at random (Bergstra & Bengio, JMLR 2012); the number of trees is the one at which the metric on
the held out rows was best.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from recap.boards.plan import Job
from recap.boards.record import PREDICTIONS, Record
from recap.boards.rivals.predictions import Predictions, write_predictions
from recap.config.evaluation.board import LightgbmConfig
from recap.config.evaluation.strata import PeriodStratum
from recap.config.file.load import stored_values
from recap.config.recap import JobMode, RecapConfig
from recap.data.batch import Batch
from recap.data.encoding.assets import discrete_columns, load_assets
from recap.data.open import open_stream
from recap.errors import DataError, InputError, RunError
from recap.evaluation.checks.trees import tree_inputs
from recap.reporting import Say
from recap.storage import replace_text
from recap.text import duration, plural

_PATIENCE = 50
"""Trees without an improvement after which a trial ends."""
_FIRST = {
    "num_leaves": 31,
    "learning_rate": 0.08,
    "min_data_in_leaf": 50,
    "feature_fraction": 0.8,
    "bagging_fraction": 0.8,
    "lambda_l2": 0.0,
    "cat_smooth": 10.0,
}
"""The settings of the first trial: those of the trees of `recap report`, and LightGBM's defaults."""
_FIXED = {
    "bagging_freq": 1,
    "deterministic": True,
    "force_row_wise": True,
    "feature_pre_filter": False,
    "verbosity": -1,
}
_TUNED_BY = {"auc": "auc", "pr_auc": "average_precision"}
"""The first metric of a board → that of LightGBM by which settings of binary tasks are chosen; others: the loss."""
_HIGHER_IS_BETTER = frozenset(_TUNED_BY.values())


@dataclass(frozen=True)
class _Rows:
    """Rows as LightGBM reads them."""

    inputs: npt.NDArray[np.float32]  # [N, columns]
    labels: npt.NDArray[np.float32]  # [N], or [N, T]
    weights: npt.NDArray[np.float32]  # as the labels
    categories: Sequence[int] = ()
    """The positions of the columns that hold categories."""

    def at(self, index: Any) -> "_Rows":
        """Some of the rows."""
        return replace(self, inputs=self.inputs[index], labels=self.labels[index], weights=self.weights[index])

    def of_task(self, column: int) -> "_Rows":
        """Those with a weight in the task in `column`, with its labels."""
        weights = self.weights[:, column]
        return replace(self, labels=self.labels[:, column], weights=weights).at(weights > 0)

    def dataset(self, reference: Any = None) -> Any:
        """As a data set of LightGBM. `reference`: that of the rows to fit, if these are held out."""
        import lightgbm

        return lightgbm.Dataset(
            self.inputs,
            self.labels,
            reference,
            self.weights,
            categorical_feature=list(self.categories),
            params=dict(_FIXED),
        )


@dataclass(frozen=True)
class _Setting:
    """The chosen setting of a task."""

    parameters: Mapping[str, float]
    rounds: int
    """The number of trees."""
    value: float
    """The metric of the held out rows."""
    seconds: float
    """That all trials took."""


def fit_trees(job: Job, rival: LightgbmConfig, split: str, tasks: Sequence[str], metric: str, say: Say) -> Record:
    """Tune and fit trees for each of `tasks`, and write their predictions for `split`.

    `metric`: what settings are chosen by. Raises InputError without LightGBM, RunError for a task with one label only.
    """
    if find_spec("lightgbm") is None:
        raise InputError("a rival of kind lightgbm needs LightGBM: pip install 'recap-ranker[trees]'")
    config = _with_columns(job.config, rival.columns)
    training = _training_rows(config, rival, say)
    tested, _ = _read(config, rival, split, say)
    settings = _Settings(job, rival, metric)
    predictions: Predictions = np.empty((len(tested.labels), len(tasks)), np.float32)
    seconds = 0.0
    for index, task in enumerate(tasks):
        is_regression = task in config.regressions
        objective = {"objective": "regression" if is_regression else "binary"}
        objective["metric"] = "l2" if is_regression else _TUNED_BY.get(metric, "binary_logloss")
        rows = training.of_task(config.tasks.index(task))
        if not is_regression and len(np.unique(rows.labels)) < 2:
            raise RunError(f"{task}: the training rows have one label only, from which trees learn nothing")
        if task not in settings.by_task:
            settings.add(task, _tuned(rows, rival, objective, job.config.training.seed))
            best = settings.by_task[task]
            say(
                f"{task}: {plural(rival.trials, 'trial')} in {duration(best.seconds)}; the best has "
                f"{plural(best.rounds, 'tree')} and {objective['metric']} {best.value:.4f}"
            )
        setting, started = settings.by_task[task], time.monotonic()
        booster = _fitted({**setting.parameters, **objective}, rows, setting.rounds, job.config.training.seed)
        values = np.asarray(booster.predict(tested.inputs), np.float32)
        predictions[:, index] = values if is_regression else values.clip(0, 1)
        seconds += time.monotonic() - started
    write_predictions(job.folder, tasks, predictions)
    return Record(PREDICTIONS, seconds=seconds, note=settings.note())


class _Settings:
    """The settings of a row by task, kept in a file, so that all seeds use the same and a killed board goes on."""

    def __init__(self, job: Job, rival: LightgbmConfig, metric: str) -> None:
        self._file = job.record.with_name(f"{job.record.stem.rpartition('-')[0]}.tuned.json")
        values = stored_values(job.config)  # in which secrets are references
        asked = {"rival": rival.model_dump(mode="json"), "metric": metric}
        asked |= {name: values[name] for name in ("features", "train_data")}
        self._asked, self._trials = json.loads(json.dumps(asked)), rival.trials
        self.by_task: dict[str, _Setting] = {}
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):  # none, or a damaged file: tune again
            content = json.loads(self._file.read_text(encoding="utf-8"))
            if content["asked"] == self._asked:
                self.by_task = {task: _Setting(**setting) for task, setting in content["tasks"].items()}

    def add(self, task: str, setting: _Setting) -> None:
        """Keep the setting of a task. Raises RunError."""
        self.by_task[task] = setting
        content = {"asked": self._asked, "tasks": {name: vars(item) for name, item in self.by_task.items()}}
        replace_text(self._file, json.dumps(content, indent=1) + "\n")

    def note(self) -> str:
        """The budget, for readers of the board."""
        spent = duration(sum(setting.seconds for setting in self.by_task.values()))
        return f"tuned once for all seeds, with {plural(self._trials, 'trial')} for each task, {spent} in all"


def _tuned(rows: _Rows, rival: LightgbmConfig, objective: Mapping[str, str], seed: int) -> _Setting:
    """The best of the drawn settings, by the last of `rows`."""
    started, (first, last) = time.monotonic(), _parts(rows, rival.tuning_share)
    best: _Setting | None = None
    for parameters in _drawn(rival.trials, seed):
        booster = _fitted({**parameters, **objective}, first, rival.max_rounds, seed, last)
        value = float(booster.best_score["held out"][objective["metric"]])
        sign = 1 if objective["metric"] in _HIGHER_IS_BETTER else -1
        if best is None or sign * value > sign * best.value:
            rounds = booster.best_iteration or booster.num_trees()
            best = _Setting(parameters, max(1, rounds), value, 0.0)
    assert best is not None
    return replace(best, seconds=time.monotonic() - started)


def _parts(rows: _Rows, share: float) -> tuple[_Rows, _Rows]:
    """The rows to fit, and the last `share` of them to choose by: of a label that is too rare for that, spread rows."""
    fitted = max(1, round(len(rows.labels) * (1 - share)))
    first, last = rows.at(slice(None, fitted)), rows.at(slice(fitted, None))
    if all(len(np.unique(part.labels)) > 1 for part in (first, last)):
        return first, last
    is_last = np.zeros(len(rows.labels), bool)
    is_last[np.argsort(rows.labels, kind="stable")[:: -max(2, round(1 / share))]] = True  # from the largest label on
    return rows.at(~is_last), rows.at(is_last)


def _drawn(trials: int, seed: int) -> Iterator[dict[str, float]]:
    """The settings to try; the first is always the same."""
    random = np.random.default_rng(seed)

    def log(low: float, high: float) -> float:
        return float(np.exp(random.uniform(np.log(low), np.log(high))))

    yield dict(_FIRST)
    for _ in range(trials - 1):
        yield {
            "num_leaves": round(log(8, 256)),
            "learning_rate": log(0.03, 0.2),
            "min_data_in_leaf": round(log(10, 1000)),
            "feature_fraction": float(random.uniform(0.3, 1)),
            "bagging_fraction": float(random.uniform(0.5, 1)),
            "lambda_l2": log(1e-3, 100),
            "cat_smooth": log(1, 100),
        }


def _fitted(parameters: Mapping[str, Any], rows: _Rows, rounds: int, seed: int, held_out: _Rows | None = None) -> Any:
    """Trees fitted to `rows`: at most `rounds`, or fewer where they do not help on `held_out`."""
    import lightgbm

    training = rows.dataset()
    stops: dict[str, Any] = {}
    if held_out is not None:
        stops = {
            "valid_sets": [held_out.dataset(training)],
            "valid_names": ["held out"],
            "callbacks": [lightgbm.early_stopping(_PATIENCE, verbose=False)],
        }
    settings = {**_FIXED, **parameters, "seed": seed, "num_threads": torch.get_num_threads()}
    return lightgbm.train(settings, training, rounds, **stops)


def _with_columns(config: RecapConfig, names: Sequence[str] | None) -> RecapConfig:
    """`config` with the features `names` and without histories; other discrete features are read by `_read`."""
    features, update = config.features, dict[str, Any](histories={})
    if names is not None:
        for role in ("continuous", "binary"):
            update[role] = [column for column in getattr(features, role) if column.name in names]
        update["vectors"] = {name: vector for name, vector in features.vectors.items() if name in names}
    return config.model_copy(update={"features": features.model_copy(update=update)})


def _training_rows(config: RecapConfig, rival: LightgbmConfig, say: Say) -> _Rows:
    """The training rows, the latest last."""
    if config.features.timestamp is not None:
        try:
            rows, times = _read(config, rival, None, say, by_time=True)
            return rows.at(np.argsort(times, kind="stable"))
        except DataError as error:
            say(f"tuning on the rows at the end of the files, because they have no times: {error}")
    return _read(config, rival, None, say)[0]


def _read(
    config: RecapConfig, rival: LightgbmConfig, split: str | None, say: Say, *, by_time: bool = False
) -> tuple[_Rows, npt.NDArray[np.int64]]:
    """The rows of `split`, or of the training data, as an evaluation reads them, and their times with `by_time`."""
    strata = (
        {"all": PeriodStratum(since="1970-01-01")} if by_time else {}
    )  # times are read for a stratum that needs them
    config = config.model_copy(update={"strata": strata})
    unused = [
        columns
        for name, columns in discrete_columns(config.features).items()
        if rival.columns is not None and name not in rival.columns
    ]
    parts: list[tuple[npt.NDArray[Any], ...]] = []
    categories: set[int] | None = None
    for batch in open_stream(config, load_assets(config.features), JobMode.EVALUATE, split, say):
        assert batch.labels is not None
        assert batch.weights is not None
        inputs, few = tree_inputs(_without(batch, unused))
        categories = {*few} if categories is None else categories & {*few}
        times = torch.zeros(0, dtype=torch.int64) if batch.times is None else batch.times
        parts.append((inputs, *(column.numpy().copy() for column in (batch.labels, batch.weights, times))))
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    return _Rows(columns[0], columns[1], columns[2], sorted(categories or ())), columns[3]


def _without(batch: Batch, unused: Sequence[slice]) -> Batch:
    """`batch` with zeros in these columns of discrete features, from which trees learn nothing."""
    if not unused:
        return batch
    discrete = batch.discrete.clone()
    for columns in unused:
        discrete[:, columns] = 0
    return replace(batch, discrete=discrete)
