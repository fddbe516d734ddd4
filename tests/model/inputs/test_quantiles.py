"""The quantile featurization against scikit-learn's QuantileTransformer."""

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ndtri
from sklearn.preprocessing import QuantileTransformer
from torch import Tensor

from recap.config.featurization import QuantileConfig
from recap.model.inputs.featurization import Quantile, build_featurization
from recap.model.inputs.quantiles import normal_quantile, points_of, quantiles_of, shares

Floats = npt.NDArray[np.float64]
TOLERANCE = {"uniform": 1e-6, "normal": 1e-3}


def sample(rows: int = 3000) -> Tensor:
    """Columns that are normal, heavy-tailed, and of few values that come often."""
    random = np.random.default_rng(0)
    columns = [random.normal(size=rows), np.exp(2 * random.normal(size=rows)), random.integers(0, 12, rows)]
    return torch.from_numpy(np.stack(columns, axis=1).astype(np.float32))


def fitted(values: Tensor, output: str, quantiles: int) -> Quantile:
    config = QuantileConfig.model_validate({"kind": "quantile", "quantiles": quantiles, "output": output})
    featurization = build_featurization(config, values.shape[1], 0)
    assert isinstance(featurization, Quantile)
    featurization.set_quantiles(quantiles_of(values, quantiles))
    return featurization.eval()


def ours(featurization: Quantile, values: Tensor) -> Floats:
    made: Floats = featurization(values, values[:, :0]).double().numpy()
    return made


@pytest.mark.parametrize("output", ["normal", "uniform"])
def test_values_are_those_of_scikit_learn(output: str) -> None:
    seen = sample()
    other = sample(4000)[3000:]  # also beyond the sample; an integer that is one of few is always at a quantile
    values = torch.cat([seen, other])
    theirs = QuantileTransformer(n_quantiles=100, output_distribution=output, subsample=None)
    theirs.fit(seen.double().numpy())
    expected = theirs.transform(values.double().numpy())
    expected = expected.clip(-5.166, 5.166)  # its ends are at 1e-7, which float32 cannot tell from 1
    found = ours(fitted(seen, output, 100), values)
    ends = np.zeros_like(expected, dtype=bool)  # of the column of few values, see the next test
    ends[:, 2] = np.isin(values[:, 2].numpy(), [0, 11])
    assert np.abs(found - expected)[~ends].max() < TOLERANCE[output]


def test_a_common_value_at_an_end_has_the_middle_of_its_share_and_values_beyond_it_too() -> None:
    values = torch.tensor([[0.0]] * 600 + [[1.0]] * 100 + [[2.0]] * 300)
    found = ours(fitted(values, "uniform", 1001), torch.tensor([[0.0], [1.0], [2.0], [-9.0], [9.0]]))
    assert found[:, 0] == pytest.approx([0.3, 0.65, 0.85, 0.3, 0.85], abs=1e-3)


def test_a_column_of_one_value_maps_it_to_the_middle_and_one_without_values_maps_0_there() -> None:
    values = torch.tensor([[7.0, np.nan]] * 9)
    assert ours(fitted(values, "uniform", 10), torch.tensor([[7.0, 0.0]])).tolist() == [[0.5, 0.5]]
    assert ours(fitted(values, "normal", 10), torch.tensor([[7.0, 0.0]])).tolist() == [[0.0, 0.0]]


def test_missing_values_have_no_part_in_the_quantiles() -> None:
    values = torch.tensor([[1.0], [np.nan], [2.0], [np.inf], [3.0], [-np.inf]])
    assert quantiles_of(values, 3).tolist() == [[1.0, 2.0, 3.0]]


NUMBERS = st.floats(-9, 9, width=32) | st.integers(-2, 2).map(float)


@given(st.lists(NUMBERS, min_size=2, max_size=12), st.lists(NUMBERS, min_size=1, max_size=5))
def test_shares_are_the_line_through_the_middles_of_equal_quantiles(knots: list[float], values: list[float]) -> None:
    knots, values = sorted(knots), sorted(values)
    different = sorted(set(knots))
    middles = [np.mean([index for index, knot in enumerate(knots) if knot == value]) for value in different]
    expected = np.interp(values, different, middles) / (len(knots) - 1)
    found = shares(torch.tensor(values)[:, None], points_of(torch.tensor([knots])))[:, 0].tolist()
    assert found == pytest.approx(expected.tolist(), abs=1e-5)
    assert found == sorted(found)


def test_the_normal_quantile_is_that_of_scipy() -> None:
    probabilities = torch.linspace(0, 1, 5001)
    expected = ndtri(probabilities.double().clamp(2**-23, 1 - 2**-23).numpy())
    assert np.abs(normal_quantile(probabilities).double().numpy() - expected).max() < 1e-4
