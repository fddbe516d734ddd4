"""Missing numbers: a learned value stands for them, and they do not count in BatchNorm."""

from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor, nn
from torch.testing import assert_close

from recap.config.featurization import FeaturizationConfig
from recap.model.inputs.featurization import Featurization, build_featurization
from recap.model.inputs.norms import ObservedBatchNorm

KINDS: dict[str, dict[str, Any]] = {
    "log1p_abs": {},
    "clip_log1p_abs": {"clip_magnitude": 50.0},
    "z_score_log": {"analysis": "a.parquet"},
    "quantile": {"quantiles": 5},
    "double_norm_log": {},
}
NAN, INF = float("nan"), float("inf")


def made(kind: str, missing: str, columns: int = 3) -> Featurization:
    settings = {"kind": kind, "missing": missing, **KINDS[kind]}
    config: FeaturizationConfig = TypeAdapter(FeaturizationConfig).validate_python(settings)
    return build_featurization(config, columns, 0).eval()


@pytest.mark.parametrize("kind", KINDS)
def test_a_learned_value_replaces_missing_ones_and_no_others(kind: str) -> None:
    values = torch.tensor([[1.0, NAN, -3.0], [INF, 2.0, 100.0], [-INF, 0.5, NAN]])
    learned, zero = made(kind, "learned"), made(kind, "zero")
    assert learned.missing is not None
    assert torch.equal(learned.missing, torch.zeros(3))
    with torch.no_grad():
        learned.missing.copy_(torch.tensor([10.0, 20.0, 30.0]))
    expected = torch.where(values.isfinite(), zero.columns(values), learned.missing)
    assert torch.equal(learned.columns(values), expected)
    chosen = torch.tensor([2, 0])
    assert torch.equal(learned.columns(values[:, chosen], chosen), expected[:, chosen])


def test_a_missing_value_counts_as_0_by_default() -> None:
    for kind in KINDS:
        featurization = made(kind, "zero")
        assert featurization.missing is None
        missing, zeros = torch.tensor([[NAN, INF, -INF]]), torch.zeros(1, 3)
        assert torch.equal(featurization.columns(missing), featurization.columns(zeros))


def test_only_rows_where_a_value_is_missing_move_its_learned_value() -> None:
    featurization = made("log1p_abs", "learned")
    values = torch.tensor([[1.0, NAN, 2.0], [INF, NAN, 2.0]])
    featurization.columns(values).sum().backward()
    assert featurization.missing is not None
    assert featurization.missing.grad is not None
    assert featurization.missing.grad.tolist() == [1.0, 2.0, 0.0]


def norms(columns: int = 3, **settings: Any) -> tuple[ObservedBatchNorm, nn.BatchNorm1d]:
    """Both kinds of BatchNorm, with the same weights."""
    torch.manual_seed(0)
    ours = ObservedBatchNorm(columns, momentum=0.3, **settings)
    theirs = nn.BatchNorm1d(columns, momentum=0.3, **settings)
    if ours.affine:
        nn.init.normal_(ours.weight)
        nn.init.normal_(ours.bias)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


@pytest.mark.parametrize("affine", [True, False])
def test_without_missing_values_it_is_batch_norm(affine: bool) -> None:
    ours, theirs = norms(affine=affine)
    values = torch.randn(50, 3) * 4 + 2
    observed = torch.ones_like(values, dtype=torch.bool)
    for _ in range(2):
        assert_close(ours(values, observed), theirs(values))
    for name, buffer in theirs.named_buffers():
        assert_close(ours.get_buffer(name), buffer)
    assert torch.equal(ours.eval()(values, observed), ours(values))
    assert_close(ours(values), theirs.eval()(values))


def test_every_column_is_normalised_as_its_other_values_alone() -> None:
    ours, theirs = norms()
    values, observed = torch.randn(200, 3) * 4 + 2, torch.rand(200, 3) < torch.tensor([0.9, 0.5, 0.1])
    made = ours(torch.where(observed, values, 0), observed)
    for column in range(3):
        known = observed[:, column]
        alone = nn.BatchNorm1d(1, momentum=0.3)
        alone.load_state_dict(
            {name: part[column : column + 1] if part.dim() else part for name, part in theirs.state_dict().items()}
        )
        assert_close(made[known, column], alone(values[known, column : column + 1])[:, 0])
        assert alone.running_mean is not None
        assert alone.running_var is not None
        assert_close(at(ours.running_mean, column), alone.running_mean)
        assert_close(at(ours.running_var, column), alone.running_var)


def at(values: Tensor | None, column: int) -> Tensor:
    assert values is not None
    return values[column : column + 1]


def test_a_column_with_less_than_two_values_keeps_its_running_statistics() -> None:
    ours, _ = norms(2, affine=False)
    before = {name: buffer.clone() for name, buffer in ours.named_buffers()}
    values = torch.tensor([[7.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    observed = torch.tensor([[True, False], [False, False], [False, False]])
    made = ours(values, observed)
    assert made.tolist() == [[0.0, 0.0]] * 3
    assert torch.equal(ours.get_buffer("running_mean"), before["running_mean"])
    assert torch.equal(ours.get_buffer("running_var"), before["running_var"])
