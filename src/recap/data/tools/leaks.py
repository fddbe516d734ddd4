"""Leaks: columns that give a label away, constant columns, and labels that are equal.

A column that alone ranks the rows of a label almost perfectly was most likely written after the engagement.
"""

from collections.abc import Collection, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

LEAK = 0.99
"""A column with at least this AUC is reported as a leak."""
NAMED_LEAK = 0.8
"""The same, for a column that is named like an outcome."""
MIN_ROWS = 10
"""Rows that a label needs of each class. With fewer, an AUC near 1 is often chance."""

Labels = Mapping[str, npt.NDArray[np.floating[Any]]]
"""Label → its values [N]: 0, 1, or NaN where missing."""


class ColumnAuc(NamedTuple):
    """How well one column alone ranks the rows by one label."""

    column: str
    label: str
    auc: float
    """From 0.5, in the better direction."""


def column_aucs(table: pa.Table, labels: Labels) -> list[ColumnAuc]:
    """The AUC of each column of `table` alone against each label, columns first, in their order.

    Numbers, booleans and times are ranked by value, and like strings by the rate of the label among the rows with the
    same value, measured on the other half of the rows, so that unique ids rank no better than chance; the
    larger AUC counts. A missing value is a value of its own, and a list counts by its length. Left out: a column that
    has the name of the label, columns of other types, and labels that are not 0 or 1 or have fewer than `MIN_ROWS` rows
    of a class.
    """
    usable = {name: values for name, values in labels.items() if _has_both_classes(values)}
    half = np.random.default_rng(0).random(table.num_rows) < 0.5  # not every other row: files may alternate classes
    result: list[ColumnAuc] = []
    for name in table.column_names:
        column = _distinct(table.column(name))
        if column is not None:
            for label, values in usable.items():
                if label != name:
                    result.append(ColumnAuc(name, label, _best_auc(*column, values, half)))
    return result


def leaks(aucs: Sequence[ColumnAuc], outcomes: Collection[str] = ()) -> list[ColumnAuc]:
    """Those with an AUC of at least `LEAK`, or `NAMED_LEAK` for the columns in `outcomes`, highest first."""
    high = (auc for auc in aucs if auc.auc >= (NAMED_LEAK if auc.column in outcomes else LEAK))
    return sorted(high, key=lambda auc: -auc.auc)


def constant_columns(table: pa.Table) -> list[str]:
    """The columns that hold one value, or only nulls, in every row; none for fewer than two rows."""
    if table.num_rows < 2:
        return []
    columns = {name: _distinct(table.column(name)) for name in table.column_names}
    return [name for name, column in columns.items() if column is not None and _is_constant(column[0])]


def equal_labels(labels: Labels) -> list[tuple[str, str]]:
    """The pairs of labels that are equal wherever both are known, and both have two classes."""
    usable = {name: values for name, values in labels.items() if _has_both_classes(values)}
    pairs: list[tuple[str, str]] = []
    for (one, first), (other, second) in combinations(usable.items(), 2):
        known = ~(np.isnan(first) | np.isnan(second))
        if _has_both_classes(first[known]) and np.array_equal(first[known], second[known]):
            pairs.append((one, other))
    return pairs


