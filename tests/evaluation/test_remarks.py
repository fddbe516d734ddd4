"""Remarks on the metrics of a split."""

import math

import numpy as np
import pytest

from recap.config.training import WatchConfig
from recap.evaluation.metrics.estimate import Estimate
from recap.evaluation.remarks import remarks


@pytest.mark.parametrize(
    ("metrics", "text"),
    [
        (
            {"auc": 0.9951, "positives": 20, "count": 90},
            "validation: like has an AUC of 0.9951; a feature may give the",
        ),
        ({"auc": 0.9951, "positives": 19, "count": 90}, None),
        ({"auc": 0.9951, "positives": 80, "count": 90}, None),
        ({"auc": 0.9951}, None),
        ({"auc": 0.9949, "positives": 20, "count": 90}, None),
        ({"auc": math.nan, "positives": 0, "count": 9}, "validation: like has no positives in 9 rows, so metrics such"),
        ({"auc": math.nan, "positives": 9, "count": 9}, "validation: like has only positives in 9 rows, so metrics"),
        ({"positives": 1, "count": 1}, "validation: like has only positives in 1 row, "),
        ({"positives": 0, "count": 0}, "validation: like has no row with a label and a weight"),
        ({"rmse": math.nan, "count": 0}, "validation: like has no row with a label and a weight"),
        ({"rmse": 1.0, "count": 9}, None),
    ],
)
def test_too_easy_and_undefined_tasks_are_remarked_on(metrics: dict[str, float], text: str | None) -> None:
    lines = [line for _, line in remarks("validation", {"like": metrics})]
    assert [line[: len(f"warning: {text}")] for line in lines] == ([] if text is None else [f"warning: {text}"])


def test_a_watched_metric_that_is_undefined_is_remarked_on_for_its_split() -> None:
    metrics = {"like": {"auc": math.nan}, "share": {"auc": 0.6}}
    watch = WatchConfig(metric="auc", split="validation")
    text = "warning: training.watch: auc of validation is undefined, so no checkpoint can be the best"
    assert list(remarks("validation", metrics, watch)) == [("watch", text)]
    assert list(remarks("other", metrics, watch)) == []
    assert list(remarks("validation", metrics, watch.model_copy(update={"tasks": ["share"]}))) == []


def test_tasks_of_too_few_users_for_reliable_intervals_are_remarked_on() -> None:
    def estimates(like: int, share: int) -> dict[str, dict[str, Estimate]]:
        return {task: {"auc": Estimate(0.5, np.zeros(count))} for task, count in (("like", like), ("share", share))}

    metrics: dict[str, dict[str, float]] = {"like": {}, "share": {}}
    assert list(remarks("validation", metrics, estimates=estimates(20, 64))) == []
    assert list(remarks("validation", metrics, estimates=estimates(0, 64))) == []
    ((_, one),) = remarks("validation", metrics, estimates=estimates(19, 64))
    assert one.startswith(
        "warning: validation: the users of like fill 19 of 64 buckets, too few for reliable intervals"
    )
    ((_, both),) = remarks("validation", metrics, estimates=estimates(19, 3))
    assert both.startswith("warning: validation: the users fill 3 of 64 buckets")
