"""Intervals and paired differences: the laws of replicates, and the errors that other methods find on the same rows."""

import math

import numpy as np
import numpy.typing as npt
import pytest
import statsmodels.api as sm
import torch
from evaluation.test_binary_metrics import Columns, assert_equal_metrics, make_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import expit

from recap.errors import InputError
from recap.evaluation.metrics.buckets import BUCKETS, bucket_of
from recap.evaluation.metrics.estimate import Estimate, difference, t_probability, t_quantile
from recap.evaluation.metrics.seen import DistinctUsers
from recap.evaluation.metrics.suite import MetricSuite, SuiteResult

Floats = npt.NDArray[np.float64]
NAMES = ["auc", "pr_auc", "log_loss", "rce", "calibration", "precision", "recall"]


def evaluated(*parts: Columns, names: list[str] | None = None, intervals: bool = True, seed: int = 0) -> SuiteResult:
    """The result of one suite per part, merged."""
    suites = []
    for number, rows in enumerate(parts):
        tasks = [f"task{index}" for index in range(rows[0].shape[1])]
        suites.append(MetricSuite(tasks, names, seed=seed + number, intervals=intervals))
        suites[-1].update(*rows)
    for other in suites[1:]:
        suites[0].merge(other)
    return suites[0].result()


def taken(rows: Columns, positions: torch.Tensor) -> Columns:
    predictions, labels, weights, users = (column[positions] for column in rows)
    return predictions, labels, weights, users


def feed(seed: int, users: int, rows_of_user: float, taste: float = 0.8) -> Columns:
    """Rows of one task; labels of a user are alike, and users have one row or a few to many."""
    random = np.random.default_rng(seed)
    sizes = np.ones(users, int) if rows_of_user == 1 else 1 + random.geometric(1 / (rows_of_user - 1), users)
    owner = np.repeat(np.arange(users), sizes)
    x = random.normal(size=len(owner))
    labels = random.random(len(owner)) < expit(x - 1 + random.normal(size=users)[owner] * taste)
    one, two = (torch.from_numpy(column.astype(np.float32))[:, None] for column in (expit(0.8 * x - 1), labels))
    return one, two, torch.ones_like(two), torch.from_numpy(owner)


def arrays(rows: Columns) -> tuple[Floats, Floats, Floats]:
    """Predictions, labels and users."""
    predictions, labels, _, users = rows
    return predictions[:, 0].double().numpy(), labels[:, 0].double().numpy(), users.numpy().astype(np.float64)


@settings(max_examples=12)
@given(st.integers(40, 300), st.integers(0, 10**6))
def test_a_replicate_is_the_metric_of_the_rows_of_all_other_users(count: int, seed: int) -> None:
    rows = make_rows(count, seed, ties=True)
    names = [*NAMES, "grouped_auc", "positive_rank", "hit_at"]
    whole, buckets = evaluated(rows, names=names), bucket_of(rows[3])
    for task, column in (("task0", 0), ("task1", 1)):
        occupied = buckets[rows[2][:, column] > 0].unique().tolist()
        for position in (0, len(occupied) - 1):
            others = evaluated(taken(rows, buckets != occupied[position]), names=names, intervals=False)
            for name, estimate in whole.estimates[task].items():
                expected = others.metrics[task][name]
                found = estimate.replicates[position]
                assert len(estimate.replicates) == len(occupied)
                assert found == pytest.approx(expected, rel=1e-9, abs=1e-9, nan_ok=True), name


@settings(max_examples=8)
@given(st.integers(20, 200), st.integers(0, 10**6))
def test_intervals_depend_neither_on_the_order_of_rows_nor_on_merging(count: int, seed: int) -> None:
    rows = make_rows(count, seed)
    whole, shuffled = evaluated(rows), torch.randperm(count)
    merged = evaluated(*(taken(rows, shuffled[start::3]) for start in range(3)))
    assert merged.users == whole.users == len(rows[3][(rows[2] > 0).any(dim=1)].unique())
    assert merged.rows == whole.rows
    for task, estimates in whole.estimates.items():
        for name, estimate in estimates.items():
            assert merged.estimates[task][name].replicates == pytest.approx(
                estimate.replicates, rel=1e-9, abs=1e-9, nan_ok=True
            )


