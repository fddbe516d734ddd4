"""Gradient clipping, dense and sparse, against torch's own, and in runs."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import Recorder, at_half, feed_values
from torch import Tensor, nn
from torch.testing import assert_close
from training.runs import assert_same_run, files, interrupt, records

from recap.config.file.load import config_of
from recap.config.optimizer import NormClippingConfig, ValueClippingConfig
from recap.config.recap import RecapConfig
from recap.errors import ConfigError, Interrupted, RunError
from recap.model.directory import new_ranker
from recap.model.ranker import Ranker
from recap.runs import Run
from recap.training.optimizer.clipping import clip_gradients
from recap.training.start import ranker as start_ranker
from recap.training.trainer import train

NORM = {"kind": "norm", "max_norm": 0.2}
VALUE = {"kind": "value", "max_value": 0.01}


def clipped(feed: Path, run: Path, clipping: dict[str, Any] | None, **training: Any) -> RecapConfig:
    values = feed_values(feed, run)
    values["training"] |= {"train_log_every_n": 1, **training}
    values["optimizer"]["clip_gradients"] = clipping
    return config_of(values)


def parameters(seed: int) -> list[nn.Parameter]:
    """Three parameters with a gradient, and one without."""
    torch.manual_seed(seed)
    made = [nn.Parameter(torch.randn(shape)) for shape in ((3, 2), (4,), (), (2,))]
    for parameter in made[:3]:
        parameter.grad = torch.randn(parameter.shape)
    return made


def all_gradients(of: list[nn.Parameter]) -> Tensor:
    return torch.cat([parameter.grad.to_dense().flatten() for parameter in of if parameter.grad is not None])


@given(st.integers(0, 10**6), st.floats(0.01, 10))
def test_clipping_by_norm_equals_torch_and_returns_the_norm_before(seed: int, bound: float) -> None:
    ours, theirs = parameters(seed), parameters(seed)
    before = all_gradients(ours).norm()
    norm = clip_gradients(NormClippingConfig(kind="norm", max_norm=bound), ours)
    assert_close(torch.tensor(norm), before)
    torch.nn.utils.clip_grad_norm_(theirs, bound)
    assert_close(all_gradients(ours), all_gradients(theirs))
    assert all_gradients(ours).norm() <= bound * (1 + 1e-5)
    assert ours[3].grad is None


@given(st.integers(0, 10**6), st.floats(0.01, 10))
def test_clipping_by_value_equals_torch(seed: int, bound: float) -> None:
    ours, theirs = parameters(seed), parameters(seed)
    before = all_gradients(ours).norm()
    assert_close(torch.tensor(clip_gradients(ValueClippingConfig(kind="value", max_value=bound), ours)), before)
    torch.nn.utils.clip_grad_value_(theirs, bound)
    assert torch.equal(all_gradients(ours), all_gradients(theirs))


def test_gradients_below_the_bound_are_unchanged() -> None:
    ours = parameters(0)
    before = all_gradients(ours)
    clip_gradients(NormClippingConfig(kind="norm", max_norm=1e3), ours)
    clip_gradients(ValueClippingConfig(kind="value", max_value=1e3), ours)
    assert torch.equal(all_gradients(ours), before)


@pytest.mark.parametrize(
    "config", [NormClippingConfig(kind="norm", max_norm=0.5), ValueClippingConfig(kind="value", max_value=0.5)]
)
def test_sparse_gradients_are_clipped_as_dense_ones_and_stay_sparse(
    config: NormClippingConfig | ValueClippingConfig,
) -> None:
    """Repeated rows count once, with the sum of their gradients."""
    made = []
    for sparse in (True, False):
        torch.manual_seed(1)
        table = nn.Embedding(10, 3, sparse=sparse)
        bias = nn.Parameter(torch.randn(3))
        ((table(torch.tensor([1, 1, 4, 1])) + bias) ** 2).sum().backward()
        assert table.weight.grad is not None
        assert table.weight.grad.is_sparse == sparse
        made.append([table.weight, bias])
    norms = [clip_gradients(config, parameters) for parameters in made]
    assert norms[0] == pytest.approx(norms[1])
    assert made[0][0].grad is not None
    assert made[0][0].grad.is_sparse
    assert made[0][0].grad.coalesce().indices().tolist() == [[1, 4]]
    assert_close(all_gradients(made[0]), all_gradients(made[1]))


def test_repeated_rows_of_a_sparse_gradient_are_summed_in_their_order() -> None:
    """Numbers of very different sizes, so that another order of summation gives other bits."""
    torch.manual_seed(0)
    codes, scales = torch.randint(0, 5, (2000,)), torch.randn(2000).exp() ** 6
    table = nn.Embedding(5, 2, sparse=True)
    (table(codes) * scales[:, None]).sum().backward()
    expected = torch.zeros(5, 2)
    for code, scale in zip(codes, scales, strict=True):
        expected[code] += scale
    clip_gradients(NormClippingConfig(kind="norm", max_norm=1e30), [table.weight])
    assert table.weight.grad is not None
    assert torch.equal(table.weight.grad.to_dense(), expected)


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize(
    "config", [NormClippingConfig(kind="norm", max_norm=0.5), ValueClippingConfig(kind="value", max_value=0.5)]
)
def test_non_finite_gradients_are_reported_and_not_clipped(
    config: NormClippingConfig | ValueClippingConfig, bad: float
) -> None:
    ours = parameters(0)
    assert ours[1].grad is not None
    ours[1].grad[2] = bad
    before = all_gradients(ours)
    assert not math.isfinite(clip_gradients(config, ours))
    assert torch.equal(all_gradients(ours).nan_to_num(nan=7), before.nan_to_num(nan=7))


def test_without_gradients_the_norm_is_zero() -> None:
    assert clip_gradients(NormClippingConfig(kind="norm", max_norm=1.0), [nn.Parameter(torch.ones(2))]) == 0.0


@pytest.mark.parametrize("clipping", [NORM, VALUE])
def test_a_clipped_run_logs_norms_and_moves_differently(feed: Path, tmp_path: Path, clipping: dict[str, Any]) -> None:
    train(clipped(feed, tmp_path / "free", None), Recorder())
    train(clipped(feed, tmp_path / "bound", clipping), Recorder())
    free, bound = (
        [record for record in records(tmp_path / run) if record["split"] == "train"] for run in ("free", "bound")
    )
    assert not any("gradient_norm" in record for record in free)
    assert all(record["gradient_norm"] > NORM["max_norm"] for record in bound), "or this says nothing"
    assert [free[step]["loss"] == bound[step]["loss"] for step in (0, 11)] == [True, False]


def test_a_bound_that_is_never_reached_changes_nothing(feed: Path, tmp_path: Path) -> None:
    for name, clipping in (("free", None), ("bound", {"kind": "norm", "max_norm": 1e6})):
        train(clipped(feed, tmp_path / name, clipping), Recorder())
    weights = [
        (Run(tmp_path / run).checkpoint_path(12) / "weights.safetensors").read_bytes() for run in ("free", "bound")
    ]
    assert weights[0] == weights[1]


def test_learned_task_weights_are_clipped_with_the_others(feed: Path, tmp_path: Path) -> None:
    """Adam's first step depends on the sign of a gradient only, but the second moment shows its size."""
    values = feed_values(feed, tmp_path / "run")
    values["training"] |= {"num_train_steps": 1}
    values["optimizer"] |= {"balancing": {"kind": "uncertainty"}, "clip_gradients": {"kind": "norm", "max_norm": 1e-3}}
    train(config_of(values), Recorder())
    moments = files(tmp_path / "run", 1, "optimizer.safetensors")
    squares = [value for name, value in moments.items() if name.endswith("/exp_avg_sq")]
    assert "balancing.log_variances/exp_avg_sq" in moments
    assert moments["balancing.log_variances/exp_avg_sq"].min() > 0
    total = sum(float(square.double().sum()) for square in squares) / (1 - 0.999)
    assert math.sqrt(total) == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize(("size", "what"), [(math.inf, "gradient of"), (1.5e19, "norm of all gradients")])
