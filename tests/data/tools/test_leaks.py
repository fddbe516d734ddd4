"""Columns that give a label away."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from recap.data.tools.leaks import column_aucs, constant_columns, equal_labels, label_values, leaks

ROWS = 4000
RANDOM = np.random.default_rng(3)
LABEL = (RANDOM.random(ROWS) < 0.2).astype(np.float64)


def auc_of(values: object) -> float:
    return column_aucs(pa.table({"x": values}), {"y": LABEL})[0].auc


@pytest.mark.parametrize(
    "values",
    [
        pa.array(LABEL * 3 + RANDOM.random(ROWS)),
        pa.array(-LABEL),
        pa.array(LABEL == 1),
        pa.array(np.where(LABEL == 1, 3, RANDOM.choice([1, 5], ROWS))),  # not monotonic
        pa.array([f"v{int(y)}" for y in LABEL]),
        pa.array([f"v{int(y)}" for y in LABEL]).dictionary_encode(),
        pa.array([f"v{int(y)}" for y in LABEL], pa.string_view()),
        pa.array([float(x) if y else None for x, y in enumerate(LABEL)]),  # only positives have a value
        pa.array([None if y else x for x, y in enumerate(LABEL)]),
        pa.array([None if y else "a" for y in LABEL]),
        pa.array([[1] * int(y) for y in LABEL]),
        pa.array([int(y) * 1000 for y in LABEL], pa.timestamp("ms")),
        pa.array([int(y) for y in LABEL], pa.date32()),
        pa.array(LABEL.astype(int).tolist()).cast(pa.decimal128(20)),
    ],
)
def test_a_column_that_gives_the_label_away_is_a_leak_whatever_its_type(values: pa.Array) -> None:
    found = column_aucs(pa.table({"x": values, "y": LABEL}), {"y": LABEL})
    assert [(leak.column, leak.label) for leak in leaks(found)] == [("x", "y")]
    assert found[0].auc == pytest.approx(1)


@pytest.mark.parametrize(
    "values",
    [
        pa.array(range(ROWS)),
        pa.array([f"id{row}" for row in range(ROWS)]),
        pa.array(RANDOM.normal(size=ROWS)),
        pa.array(RANDOM.integers(0, 2000, ROWS)),
        pa.array([str(value) for value in RANDOM.integers(0, 500, ROWS)]),
        pa.nulls(ROWS),
        pa.array([1.0] * ROWS),
    ],
)
def test_unique_ids_noise_and_constants_are_no_leak(values: pa.Array) -> None:
    assert auc_of(values) < 0.6


@given(st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=25, max_size=60))
@settings(deadline=None, max_examples=30)
def test_a_number_has_at_least_the_auc_of_its_rank(rows: list[tuple[int, bool]]) -> None:
    values, label = [value for value, _ in rows], np.array([float(positive) for _, positive in rows])
    found = column_aucs(pa.table({"x": values}), {"y": label})
    if min(label.sum(), (1 - label).sum()) < 10:
        assert not found
    else:
        expected = roc_auc_score(label, values)
        assert found[0].auc >= max(expected, 1 - expected) - 1e-12


def test_only_labels_with_enough_rows_of_both_classes_are_compared() -> None:
    few = np.zeros(ROWS)
    few[:9] = 1
    missing = np.where(np.arange(ROWS) < 15, np.nan, LABEL)
    table = pa.table({"x": LABEL, "struct": pa.array([{"a": 1}] * ROWS)})
    found = column_aucs(table, {"few": few, "one": np.ones(ROWS), "number": LABEL * 2, "missing": missing})
    assert [(auc.column, auc.label) for auc in found] == [("x", "missing")]


def test_constant_columns_and_equal_labels_are_found() -> None:
    table = pa.table({"one": [1, 1], "null": pa.nulls(2), "two": [1, 2], "nan": [float("nan"), None]})
    assert constant_columns(table) == ["one", "null", "nan"]
    assert constant_columns(table.slice(0, 1)) == []
    known = np.where(np.arange(ROWS) % 2, np.nan, LABEL)
    assert equal_labels({"a": LABEL, "b": known, "c": 1 - LABEL}) == [("a", "b")]


def test_labels_may_be_booleans_and_null() -> None:
    assert np.isnan(label_values(pa.chunked_array([[True, None, False]]))[1])
    assert label_values(pa.chunked_array([[True, False]])).tolist() == [1, 0]
