"""XAUC: the share of pairs of rows that the predictions of a regression order correctly."""

import math
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from recap.evaluation.metrics.rows import Floats, Rows, changes, float_bits


def xauc_bound(value: float, rows: Rows) -> float:
    """Three standard errors of an XAUC over a uniform sample of rows.

    The variance is at most 2·x·(1 − x) / n, that of Kendall's tau (Kendall, Rank Correlation Methods, 1948), where n
    is the number of rows of equal weight that tell as much.
    """
    total = rows.weights.sum()
    if math.isnan(value) or not total:
        return math.nan
    return 3 * math.sqrt(2 * value * (1 - value) * float((rows.weights**2).sum())) / float(total)


def xauc(rows: Rows) -> float:
    """The weighted share of pairs with different labels that predictions order as the labels do; ties count half.

    Zhan et al., KDD 2022 (arXiv:2206.06003). The weight of a pair is the product of its rows' weights. NaN where
    no pair counts. Values are float32 numbers. O(N log N).
    """
    won, pairs = (column.sum(keepdims=True) for column in _pairs(rows))
    return float(_share(won, pairs, rows)[0])


def xauc_by_bucket(rows: Rows, buckets: npt.NDArray[np.uint8], groups: int) -> tuple[float, Floats]:
    """The XAUC, and [groups] the XAUC of the rows that are not in each bucket; `buckets` [N].

    Pairs without rows of a bucket: all pairs, less those of its rows, plus those within it, which that counts twice.
    """
    order = np.argsort(buckets, kind="stable")
    rows, starts = rows.at(order), np.searchsorted(buckets[order], np.arange(groups + 1))
    sums = []
    of_rows = _pairs(rows)
    within = [[column.sum() / 2 for column in _pairs(rows.at(part))] for part in _slices(starts)]
    for column, inner in zip(of_rows, np.array(within).T, strict=True):
        before = np.r_[0.0, np.cumsum(column)]
        sums.append(np.r_[column.sum() / 2, column.sum() / 2 - np.diff(before[starts]) + inner])
    won, pairs = sums
    values = _share(won, pairs, rows)
    return float(values[0]), values[1:]


def _share(won: Floats, pairs: Floats, rows: Rows) -> Floats:
    """won / pairs, NaN without pairs; where weights cancel out, rounding leaves less than 1e-12 of all pairs."""
    shares: Floats = np.full(len(pairs), math.nan)
    return np.divide(won, pairs, out=shares, where=pairs > 1e-12 * rows.weights.sum() ** 2)


def _slices(starts: npt.NDArray[np.intp]) -> list[npt.NDArray[np.intp]]:
    return [np.arange(start, stop) for start, stop in pairwise(starts)]


def _pairs(rows: Rows) -> tuple[Floats, Floats]:
    """For each row [N], the weight of the pairs with it that are won, and of all that count; both rows have each."""
    weights = rows.weights
    prediction, label = map(_ascending, (rows.predictions, rows.labels))
    # Ties: the row with the lower label comes last by prediction, and of equal labels the last comes first by label,
    # so that the positions of no such pair are in the same order.
    by_prediction = np.argsort(prediction << np.uint64(32) | (np.uint64(0xFFFF_FFFF) - label))
    label, weight = label[by_prediction], weights[by_prediction]
    new_prediction = changes(prediction[by_prediction])
    tied = _sums(weight, new_prediction) - _sums(weight, new_prediction | changes(label))
    by_label = np.argsort(label << np.uint64(32) | np.arange(len(label), dtype=np.uint64)[::-1])
    equal = np.empty(len(label))
    equal[by_label] = _sums(weight[by_label], changes(label[by_label]))
    won, pairs = np.empty((2, len(label)))
    won[by_prediction] = _in_order(by_label, weight) + weight * tied / 2
    pairs[by_prediction] = weight * np.maximum(weight.sum() - equal, 0.0)
    return won, pairs


def _ascending(values: Floats) -> npt.NDArray[np.uint64]:
    """[N] float32 numbers → [N] integers of 32 bits in the same order."""
    bits = float_bits(values).astype(np.uint64)
    return np.where(bits >> np.uint64(31), np.uint64(0xFFFF_FFFF) - bits, bits | np.uint64(1 << 31))


def _sums(weights: Floats, is_new: npt.NDArray[np.bool_]) -> Floats:
    """[N]: the weight of the group of each row; groups lie side by side."""
    group = np.cumsum(is_new) - 1
    sums: Floats = np.bincount(group, weights)[group] if len(group) else weights
    return sums


def _in_order(positions: npt.NDArray[np.intp], weights: Floats) -> Floats:
    """A permutation [N], and a weight for each position [N] → for each, the weight of its pairs in ascending order.

    The weight of a pair is the product of both. Blocks of positions are sorted, then merged two by two; a pair is
    counted when its positions first meet in a block.
    """
    count = len(positions)
    blocks = 1 << max(count.bit_length() - 4, 0)
    size = -(-count // blocks)
    missing = blocks * size - count
    are_equal = bool((weights == weights[:1]).all())  # then pairs are counted, in half the time
    kind = np.dtype(np.int32 if are_equal else np.float64)
    all_weights = np.r_[np.ones(count) if are_equal else weights, np.zeros(missing)].astype(kind)
    keys = np.r_[positions, np.arange(count, count + missing)].astype(np.int32).reshape(blocks, size)
    sums = np.zeros(len(all_weights), kind)
    for column in range(size - 1):
        one, others = keys[:, column, None], keys[:, column + 1 :]
        products = np.where(one < others, all_weights[one] * all_weights[others], 0)
        sums[one[:, 0]] += products.sum(axis=1)
        sums[others] += products
    while blocks > 1:
        blocks, size = blocks // 2, size * 2
        marked = 2 * keys.reshape(blocks, size) + (np.arange(size) >= size // 2).astype(np.int32)
        marked.sort(axis=1, kind="stable")  # Timsort merges two sorted halves in linear time
        is_late, keys = (marked & 1).astype(np.bool_), marked >> 1
        weight = all_weights[keys]
        late = np.cumsum(weight * is_late, axis=1, dtype=kind)
        early = np.cumsum(weight, axis=1, dtype=kind) - late
        sums[keys] += weight * np.where(is_late, early, late[:, -1:] - late)
    return sums[:count] * (weights[0] ** 2 if are_equal and count else 1.0)