def test_non_finite_gradients_stop_the_run_before_the_weights_move(
    feed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: float, what: str
) -> None:
    made: list[tuple[nn.Parameter, Tensor]] = []

    def with_a_bad_gradient(*given: Any) -> Ranker:
        ranker = new_ranker(*given)
        for parameter in ranker.parameters():  # the square of one of this size is a float32, that of two is none
            parameter.register_hook(lambda gradient: torch.full_like(gradient, size / math.sqrt(gradient.numel())))
            made.append((parameter, parameter.detach().clone()))
        return ranker

    monkeypatch.setattr(start_ranker, "new_ranker", with_a_bad_gradient)
    with pytest.raises(RunError, match=rf"step 1: the {what}.* is not finite; the weights were not changed"):
        train(at_half(clipped(feed, tmp_path / "run", NORM)), Recorder())
    assert all(torch.equal(parameter, before) for parameter, before in made)


@pytest.mark.parametrize("clipping", [NORM, VALUE])
def test_a_clipped_run_resumes_bit_for_bit(feed: Path, tmp_path: Path, clipping: dict[str, Any]) -> None:
    whole, stopped = (clipped(feed, tmp_path / run, clipping, gradient_accumulation=2) for run in ("whole", "stopped"))
    train(whole, Recorder())
    for step in (3, 7):
        with pytest.raises(Interrupted):
            train(stopped, Recorder({step: interrupt}))
    train(stopped, Recorder())
    assert_same_run(tmp_path / "whole", tmp_path / "stopped", 12)


@pytest.mark.parametrize(
    ("clipping", "message"),
    [
        ({"kind": "norm", "max_norm": 0.0}, r"clip_gradients.max_norm: must be above 0, found 0.0"),
        ({"kind": "value"}, r"clip_gradients.max_value: is required, but missing"),
        ({"kind": "nrom", "max_norm": 1.0}, r"clip_gradients.kind: 'nrom' is unknown. Known: norm, value. Did you"),
    ],
)
def test_a_bound_that_is_not_positive_is_refused(tmp_path: Path, clipping: dict[str, Any], message: str) -> None:
    values = feed_values(tmp_path, tmp_path / "run")
    values["optimizer"]["clip_gradients"] = clipping
    with pytest.raises(ConfigError, match=message):
        config_of(values)