def label_values(column: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    """A column of numbers or booleans as a label; NaN where null."""
    values = column.cast(pa.int8()) if pa.types.is_boolean(column.type) else column
    numbers: npt.NDArray[np.float64] = values.cast(pa.float64(), safe=False).to_numpy()
    return numbers


def _has_both_classes(values: npt.NDArray[np.floating[Any]]) -> bool:
    positives, negatives = int((values == 1).sum()), int((values == 0).sum())
    return min(positives, negatives) >= MIN_ROWS and positives + negatives == int((~np.isnan(values)).sum())


def _is_constant(codes: npt.NDArray[np.int64]) -> bool:
    return bool((codes == codes[0]).all())


def _distinct(column: pa.ChunkedArray) -> tuple[npt.NDArray[np.int64], bool] | None:
    """The rank of each row's value among the distinct values, 0 for missing, [N]; and whether the ranks have an order.

    None for a type that cannot be compared.
    """
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_dictionary(column.type):
        column = column.cast(kind)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        column, kind = pc.list_value_length(column), pa.int64()
    ordered = True
    if pa.types.is_boolean(kind):
        column = column.cast(pa.int8())
    elif pa.types.is_decimal(kind):
        column = column.cast(pa.float64(), safe=False)
    elif pa.types.is_temporal(kind) and not pa.types.is_interval(kind):
        column = column.cast(pa.int32() if kind.bit_width == 32 else pa.int64())
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        ordered = False
    if pa.types.is_nested(kind) or pa.types.is_interval(kind):
        return None
    array = column.combine_chunks()
    missing = array.is_null(nan_is_null=True).to_numpy(zero_copy_only=False)
    if not ordered:
        try:
            encoded = array.dictionary_encode().indices.fill_null(-1)
        except pa.ArrowNotImplementedError:
            return None
        return encoded.to_numpy(zero_copy_only=False).astype(np.int64) + 1, False
    codes = np.zeros(len(array), np.int64)
    present = array.filter(pa.array(~missing)).to_numpy(zero_copy_only=False)
    codes[~missing] = np.unique(present, return_inverse=True)[1] + 1
    return codes, True


def _best_auc(
    codes: npt.NDArray[np.int64], ordered: bool, label: npt.NDArray[np.floating[Any]], half: npt.NDArray[np.bool_]
) -> float:
    known = ~np.isnan(label)
    codes, positive, half = codes[known], label[known] == 1, half[known]
    counts = _counts(codes, positive, int(codes.max(initial=0)) + 1)
    best = 0.5
    if ordered:  # missing values rank below all others, or above
        aucs = [_auc(counts), _auc(np.roll(counts, -1, axis=1))]
        best = max(*aucs, *(1 - auc for auc in aucs))
    return max(best, _auc_of_rates(codes, positive, half, counts))


def _auc_of_rates(
    codes: npt.NDArray[np.int64],
    positive: npt.NDArray[np.bool_],
    half: npt.NDArray[np.bool_],
    counts: npt.NDArray[np.float64],
) -> float:
    """The mean AUC of two halves of the rows, each ranked by the rates in the other half."""
    first = _counts(codes[half], positive[half], counts.shape[1])
    aucs = [_auc_by_rates(test, train) for test, train in ((first, counts - first), (counts - first, first))]
    return float(np.nanmean(aucs)) if not np.isnan(aucs).all() else 0.5


def _auc_by_rates(test: npt.NDArray[np.float64], train: npt.NDArray[np.float64]) -> float:
    """The AUC of `test` counts, [2, distinct], ranked by the rates of `train`; unseen values have the mean rate."""
    mean = train[1].sum() / max(train.sum(), 1)
    rates = (train[1] + mean) / (train.sum(axis=0) + 1)
    _, rank = np.unique(rates, return_inverse=True)
    return _auc(np.stack([np.bincount(rank, row) for row in test]))


def _counts(codes: npt.NDArray[np.int64], positive: npt.NDArray[np.bool_], size: int) -> npt.NDArray[np.float64]:
    """The number of negatives and of positives at each code, [2, size]."""
    rows = [np.bincount(codes[~positive], minlength=size), np.bincount(codes[positive], minlength=size)]
    return np.stack(rows).astype(np.float64)


def _auc(counts: npt.NDArray[np.float64]) -> float:
    """The AUC of negatives and positives by ascending score, [2, scores]; NaN unless both occur."""
    negatives, positives = counts
    pairs = negatives.sum() * positives.sum()
    if not pairs:
        return float("nan")
    return float((positives * (negatives.cumsum() - 0.5 * negatives)).sum() / pairs)
