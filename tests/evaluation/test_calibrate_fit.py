"""The mathematics of a fitted calibration, against scikit-learn on the same logits, and its laws."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from recap.evaluation.calibrate.fit import (
    Floats,
    NoSlope,
    fit_affine,
    fit_isotonic,
    fit_offsets,
    fit_shift,
    isotonic,
    piecewise,
    sigmoid,
)

Rows = tuple[Floats, Floats, Floats]


def make_rows(
    true: Callable[[Floats], Floats], *, rows: int = 20_000, seed: int = 0, weights: tuple[float, ...] = (0.5, 1, 3)
) -> Rows:
    """Logits as float32 models give them, labels drawn from σ(true(logit)), and weights."""
    random = np.random.default_rng(seed)
    logits = random.normal(-2, 1.5, rows).astype(np.float32).astype(np.float64)
    labels = (random.random(rows) < sigmoid(true(logits))).astype(np.float64)
    return logits, labels, random.choice(weights, rows)


def sample(rows: int, seed: int) -> Rows:
    random = np.random.default_rng(seed)
    return (
        random.normal(size=rows).round(1),
        random.integers(0, 2, rows).astype(np.float64),
        random.integers(1, 4, rows).astype(np.float64),
    )


def repeated(columns: Rows) -> Rows:
    """Each row as often as its weight, with weight 1."""
    logits, labels, weights = columns
    times = weights.astype(int)
    return logits.repeat(times), labels.repeat(times), np.ones(times.sum())


def mean_loss(logits: Floats, labels: Floats, weights: Floats) -> float:
    return float((weights * (np.logaddexp(0, logits) - labels * logits)).sum() / weights.sum())


@pytest.mark.parametrize("intercept", [0.7, -4.0])
def test_the_affine_map_is_that_of_scikit_learn(intercept: float) -> None:
    logits, labels, weights = make_rows(lambda z: 1.3 * z + intercept)
    oracle = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-12, max_iter=1000)
    oracle.fit(logits[:, None], labels, sample_weight=weights)
    slope, shift = fit_affine(logits, labels, weights)
    assert slope == pytest.approx(oracle.coef_[0, 0], abs=1e-6)
    assert shift == pytest.approx(oracle.intercept_[0], abs=1e-6)
    predicted = sigmoid(slope * logits + shift)
    assert (weights * predicted).sum() == pytest.approx((weights * labels).sum(), rel=1e-9)


def test_a_saturated_model_is_fitted_as_any_other() -> None:
    logits, labels, weights = make_rows(lambda z: z, rows=2000)
    slope, shift = fit_affine(logits, labels, weights)
    assert fit_affine(100 * logits, labels, weights) == pytest.approx((slope / 100, shift), abs=1e-9)
    certain = np.where(np.random.default_rng(0).random(2000) < 0.9, labels, 1 - labels) == 1
    inputs = np.where(certain, 17.0, -105.0)
    slope, shift = fit_affine(inputs, labels, weights)
    for rows in (certain, ~certain):
        expected = np.average(labels[rows], weights=weights[rows])
        assert sigmoid(slope * inputs + shift)[rows].mean() == pytest.approx(expected)


@settings(max_examples=50)
@given(st.integers(2, 400), st.integers(0, 2**31))
def test_the_isotonic_values_are_those_of_scikit_learn(rows: int, seed: int) -> None:
    logits, labels, weights = sample(rows, seed)
    expected = IsotonicRegression().fit(logits, labels, sample_weight=weights).predict(logits)
    np.testing.assert_allclose(isotonic(logits, labels, weights), expected, atol=1e-9)


@settings(max_examples=25)
@given(st.integers(200, 500), st.integers(0, 2**31))
def test_a_row_of_weight_2_counts_as_two_rows(rows: int, seed: int) -> None:
    def affine(*columns: Floats) -> Any:
        try:
            return fit_affine(*columns)
        except NoSlope as error:
            return [len(str(error))]  # refused: then both are, for the same reason

    columns = sample(rows, seed)
    isotonic: Callable[..., Any] = lambda *columns: np.concatenate(fit_isotonic(*columns, knots=5))  # noqa: E731
    for fit in (fit_shift, isotonic, affine):
        np.testing.assert_allclose(fit(*columns), fit(*repeated(columns)), atol=1e-7)


def test_a_smoothed_isotonic_map_ascends_keeps_the_mean_and_beats_a_line_where_the_truth_bends() -> None:
    def bent(logits: Floats) -> Floats:
        return logits + 0.8 * np.tanh(2 * (logits + 2))

    train, test = make_rows(bent, rows=200_000), make_rows(bent, rows=200_000, seed=1)
    knots, values = map(np.array, fit_isotonic(*train, knots=16))
    assert len(knots) == 16
    assert (np.diff(knots) > 0).all()
    assert (np.diff(values) > 0).all()
    mapped = piecewise(train[0], knots, values)
    assert (train[2] * sigmoid(mapped)).sum() == pytest.approx((train[2] * train[1]).sum(), rel=1e-9)
    slope, intercept = fit_affine(*train)
    best = mean_loss(bent(test[0]), *test[1:])
    line, smooth = (mean_loss(z, *test[1:]) for z in (slope * test[0] + intercept, piecewise(test[0], knots, values)))
    assert smooth - best < 0.2 * (line - best)


@settings(max_examples=50)
@given(st.integers(100, 400), st.integers(0, 2**31), st.integers(1, 20))
def test_an_isotonic_map_ascends_on_any_rows(rows: int, seed: int, count: int) -> None:
    logits, labels, weights = sample(rows, seed)
    labels[:2] = 0, 1
    knots, values = fit_isotonic(logits, labels, weights, count)
    assert 1 <= len(knots) == len(values) <= count
    assert (np.diff(knots) > 0).all()
    assert (np.diff(values) > 0).all()
    assert np.isfinite(knots + values).all()


def test_rows_that_determine_no_slope_say_why() -> None:
    logits, labels, weights = make_rows(lambda z: z)
    for columns, reason in (
        ((logits, (logits > -2).astype(float), weights), "the best slope is above 100"),
        ((-logits, labels, weights), "ranks its negatives above its positives"),
        ((np.zeros(len(logits)), labels, weights), "gives all rows the same probability"),
    ):
        with pytest.raises(NoSlope, match=reason):
            fit_affine(*columns)


@given(st.floats(-40, 40), st.floats(0.001, 0.999))
def test_a_shift_meets_the_mean_from_any_start(start: float, rate: float) -> None:
    logits = start + np.linspace(-1, 1, 1000)
    labels = (np.arange(1000) < 1000 * rate).astype(float)
    shifted = sigmoid(logits + fit_shift(logits, labels, np.ones(1000)))
    assert shifted.mean() == pytest.approx(labels.mean(), rel=1e-9)


def test_offsets_are_shrunken_by_what_their_rows_show() -> None:
    random = np.random.default_rng(0)
    logits, _, _ = make_rows(lambda z: z, rows=60_000)
    weights = np.ones(len(logits))
    codes = np.minimum(random.geometric(0.05, len(logits)), 80)  # frequent and rare values
    true = random.normal(0, 0.5, 81)
    labels = (random.random(len(logits)) < sigmoid(logits + true[codes])).astype(float)
    fitted = fit_offsets(logits, labels, weights, codes, min_positives=20)
    assert fitted.variance == pytest.approx(0.25, rel=0.5)
    assert (fitted.positives >= 20).all()
    assert 40 < len(fitted.codes) < 80
    alone = np.array([fit_shift(logits[codes == c], labels[codes == c], weights[codes == c]) for c in fitted.codes])
    assert (np.abs(fitted.offsets) < np.abs(alone)).all()
    error, error_alone = (((offsets - true[fitted.codes]) ** 2).sum() for offsets in (fitted.offsets, alone))
    assert error < error_alone
    np.testing.assert_array_equal(fitted.of(np.array([0, 81])), 0)
    np.testing.assert_array_equal(fitted.of(fitted.codes), fitted.offsets)


def test_values_that_do_not_differ_have_next_to_no_offsets() -> None:
    logits, labels, weights = make_rows(lambda z: z, weights=(1.0,))
    codes = np.arange(len(logits)) % 20
    fitted = fit_offsets(logits, labels, weights, codes, min_positives=20)
    assert np.abs(fitted.offsets).max() < 0.05
    assert fit_offsets(logits, labels, weights, codes, min_positives=10**6).of(codes).tolist() == [0.0] * len(codes)