def test_values_are_the_same_with_and_without_intervals() -> None:
    rows = make_rows(500)
    plain = evaluated(rows, intervals=False)
    assert_equal_metrics(plain.metrics, evaluated(rows).metrics)
    assert plain.estimates == {}


@pytest.mark.parametrize("rows_of_user", [1, 8])
def test_standard_errors_are_those_of_a_bootstrap_of_users(rows_of_user: float) -> None:
    rows = feed(1, 1500, rows_of_user)
    predictions, labels, users = arrays(rows)
    order = np.argsort(predictions)
    predictions, labels, owner = predictions[order], labels[order], users[order].astype(int)
    losses = -np.log(np.where(labels > 0, predictions, 1 - predictions))
    weights = np.random.default_rng(0).poisson(1.0, (400, 1500))[:, owner].astype(float)
    positives, negatives = weights * labels, weights * (1 - labels)
    pairs = positives.sum(axis=1) * negatives.sum(axis=1)
    found = {
        "auc": (positives * (negatives.cumsum(axis=1) - negatives / 2)).sum(axis=1) / pairs,
        "log_loss": weights @ losses / weights.sum(axis=1),
        "calibration": weights @ predictions / (weights @ labels),
    }
    estimates = evaluated(rows, names=list(found)).estimates["task0"]
    for name, values in found.items():
        assert estimates[name].standard_error == pytest.approx(np.std(values), rel=0.25), name


def delong_error(predictions: Floats, labels: Floats) -> float:
    """The standard error of an AUC (DeLong et al., Biometrics 1988)."""
    positives, negatives = predictions[labels > 0], predictions[labels == 0]
    wins = (positives[:, None] > negatives) + 0.5 * (positives[:, None] == negatives)
    variances = wins.mean(axis=1).var(ddof=1) / len(positives) + wins.mean(axis=0).var(ddof=1) / len(negatives)
    return math.sqrt(variances)


def test_the_standard_error_of_an_auc_of_independent_rows_is_that_of_delong() -> None:
    pairs = []
    for seed in range(6):
        rows = feed(seed, 2000, 1)
        without_users = MetricSuite(["a"], ["auc"])
        without_users.update(*rows[:3])
        errors = [
            result.estimates[task]["auc"].standard_error
            for result, task in ((evaluated(rows, names=["auc"]), "task0"), (without_users.result(), "a"))
        ]
        pairs.append([*errors, delong_error(*arrays(rows)[:2])])
    by_user, by_row, expected = np.mean(pairs, axis=0)
    assert by_user == pytest.approx(expected, rel=0.12)
    assert by_row == pytest.approx(expected, rel=0.12)


def test_standard_errors_of_ratios_are_those_of_statsmodels_by_cluster() -> None:
    pairs = []
    for seed in range(5):
        rows = feed(seed, 2000, 6)
        predictions, labels, users = arrays(rows)
        losses = -np.log(np.where(labels > 0, predictions, 1 - predictions))
        ratio = predictions.sum() / labels.sum()
        linear = {"log_loss": losses, "calibration": (predictions - ratio * labels) / labels.mean()}  # delta method
        estimates = evaluated(rows, names=list(linear)).estimates["task0"]
        for name, values in linear.items():
            fit = sm.OLS(values, np.ones(len(values))).fit(cov_type="cluster", cov_kwds={"groups": users})
            pairs.append([estimates[name].standard_error / fit.bse[0]])
    assert np.mean(pairs) == pytest.approx(1, abs=0.08)
    assert np.ptp(pairs) < 0.6


@pytest.mark.parametrize("freedom", [1, 2, 3, 10, 62, 63])
def test_students_t_is_that_of_scipy(freedom: int) -> None:
    for probability in (0.1, 0.5, 0.8, 0.975, 0.9999):
        assert t_quantile(probability, freedom) == pytest.approx(stats.t.ppf(probability, freedom), rel=1e-9, abs=1e-9)
    for t in (-3.0, 0.0, 0.3, 2.0, math.inf):
        assert t_probability(t, freedom) == pytest.approx(stats.t.cdf(t, freedom), abs=1e-12)
    assert math.isnan(t_quantile(0.975, 0))


def of_groups(values: Floats) -> Estimate:
    """The mean of groups of equal size."""
    return Estimate(float(values.mean()), (values.sum() - values) / (len(values) - 1))


