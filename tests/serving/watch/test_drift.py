"""Features and predictions of requests against those of the training rows."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from serving.watch.requests import answer, make_request
from serving.watch.test_metrics import value

from recap.inference.requests import RequestScorer
from recap.model.directory import read_statistics
from recap.serving.contract import RankRequest
from recap.serving.watch.watch import Watch

OF_VERSION = {"model": "feed", "version": "1"}


def sampled(model: Path, scorer: RequestScorer, *requests: RankRequest) -> Watch:
    with Watch() as watch:
        watch.loaded("feed", "1", model, scorer)
        for request in requests:
            watch.drift.sample(request, answer(scorer, request))
    return watch


def test_means_are_those_of_the_requests_and_of_the_training_rows(model: Path, scorer: RequestScorer) -> None:
    requests = [make_request(50, seed) for seed in (1, 2)]
    watch, training = sampled(model, scorer, *requests), read_statistics(model)
    assert training is not None
    ages = np.concatenate([request.candidates["age"].to_numpy().astype(float) for request in requests])
    assert value(watch, "recap_drift_rows", **OF_VERSION) == 100
    mean = value(watch, "recap_feature_mean", feature="age", **OF_VERSION)
    assert mean == pytest.approx(np.nanmean(ages), rel=1e-5)
    (before,), (deviation,) = training.features["age"].means, training.features["age"].deviations
    assert value(watch, "recap_feature_training_mean", feature="age", **OF_VERSION) == before
    drift = value(watch, "recap_feature_drift", feature="age", **OF_VERSION)
    assert drift == pytest.approx(abs(mean - before) / deviation, rel=1e-5)
    missing = value(watch, "recap_feature_missing_share", feature="age", **OF_VERSION)
    assert missing == pytest.approx(np.isnan(ages).mean())
    likes = np.concatenate([answer(scorer, request).probabilities[:, 0] for request in requests])
    prediction = value(watch, "recap_prediction_mean", task="like", **OF_VERSION)
    assert prediction == pytest.approx(likes.mean())
    label, spread = training.tasks["like"]
    assert value(watch, "recap_prediction_training_mean", task="like", **OF_VERSION) == label
    assert value(watch, "recap_prediction_drift", task="like", **OF_VERSION) == pytest.approx(
        (prediction - label) / spread, rel=1e-5
    )


def test_broken_features_stand_out(model: Path, scorer: RequestScorer) -> None:
    request = make_request(60)
    columns = request.candidates.drop_columns(["age", "vector"])
    columns = columns.append_column("age", pa.nulls(60, pa.float32()))
    columns = columns.append_column("vector", pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(240, np.float32)), 4))
    user = request.user.drop_columns(["language"]).append_column("language", pa.array(["klingon"]))
    watch = sampled(model, scorer, replace(request, user=user, candidates=columns))
    assert value(watch, "recap_feature_missing_share", feature="age", **OF_VERSION) == 1
    assert value(watch, "recap_feature_missing_share", feature="language", **OF_VERSION) == 1
    assert value(watch, "recap_feature_drift", feature="vector", **OF_VERSION) > 2


def test_a_sample_has_at_most_64_candidates_and_pauses_follow(model: Path, scorer: RequestScorer) -> None:
    request = make_request(200)
    with Watch() as watch:
        watch.loaded("feed", "1", model, scorer)
        for _ in range(50):
            watch.log(request, answer(scorer, request))
    rows = value(watch, "recap_drift_rows", **OF_VERSION)
    assert rows is not None
    assert 64 <= rows < 640
    assert not math.isnan(value(watch, "recap_feature_drift", feature="age", **OF_VERSION) or 0)
