"""Drift: how features, predictions and labels of some rows are distributed, against rows that a model was trained on.

Both are samples of a data set, so the cost does not grow with its size.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from recap.config.recap import JobMode, RecapConfig
from recap.data.batch import Batch
from recap.data.encoding.assets import Assets
from recap.data.open import open_source
from recap.data.sample import sampled_batches
from recap.distributed import ONE_RANK, Ranks
from recap.errors import DataError
from recap.evaluation.evaluate import predictions_of
from recap.evaluation.observers.bins import MISSING, UNKNOWN, Bins, range_ends
from recap.evaluation.plain import from_plain
from recap.model.scorer import Scorer

SOME, LARGE = 0.1, 0.25
"""The usual reading of a PSI: little below the first, a large shift above the second (Siddiqi, Credit Risk Scorecards,
2006)."""
Pair = tuple[float, float]
"""A value of the reference, and of the rows compared with it."""
Counts = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Share:
    """The share of the rows with some values of a column."""

    values: str
    reference: float
    rows: float


@dataclass(frozen=True)
class FeatureDrift:
    """The shift of one column."""

    feature: str
    psi: float
    """Population stability index, Σ (b − a) · ln(b / a) over the shares of the bins; 0 for equal ones. The counts of
    each bin are raised by ½, so that it is finite."""
    missing: Pair
    """The shares of rows whose value is missing or not finite, or unknown to a discrete column."""
    bins: Sequence[Share]


@dataclass(frozen=True)
class VectorDrift:
    """The shift of a pretrained vector."""

    feature: str
    cosine: float
    """Cosine similarity of the mean vectors; NaN where one is 0."""
    norm: Pair
    """Mean length of the vectors."""


@dataclass(frozen=True)
class TaskDrift:
    """The shift of a task."""

    task: str
    psi: float
    """Of the predictions, in ten ranges of the reference."""
    mean_prediction: Pair
    """Σ wp / Σ w, calibrated; NaN without weights."""
    mean_label: Pair
    """Σ wy / Σ w; NaN without labels."""


@dataclass(frozen=True)
class Drift:
    """The shift of everything that a model reads and predicts, largest first."""

    rows: tuple[int, int]
    """Sampled rows of the reference, and of the data compared with it."""
    features: Sequence[FeatureDrift]
    vectors: Sequence[VectorDrift]
    tasks: Sequence[TaskDrift]
    """In the order of tasks."""

    def to_json(self) -> dict[str, Any]:
        """Plain values for `evaluation.json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`. Raises KeyError or TypeError for invalid content."""
        features = [
            FeatureDrift(**from_plain({**item, "bins": ()}) | {"bins": tuple(Share(**share) for share in item["bins"])})
            for item in content["features"]
        ]
        vectors = [VectorDrift(**from_plain(item)) for item in content["vectors"]]
        tasks = [TaskDrift(**from_plain(item)) for item in content["tasks"]]
        reference, rows = content["rows"]
        return cls((reference, rows), tuple(features), tuple(vectors), tuple(tasks))


def read_sample(config: RecapConfig, assets: Assets, split: str | None = None) -> list[Batch]:
    """At most 50,000 rows of validation set `split`, by default of `train_data`, spread over its files.

    Labels and weights are those of an evaluation, of the population. Raises DataError if there are none.
    """
    batches = sampled_batches(open_source(config, assets, JobMode.EVALUATE, split))
    if not batches:
        name = "train_data" if split is None else f"validation_data.{split}"
        raise DataError(f"{name}: no part of the files is readable; fix the data")
    return batches


def drift(
    config: RecapConfig,
    assets: Assets,
    scorer: Scorer,
    reference: Sequence[Batch],
    rows: Sequence[Batch],
    *,
    ranks: Ranks = ONE_RANK,
) -> Drift:
    """How `rows` differ from `reference`, as `read_sample` gives both; the `ranks` share the work of the model."""
    bins = Bins.of(config.features, assets, reference)
    before, after = _profile(bins, scorer, reference, ranks), _profile(bins, scorer, rows, ranks)
    features = sorted(_features(bins, before.bins, after.bins), key=lambda item: -item.psi)
    vectors = [
        VectorDrift(name, _cosine(mean, after.means[name]), (before.norms[name], after.norms[name]))
        for name, mean in before.means.items()
    ]
    vectors.sort(key=lambda item: np.nan_to_num(item.cosine, nan=-1.0))
    tasks = [_task(task, column, before, after) for column, task in enumerate(config.tasks)]
    return Drift((before.rows, after.rows), tuple(features), tuple(vectors), tuple(tasks))


def psi(reference: npt.NDArray[Any], rows: npt.NDArray[Any]) -> float:
    """The population stability index of two counts [bins], each raised by ½; NaN without bins."""
    if not len(reference):
        return float("nan")
    before, after = reference + 0.5, rows + 0.5
    before, after = before / before.sum(), after / after.sum()
    return float(((after - before) * np.log(after / before)).sum())


@dataclass(frozen=True)
class _Profile:
    """What is compared of some rows."""

    rows: int
    bins: Counts
    means: Mapping[str, Counts]
    """Vector → its mean [E]."""
    norms: Mapping[str, float]
    predictions: Tensor
    """[N, T], as `labels` and `weights`."""
    labels: Tensor
    weights: Tensor


def _profile(bins: Bins, scorer: Scorer, batches: Sequence[Batch], ranks: Ranks) -> _Profile:
    counts = np.zeros(len(bins))
    for batch in batches:
        counts += np.bincount(bins.index(batch).reshape(-1).numpy(), minlength=len(bins))
    vectors = {name: torch.cat([batch.vectors[name].double() for batch in batches]) for name in batches[0].vectors}
    return _Profile(
        sum(map(len, batches)),
        counts,
        {name: vector.mean(dim=0).numpy() for name, vector in vectors.items()},
        {name: vector.norm(dim=1).mean().item() for name, vector in vectors.items()},
        predictions_of(scorer, batches, ranks).double(),
        torch.cat([batch.labels for batch in batches if batch.labels is not None]).double(),
        torch.cat([batch.weights for batch in batches if batch.weights is not None]).double(),
    )


def _features(bins: Bins, before: Counts, after: Counts) -> Iterator[FeatureDrift]:
    for column, start in zip(bins.columns, bins.starts, strict=True):
        positions = slice(start, start + len(column.bins))
        one, other = before[positions], after[positions]
        shares = [
            Share(bin_.text, share, now)
            for bin_, share, now in zip(column.bins, _shares(one), _shares(other), strict=True)
            if share or now
        ]
        blank = next(index for index, bin_ in enumerate(column.bins) if bin_.text in (MISSING, UNKNOWN))
        seen = (one > 0) | (other > 0)
        missing = _shares(one)[blank], _shares(other)[blank]
        yield FeatureDrift(column.feature, psi(one[seen], other[seen]), missing, tuple(shares))


def _shares(counts: Counts) -> list[float]:
    shares: list[float] = (counts / max(counts.sum(), 1)).tolist()
    return shares


def _cosine(one: Counts, other: Counts) -> float:
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / lengths if lengths else float("nan")


def _task(task: str, column: int, before: _Profile, after: _Profile) -> TaskDrift:
    ends = np.array(range_ends(before.predictions[:, column].numpy()))
    one, other = (
        np.bincount(np.searchsorted(ends, rows.predictions[:, column].numpy(), side="right"), minlength=len(ends) + 1)
        for rows in (before, after)
    )
    prediction, label = (
        (_mean(getattr(before, name), before, column), _mean(getattr(after, name), after, column))
        for name in ("predictions", "labels")
    )
    return TaskDrift(task, psi(one, other), prediction, label)


def _mean(values: Tensor, profile: _Profile, column: int) -> float:
    weights = profile.weights[:, column]
    return (torch.dot(values[:, column], weights) / weights.sum()).item()