def test_the_interval_of_a_mean_of_groups_is_that_of_students_t_test() -> None:
    random = np.random.default_rng(0)
    one, other = random.normal([[0.3], [0.0]], size=(2, BUCKETS))
    expected = stats.ttest_1samp(one, 0).confidence_interval()
    assert of_groups(one).interval() == pytest.approx((expected.low, expected.high))
    found, paired = difference(of_groups(one), of_groups(other)), stats.ttest_rel(one, other)
    interval = paired.confidence_interval()
    assert (found.low, found.high, found.p) == pytest.approx((interval.low, interval.high, paired.pvalue))
    assert found.is_certain == (found.p < 0.05)
    assert found.more_users(found.detectable) == pytest.approx(1)
    assert found.more_users(found.detectable / 2) == pytest.approx(4)


def test_four_of_five_differences_of_the_detectable_size_are_found() -> None:
    random = np.random.default_rng(0)
    size = (stats.t.ppf(0.975, BUCKETS - 1) + stats.t.ppf(0.8, BUCKETS - 1)) / math.sqrt(BUCKETS)
    nothing = of_groups(np.zeros(BUCKETS))
    found = [difference(of_groups(random.normal(size, 1, BUCKETS)), nothing) for _ in range(1000)]
    assert np.mean([item.p < 0.05 for item in found]) == pytest.approx(0.8, abs=0.03)
    assert np.mean([item.detectable for item in found]) == pytest.approx(size, rel=0.02)


def test_pairing_by_bucket_cancels_what_two_models_share() -> None:
    predictions, labels, weights, users = feed(3, 1500, 6)
    better = (predictions.logit() * 1.05 + 0.02).sigmoid()
    both = (torch.cat([predictions, better], dim=1), labels.repeat(1, 2), weights.repeat(1, 2), users)
    old, new = (evaluated(both, names=["log_loss"]).estimates[task]["log_loss"] for task in ("task0", "task1"))
    found = difference(new, old)
    assert found.high - found.low < 0.2 * (new.interval()[1] - new.interval()[0])
    same = difference(old, old)
    assert (same.value, same.p, same.users_factor) == (0, 1, math.inf)
    assert difference(old, new).value == -found.value


def test_estimates_of_other_rows_are_refused_and_one_bucket_has_no_interval() -> None:
    with pytest.raises(InputError, match="of 3 and 2 buckets of users, so of different rows"):
        difference(Estimate(0.5, np.zeros(3)), Estimate(0.5, np.zeros(2)))
    rows = make_rows(50)
    one_user = (*rows[:3], torch.zeros(50).long())
    alone = evaluated(one_user, names=["log_loss"]).estimates["task0"]["log_loss"]
    assert alone.buckets == 1
    assert all(map(math.isnan, alone.interval()))
    assert math.isnan(difference(alone, alone).p)


def test_the_fingerprint_tells_users_labels_and_weights_but_not_predictions() -> None:
    rows = make_rows(60)
    names = ["log_loss"]
    original = evaluated(rows, names=names).rows
    assert evaluated((rows[0] / 2, *rows[1:]), names=names).rows == original
    for column in (1, 2, 3):
        changed = [part.clone() for part in rows]
        position = int((rows[2][:, 0] > 0).nonzero()[0])
        changed[column][position] = 1 - changed[column][position]
        found = evaluated((changed[0], changed[1], changed[2], changed[3]), names=names).rows
        assert found["task0"] != original["task0"], column


@pytest.mark.parametrize("users", [100, 1000, 30_000])
def test_the_number_of_users_is_exact_or_close_and_merges(users: int) -> None:
    hashes = np.random.default_rng(users).integers(0, 2**64, users, np.uint64)
    parts = [DistinctUsers(1000) for _ in range(3)]
    for number, part in enumerate(parts):
        part.add(np.tile(hashes[number::3], 2))
        part.add(hashes[: users // 2])
    parts[2].merge(parts[1])
    parts[0].merge(parts[2])
    whole = DistinctUsers(1000)
    whole.add(hashes)
    assert parts[0].count() == whole.count()
    assert whole.count() == users if users <= 1000 else whole.count() == pytest.approx(users, rel=0.1)


def test_a_difference_from_an_undefined_value_is_undefined() -> None:
    undefined = difference(Estimate(math.nan, np.ones(3)), Estimate(1.0, np.ones(3)))
    assert math.isnan(undefined.p)
    assert not undefined.is_certain
