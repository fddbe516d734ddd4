"""Drift of features, predictions and labels between samples of two data sets."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from model.rankers import make_batch
from support import feed_config, write_feed

from recap.config.recap import RecapConfig
from recap.data.batch import Batch
from recap.data.encoding.assets import load_assets
from recap.evaluation.drift import Drift, drift, psi, read_sample
from recap.model.ranker import Ranker
from recap.model.scorer import Scorer


def rows(config: RecapConfig, seeds: Sequence[int], count: int = 2000) -> list[Batch]:
    return [make_batch(config, count, seed) for seed in seeds]


def compared(config: RecapConfig, reference: Sequence[Batch], current: Sequence[Batch]) -> Drift:
    assets = load_assets(config.features)
    torch.manual_seed(0)
    scorer = Scorer.of(config, Ranker(config, assets))
    scorer.train()
    result = drift(config, assets, scorer, reference, current)
    assert scorer.training
    return result


def test_the_same_rows_have_no_drift_in_any_order(tmp_path: Path) -> None:
    config = feed_config(write_feed(tmp_path), tmp_path / "run")
    sample = rows(config, [1, 2])
    found = compared(config, sample, [sample[1].rows(slice(700, None)), sample[0], sample[1].rows(slice(0, 700))])
    assert {item.feature for item in found.features} == {"age", "followers", "in_network", "hour", "language"}
    assert all(item.psi == 0 and sum(share.rows for share in item.bins) == pytest.approx(1) for item in found.features)
    assert found.vectors[0].cosine == pytest.approx(1)
    assert [(item.task, item.psi) for item in found.tasks] == [("like", 0), ("share", 0)]
    assert all(item.mean_label[0] == pytest.approx(item.mean_label[1]) for item in found.tasks)
    assert found.rows == (4000, 4000)


def test_what_shifts_most_comes_first_and_the_index_is_that_of_pandas(tmp_path: Path) -> None:
    config = feed_config(write_feed(tmp_path), tmp_path / "run")
    (before,), (after,) = rows(config, [1]), rows(config, [2])
    numbers, codes = after.continuous.clone(), after.discrete.clone()
    numbers[:, 1] *= 20
    numbers[:500, 0] = torch.nan
    codes[:200, 1] = 0
    after = replace(after, continuous=numbers, discrete=codes, vectors={"vector": -after.vectors["vector"] - 5})
    found = compared(config, [before], [after])
    assert [item.feature for item in found.features][:2] == ["followers", "age"]
    by_name = {item.feature: item for item in found.features}
    assert by_name["in_network"].psi < 0.01
    values = before.continuous[:, 1].numpy()
    ends = np.unique(np.quantile(values, np.arange(1, 10) / 10, method="higher"))
    counts = [
        pd.cut(part.continuous[:, 1].numpy(), [-np.inf, *ends, np.inf], right=False).value_counts()
        for part in (before, after)
    ]
    shares = [(count + 0.5) / (count + 0.5).sum() for count in counts]
    expected = ((shares[1] - shares[0]) * np.log(shares[1] / shares[0])).sum()
    assert by_name["followers"].psi == pytest.approx(expected)
    assert by_name["age"].missing[1] == pytest.approx(torch.isnan(numbers[:, 0]).double().mean().item())
    assert by_name["language"].missing == pytest.approx(
        [(part.discrete[:, 1] == 0).double().mean().item() for part in (before, after)]
    )
    assert found.vectors[0].norm[1] > found.vectors[0].norm[0] + 4
    assert found.tasks[0].psi > 0.05


def test_a_sample_is_deterministic_and_drift_survives_json(tmp_path: Path) -> None:
    config = feed_config(write_feed(tmp_path), tmp_path / "run")
    assets = load_assets(config.features)
    training = read_sample(config, assets)
    again = read_sample(config, assets)
    assert all(torch.equal(one.discrete, other.discrete) for one, other in zip(training, again, strict=True))
    found = compared(config, training, read_sample(config, assets, "validation"))
    assert found.rows == (600, 250)
    assert Drift.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_the_index_of_empty_bins_is_finite() -> None:
    assert 0 < psi(np.array([10.0, 0.0]), np.array([0.0, 10.0])) < np.inf


def test_a_column_of_one_value_has_one_bin(tmp_path: Path) -> None:
    config = feed_config(write_feed(tmp_path), tmp_path / "run")
    (sample,) = rows(config, [1])
    constant = replace(sample, continuous=torch.ones_like(sample.continuous))
    age = next(item for item in compared(config, [constant], [constant]).features if item.feature == "age")
    assert [(share.values, share.rows) for share in age.bins] == [("any value", 1.0)]
    assert age.psi == 0
