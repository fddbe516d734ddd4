"""ROC, precision and recall, reliability and distributions, from histograms."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.calibration import calibration_curve
from sklearn.metrics import auc, precision_recall_curve, roc_auc_score
from statsmodels.stats.proportion import proportion_confint
from support import feed_values

from recap.config.file.load import config_of
from recap.config.recap import RecapConfig
from recap.data.batch import Batch
from recap.distributed import ONE_RANK
from recap.evaluation.observers.curves import POINTS, Curves, TaskCurves
from recap.model.scorer import Scores


def config() -> RecapConfig:
    values = feed_values(Path("feed"), Path("run"))
    values["model"]["tasks"]["share"] = {"tower": {"kind": "mlp"}, "objective": {"kind": "regression"}}
    return config_of(values | {"metrics": {"calibration_bins": 10}})


def rows(count: int, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """Probabilities and values, labels, and weights, [B, 2] each: a binary task and a regression."""
    torch.manual_seed(seed)
    logits = torch.randn(count) - 1
    clicked = (torch.rand(count) < logits.sigmoid()).float()
    values = torch.randn(count) * 10
    labels = torch.stack([clicked, values + torch.randn(count)], dim=1)
    return torch.stack([logits.sigmoid(), values], dim=1), labels, torch.ones(count, 2)


def curves(*parts: tuple[torch.Tensor, ...], before: float = 1.0) -> dict[str, TaskCurves]:
    """`before`: probabilities before calibration over those after it."""
    made = Curves(config(), "validation", ONE_RANK)
    for predictions, labels, weights in parts:
        none = torch.zeros(len(labels), 0)
        batch = Batch(none, none, none.long(), {}, labels, weights)
        factor = torch.tensor([before, 1.0])
        made.update(batch, Scores(predictions, predictions * factor, predictions, predictions.sum(dim=1)))
    return made.result()


def test_the_area_under_the_roc_points_is_the_auc_and_precisions_are_those_of_scikit_learn() -> None:
    predictions, labels, _ = part = rows(4000)
    found = curves(part)["like"]
    assert max(len(found.roc["x"]), len(found.pr["x"])) <= POINTS
    assert (found.roc["x"][0], found.roc["y"][0], found.roc["x"][-1], found.roc["y"][-1]) == (0, 0, 1, 1)
    score, truth = predictions[:, 0].numpy(), labels[:, 0].numpy()
    assert auc(found.roc["x"], found.roc["y"]) == pytest.approx(roc_auc_score(truth, score), abs=2e-4)
    precision, recall, _ = precision_recall_curve(truth, score)
    for x, y in zip(found.pr["x"], found.pr["y"], strict=True):
        assert np.abs(precision[np.abs(recall - x) < 1e-9] - y).min() < 0.03


def test_reliability_is_that_of_scikit_learn_with_wilsons_intervals() -> None:
    predictions, labels, _ = part = rows(4000)
    reliability = curves(part)["like"].reliability
    assert list(reliability) == ["calibrated"]
    found = reliability["calibrated"]
    rates, means = calibration_curve(labels[:, 0], predictions[:, 0], n_bins=10, strategy="quantile")
    assert found["rate"] == pytest.approx(rates, abs=0.01)
    assert found["prediction"] == pytest.approx(means, abs=0.01)
    assert (sum(found["count"]), sum(found["positives"])) == (4000, labels[:, 0].sum().item())
    low, high = proportion_confint(np.array(found["positives"]), np.array(found["count"]), method="wilson")
    assert found["low"] == pytest.approx(low)
    assert found["high"] == pytest.approx(high)


def test_weights_widen_intervals_but_scaling_them_does_not() -> None:
    predictions, labels, weights = rows(1000)
    plain, scaled, mixed = (
        curves((predictions, labels, weights * factor))["like"].reliability["calibrated"]
        for factor in (1.0, 7.0, torch.rand(1000, 1) ** 4)
    )
    assert plain["high"] == pytest.approx(scaled["high"])
    assert np.subtract(mixed["high"], mixed["low"]).mean() > 1.2 * np.subtract(plain["high"], plain["low"]).mean()


def test_reliability_before_calibration_is_shown_where_it_differs() -> None:
    reliability = curves(rows(500), before=0.5)["like"].reliability
    assert list(reliability) == ["calibrated", "before calibration"]
    halves = np.divide(reliability["before calibration"]["prediction"], reliability["calibrated"]["prediction"])
    assert halves == pytest.approx(0.5, rel=0.02)


def test_a_regression_has_mean_labels_by_prediction_and_distributions() -> None:
    predictions, labels, _ = part = rows(3000)
    found = curves(part)["share"]
    assert not found.roc
    assert not found.reliability
    order = predictions[:, 1].argsort()
    expected = [labels[chunk, 1].mean().item() for chunk in order.chunk(10)]
    assert found.means["label"] == pytest.approx(expected, abs=0.3)
    assert np.average(found.means["prediction"], weights=found.means["weight"]) == pytest.approx(
        predictions[:, 1].mean().item(), abs=1e-5
    )
    inside = [
        low < mean < high for low, mean, high in zip(*(found.means[n] for n in ("low", "label", "high")), strict=True)
    ]
    assert all(inside)
    edges = found.values["edges"]
    assert edges == sorted(edges)
    middle = np.add(edges[1:], edges[:-1]) / 2
    assert sum(found.values["labels"]) == pytest.approx(1)
    assert np.average(middle, weights=found.values["predictions"]) == pytest.approx(predictions[:, 1].mean(), abs=0.5)


def test_curves_do_not_depend_on_batches_and_order() -> None:
    part = rows(600)
    shuffled = torch.randperm(600)
    pieces = [tuple(column[shuffled][index::3] for column in part) for index in range(3)]
    whole, merged = curves(part, before=0.9), curves(*pieces, before=0.9)
    for task, found in whole.items():
        flat = [
            json.loads(json.dumps(item.to_json()), parse_float=lambda text: round(float(text), 9))
            for item in (found, merged[task])
        ]
        assert flat[0] == flat[1]


def test_edge_cases_leave_out_what_is_undefined() -> None:
    none = tuple(column[:0] for column in rows(1))
    assert [found.to_json() for found in curves(none).values()] == [{}, {}]
    predictions, labels, weights = rows(10)
    negative = curves((predictions, torch.zeros(10, 2), weights))["like"].to_json()
    assert negative.keys() == {"reliability", "histogram"}
    positive = curves((predictions, torch.ones(10, 2), weights))["like"].to_json()
    assert positive.keys() == {"pr", "reliability", "histogram"}
    one_value = curves((torch.ones(10, 2), labels, weights))["share"].to_json()
    assert one_value["means"]["count"] == [10]
    json.dumps([negative, positive, one_value], allow_nan=False)
