"""Embeddings of numbers against the equations of their papers; columns of some users alone; layouts."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from model.rankers import make_batch, make_config, make_ranker
from pydantic import TypeAdapter
from torch import Tensor
from torch.testing import assert_close

from recap.config.featurization import NumbersConfig
from recap.model.inputs.numbers import (
    AutoDis,
    ColumnProduct,
    NumberEmbedding,
    Periodic,
    PiecewiseLinear,
    build_number_embedding,
)

KINDS: dict[str, dict[str, Any]] = {
    "piecewise_linear": {"bins": 4, "width": 3},
    "without an activation": {"kind": "piecewise_linear", "bins": 1, "width": 3, "activation": "none"},
    "periodic": {"frequencies": 5, "sigma": 0.7, "width": 3},
    "auto_dis": {"buckets": 6, "width": 3, "temperature": 0.3, "skip": 0.7},
}


def made(kind: str, columns: int) -> NumberEmbedding:
    torch.manual_seed(0)
    config: NumbersConfig = TypeAdapter(NumbersConfig).validate_python({"kind": kind, **KINDS[kind]})
    return build_number_embedding(config, columns)


def values_of(rows: int, columns: int) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(1)) * 2


def weights_of(product: ColumnProduct, column: int) -> tuple[list[list[float]], list[float]]:
    """The matrix of a column, inputs × outputs, and its bias."""
    bias = product.bias[column].tolist() if product.bias is not None else [0.0] * product.weight.shape[2]
    return product.weight[column].tolist(), bias


def linear(inputs: list[float], weights: tuple[list[list[float]], list[float]]) -> list[float]:
    matrix, bias = weights
    return [sum(x * row[out] for x, row in zip(inputs, matrix, strict=True)) + bias[out] for out in range(len(bias))]


def encoded_slowly(x: float, edges: list[float]) -> list[float]:
    """Equation 1 of arXiv:2203.05556: b₀ … b_T are `edges`, and e₁ … e_T the result."""
    count, result = len(edges) - 1, []
    for t in range(1, count + 1):
        if x < edges[t - 1] and t > 1:
            result.append(0.0)
        elif x >= edges[t] and t < count:
            result.append(1.0)
        else:
            result.append((x - edges[t - 1]) / (edges[t] - edges[t - 1]))
    return result


EDGES = st.lists(st.integers(-4, 4), min_size=5, max_size=5).map(sorted)


@given(st.lists(EDGES, min_size=1, max_size=3), st.data())
def test_piecewise_linear_encoding_matches_equation_1(columns: list[list[int]], data: st.DataObject) -> None:
    numbers = st.floats(-6, 6, width=32) | st.integers(-5, 5).map(float)
    row = data.draw(st.lists(numbers, min_size=len(columns), max_size=len(columns)))
    embedding = made("piecewise_linear", len(columns))
    assert isinstance(embedding, PiecewiseLinear)
    embedding.set_edges(torch.tensor(columns, dtype=torch.float32))
    encoded = embedding.encoded(torch.tensor([row]))[0]
    for x, quantiles, found in zip(row, columns, encoded, strict=True):
        edges = sorted(set(map(float, quantiles)))
        edges += [edges[0] + 1] if len(edges) == 1 else []
        expected = encoded_slowly(x, edges)
        assert found.tolist() == pytest.approx(expected + [0.0] * (4 - len(expected)), rel=1e-5, abs=1e-5)


@pytest.mark.parametrize(("kind", "activates"), [("piecewise_linear", True), ("without an activation", False)])
def test_a_linear_of_each_column_follows_the_encoding(kind: str, activates: bool) -> None:
    embedding, values = made(kind, 2), values_of(5, 2)
    assert isinstance(embedding, PiecewiseLinear)
    for row, vectors in zip(values.tolist(), embedding(values), strict=True):
        for column, (x, vector) in enumerate(zip(row, vectors, strict=True)):
            edges = embedding.edges[column].tolist()
            outputs = linear(encoded_slowly(x, edges), weights_of(embedding.linear, column))
            assert_close(vector, torch.tensor([max(out, 0.0) if activates else out for out in outputs]))


def test_periodic_embeddings_match_equation_2() -> None:
    embedding, values = made("periodic", 2), values_of(5, 2)
    assert isinstance(embedding, Periodic)
    for row, vectors in zip(values.tolist(), embedding(values), strict=True):
        for column, (x, vector) in enumerate(zip(row, vectors, strict=True)):
            angles = [2 * math.pi * c * x for c in embedding.frequencies[column].tolist()]
            waves = [math.sin(angle) for angle in angles] + [math.cos(angle) for angle in angles]
            outputs = linear(waves, weights_of(embedding.linear, column))
            assert_close(vector, torch.tensor([max(out, 0.0) for out in outputs]), atol=1e-4, rtol=1e-4)


def test_frequencies_start_from_a_normal_distribution_of_deviation_sigma() -> None:
    config = TypeAdapter(NumbersConfig).validate_python({"kind": "periodic", "frequencies": 20_000, "sigma": 3.0})
    torch.manual_seed(0)
    embedding = build_number_embedding(config, 1)
    assert isinstance(embedding, Periodic)
    assert embedding.frequencies.std().item() == pytest.approx(3.0, rel=0.03)


def test_auto_dis_matches_its_equations() -> None:
    embedding, values = made("auto_dis", 2), values_of(5, 2)
    assert isinstance(embedding, AutoDis)
    for row, vectors in zip(values.tolist(), embedding(values), strict=True):
        for column, (x, vector) in enumerate(zip(row, vectors, strict=True)):
            first = linear([x], weights_of(embedding.first, column))
            hidden = [out if out > 0 else 0.01 * out for out in first]
            second = linear(hidden, weights_of(embedding.second, column))
            scores = [out + 0.7 * skipped for out, skipped in zip(second, hidden, strict=True)]
            powers = [math.exp(score / 0.3) for score in scores]
            shares = [power / sum(powers) for power in powers]
            assert_close(vector, torch.tensor(linear(shares, weights_of(embedding.meta_embeddings, column))))


@pytest.mark.parametrize("kind", KINDS)
def test_some_columns_alone_have_the_vectors_of_all_columns(kind: str) -> None:
    embedding, values = made(kind, 5), values_of(7, 5)
    for chosen in ([3, 0], [2], []):
        indices = torch.tensor(chosen, dtype=torch.int64)
        assert_close(embedding(values[:, indices], indices), embedding(values)[:, indices])


def test_a_missing_value_has_a_learned_vector_of_its_column() -> None:
    config = make_config("piecewise_linear")
    featurization = make_ranker(config).eval().inputs.featurization
    assert featurization.missing is not None
    assert featurization.missing.shape == (2, 4)
    with torch.no_grad():
        featurization.missing.copy_(torch.arange(8.0).view(2, 4))
    made = featurization.columns(torch.tensor([[math.nan, 1.0], [1.0, math.inf]]))
    assert made[0, 0].tolist() == [0.0, 1.0, 2.0, 3.0]
    assert made[1, 1].tolist() == [4.0, 5.0, 6.0, 7.0]


def test_embedded_numbers_come_before_the_embeddings_of_ids() -> None:
    config = make_config("piecewise_linear")
    inputs, batch = make_ranker(config).eval().inputs, make_batch(config, rows=6)
    layout = inputs.layout
    assert list(layout.embeddings) == [4, 4, 4, 4]
    assert list(layout.names) == ["age", "followers", "hour", "language"]
    assert layout.numbers == 1 + 4  # in_network, vector
    columns = inputs.featurization.columns(batch.continuous)
    age, followers = layout.columns_of(["age", "followers"])
    row = inputs(batch)
    assert torch.equal(row[:, age], columns[:, 0])
    assert torch.equal(row[:, followers], columns[:, 1])
    assert torch.equal(row[:, 0], batch.binary[:, 0])
