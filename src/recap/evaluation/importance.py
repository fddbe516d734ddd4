"""Feature importance: how much worse a model ranks and predicts when the values of a feature change places.

Permutation importance (Breiman, Machine Learning 2001; Fisher, Rudin & Dominici, JMLR 2019): the rows of a sample
exchange the values of one feature, so that it says nothing any more, while its distribution stays. Features that say
the same stand in for each other, so each of them may look unimportant alone: put them into one of `features.groups`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recap.config.features import FeaturesConfig
from recap.config.recap import RecapConfig
from recap.data.batch import Batch, assemble
from recap.data.encoding.assets import Assets, discrete_columns, numeric_columns
from recap.data.encoding.value_names import value_names
from recap.evaluation.compare import gain
from recap.evaluation.evaluate import estimates_of, evaluation_mode, predictions_of
from recap.evaluation.metrics.estimate import Difference, Estimate, Estimates, difference
from recap.model.scorer import Scorer

MAX_ROWS = 20_000
"""Rows that are scored once for each feature."""
_BLOCK = 4096
"""Rows of which gradients are taken at once."""
METRICS = ("auc", "rce", "xauc", "rmse")
_MAX_VALUES = 20
"""Values of a vector or column that are listed."""


@dataclass(frozen=True)
class FeatureImportance:
    """The importance of one feature, or of a group of features."""

    name: str
    features: Sequence[str]
    losses: Mapping[str, Mapping[str, Difference]]
    """Task → metric → how much worse the model is without it, above 0 for a useful one: metrics of the data as they
    are, minus those with its values permuted (for metrics that are better lower, the other way round)."""


@dataclass(frozen=True)
class ValueImportance:
    """The values of a vector or column of several values that move the logit of a task most."""

    feature: str
    task: str
    values: Sequence[tuple[str, float]]
    """Name → mean of |∂logit/∂x · (x − x̄)| over rows, the largest first."""


def feature_groups(features: FeaturesConfig) -> dict[str, list[str]]:
    """Name → its features: the groups of the configuration, and every other feature alone."""
    grouped = {name for members in features.groups.values() for name in members}
    return dict(features.groups) | {name: [name] for name in features.inputs if name not in grouped}


def sample_of(batches: Sequence[Batch], max_rows: int = MAX_ROWS) -> Batch:
    """At most `max_rows` rows, spread evenly over `batches`, as one batch."""
    total = sum(map(len, batches))
    if total <= max_rows:
        return assemble([(batch, slice(0, len(batch))) for batch in batches])
    chosen = np.arange(max_rows, dtype=np.int64) * total // max_rows
    ends = np.cumsum([len(batch) for batch in batches])
    parts = np.split(chosen, np.searchsorted(chosen, ends[:-1]))
    starts = ends - [len(batch) for batch in batches]
    return assemble([(batch, part - start) for batch, part, start in zip(batches, parts, starts, strict=True)])


def importance(
    scorer: Scorer,
    rows: Batch,
    config: RecapConfig,
    assets: Assets,
) -> list[FeatureImportance]:
    """The importance of every feature or group on `rows`, which have labels; the largest mean loss of AUC first.

    The permutation is the same for every feature and depends on the seed of the run alone. Scores the rows once for
    each feature.
    """
    order = torch.from_numpy(np.random.default_rng(config.training.seed).permutation(len(rows)))
    plain = _estimates(scorer, rows, config)
    result = []
    for name, features in feature_groups(config.features).items():
        permuted = _estimates(scorer, permuted_rows(rows, features, order, config.features, assets), config)
        losses = {
            task: {metric: _loss(metric, plain[task][metric], permuted[task][metric]) for metric in metrics}
            for task, metrics in plain.items()
        }
        result.append(FeatureImportance(name, features, losses))
    return sorted(result, key=_mean_loss, reverse=True)


def permuted_rows(rows: Batch, names: Sequence[str], order: Tensor, features: FeaturesConfig, assets: Assets) -> Batch:
    """`rows` in which features `names` have the values of the rows in `order` [B]."""
    tensors = dict(rows.tensors())
    for column, role, positions in numeric_columns(features, assets):
        if column.name in names:
            tensors[role] = _with_columns(tensors[role], slice(positions.start, positions.stop), order)
    for name, codes in discrete_columns(features).items():
        if name in names:
            tensors["discrete"] = _with_columns(tensors["discrete"], codes, order)
    for name in tensors:
        kind, _, rest = name.partition("/")
        feature = rest if kind == "vectors" else rest.partition("/")[0]
        if kind in ("vectors", "histories") and feature in names:
            tensors[name] = tensors[name].index_select(0, order)
    return rows.with_tensors(tensors)


def value_importance(scorer: Scorer, rows: Batch, config: RecapConfig, assets: Assets) -> list[ValueImportance]:
    """The values of each vector, and of each numeric column of several values, that move the logits most.

    By the gradient at the rows times the deviation from the mean, in absolute value; a first-order measure.
    """
    names = value_names(config.features, assets)
    parts = _value_parts(config.features, assets)
    if not parts:
        return []
    with evaluation_mode(scorer):
        totals = _gradients(scorer, rows, {tensor for _, tensor, _ in parts}, len(config.tasks))
    result = []
    for feature, tensor, columns in parts:
        for index, task in enumerate(config.tasks):
            sums = totals[tensor][index][columns]
            top = sums.argsort(descending=True, stable=True)[:_MAX_VALUES].tolist()
            values = [(names[feature][position], sums[position].item() / max(len(rows), 1)) for position in top]
            result.append(ValueImportance(feature, task, values))
    return result


def _value_parts(features: FeaturesConfig, assets: Assets) -> list[tuple[str, str, slice]]:
    """Feature, tensor of the batch and columns there, of everything that has several values."""
    parts = [
        (column.name, role, slice(positions.start, positions.stop))
        for column, role, positions in numeric_columns(features, assets)
        if len(positions) > 1
    ]
    return parts + [(name, f"vectors/{name}", slice(None)) for name in features.vectors]


def _gradients(scorer: Scorer, rows: Batch, names: set[str], tasks: int) -> dict[str, Tensor]:
    """Tensor of the batch → Σ |∂logit/∂x · (x − x̄)| over rows, [T, columns] float64."""
    device = next(scorer.parameters()).device
    means = {name: rows.tensors()[name].float().nan_to_num(0.0).mean(dim=0).to(device) for name in names}
    totals = {name: torch.zeros(tasks, len(mean), dtype=torch.float64) for name, mean in means.items()}
    for block in rows.blocks(_BLOCK):
        tensors = block.to(device).tensors()
        leaves = {name: tensors[name].float().nan_to_num(0.0).requires_grad_() for name in names}
        outputs = scorer.ranker.raw_outputs(rows.with_tensors(tensors | leaves))
        for index, output in enumerate(outputs):
            gradients = torch.autograd.grad(output.sum(), list(leaves.values()), retain_graph=True, allow_unused=True)
            for (name, leaf), gradient in zip(leaves.items(), gradients, strict=True):
                if gradient is not None:
                    moved = (gradient * (leaf.detach() - means[name])).abs()
                    totals[name][index] += moved.double().sum(dim=0).cpu()
    return totals


def _estimates(scorer: Scorer, rows: Batch, config: RecapConfig) -> Estimates:
    return estimates_of(predictions_of(scorer, [rows]), rows, config, METRICS)


def _loss(metric: str, plain: Estimate, permuted: Estimate) -> Difference:
    return difference(plain, permuted) if gain(metric, 1.0) > 0 else difference(permuted, plain)


def _mean_loss(item: FeatureImportance) -> float:
    values = [losses[name].value for losses in item.losses.values() for name in ("auc", "xauc") if name in losses]
    return float(np.nan_to_num(values).mean()) if values else 0.0


def _with_columns(tensor: Tensor, columns: slice, order: Tensor) -> Tensor:
    changed = tensor.clone()
    changed[:, columns] = tensor[order][:, columns]
    return changed
