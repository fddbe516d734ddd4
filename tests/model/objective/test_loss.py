"""The loss of each kind of task against its formula, written as a loop."""

import math
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from model.kinds import OTHERS
from model.rankers import make_batch, make_config, make_ranker
from pydantic import TypeAdapter
from support import feed_values
from torch import Tensor
from torch.nn.functional import softplus
from torch.testing import assert_close

from recap.config.file.load import config_of
from recap.config.model import TaskConfig
from recap.errors import ConfigError
from recap.model.activation import MAX_LOG
from recap.model.objective import pairs
from recap.model.objective.losses import MultiTaskLoss
from recap.model.objective.pairs import pairwise_loss
from recap.model.scorer import Scorer


def loss_of(*tasks: dict[str, Any]) -> MultiTaskLoss:
    values = {f"task{index}": {"tower": {"kind": "mlp"}, **task} for index, task in enumerate(tasks)}
    adapter = TypeAdapter(dict[str, TaskConfig])
    model = make_config("mlp-share_all").model.model_copy(update={"tasks": adapter.validate_python(values)})
    return MultiTaskLoss.of(model)


def make_rows(count: int = 60, tasks: int = 2, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(seed)
    return torch.randn(count, tasks) * 3, (torch.rand(count, tasks) < 0.4).float(), torch.rand(count, tasks)


def focal(gamma: float, pos_weight: float = 1.0) -> dict[str, Any]:
    return {"loss": {"kind": "focal", "gamma": gamma}, "pos_weight": pos_weight}


def regression(transform: str, **loss: Any) -> dict[str, Any]:
    return {"objective": {"kind": "regression", "transform": transform, "loss": loss}}


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_the_focal_loss_matches_its_paper(gamma: float) -> None:
    logits, labels, weights = make_rows(tasks=1)
    expected = 0.0
    for logit, label, weight in zip(logits[:, 0].tolist(), labels[:, 0].tolist(), weights[:, 0].tolist(), strict=True):
        probability = 1 / (1 + math.exp(-logit))
        of_label = probability if label else 1 - probability
        factor = 3.0 if label else 1.0
        expected -= weight * factor * (1 - of_label) ** gamma * math.log(of_label) / len(logits)
    assert loss_of(focal(gamma, 3.0))(logits, labels, weights).item() == pytest.approx(expected, rel=1e-5)


def test_the_focal_loss_with_gamma_0_is_binary_cross_entropy() -> None:
    rows = make_rows()
    mixed = loss_of({"pos_weight": 2.0}, focal(0.0, 2.0))
    assert_close(mixed(*rows), MultiTaskLoss([2.0, 2.0])(*rows))


@given(st.floats(-1e4, 1e4), st.booleans(), st.floats(0, 5))
def test_the_gradient_of_the_focal_loss_is_finite_for_every_logit(logit: float, label: bool, gamma: float) -> None:
    logits = torch.tensor([[logit]], requires_grad=True)
    loss_of(focal(gamma))(logits, torch.tensor([[float(label)]]), torch.ones(1, 1)).sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_a_regression_loss_measures_the_error_to_the_transformed_label() -> None:
    raw, labels, weights = torch.tensor([[1.0], [-2.0]]), torch.tensor([[0.0], [6.0]]), torch.tensor([[1.0], [0.5]])
    first, second = 1.0, math.log(7) + 2
    slow = {
        "mse": first**2 + 0.5 * second**2,
        "mae": first + 0.5 * second,
        "huber": 0.5 * first**2 + 0.5 * 1.5 * (second - 0.75),
    }
    for kind, expected in slow.items():
        more = {"delta": 1.5} if kind == "huber" else {}
        found = loss_of(regression("log1p", kind=kind, **more))(raw, labels, weights)
        assert found.item() == pytest.approx(expected / 2), kind
    assert loss_of(regression("none", kind="mae"))(raw, labels, weights).item() == pytest.approx((1 + 0.5 * 8) / 2)


def test_rows_without_a_label_do_not_count_in_any_loss() -> None:
    logits, labels, weights = make_rows(tasks=3)
    loss = loss_of({"pairwise": {"weight": 1.0}}, focal(2.0), regression("log1p", kind="mse"))
    groups = {"user": torch.zeros(len(logits), dtype=torch.int64)}
    weights[30:] = 0
    found = loss(logits, labels, weights, groups)
    logits[30:], labels[30:] = 7.0, 0.0
    assert_close(loss(logits, labels, weights, groups), found)


def test_a_regression_predicts_in_the_unit_of_its_label() -> None:
    ranker = make_ranker(make_config("regressions"))
    found = ranker.activation(torch.tensor([[math.log(8), -3.5], [-1.0, 4.0], [1e30, 1e30]]))
    assert_close(found[:2], torch.tensor([[7.0, -3.5], [0.0, 4.0]]))
    assert found[2, 0].item() == pytest.approx(math.expm1(MAX_LOG), rel=1e-4)
    output = Scorer.of(make_config("regressions"), ranker).eval()(make_batch(make_config("regressions")))
    assert torch.equal(output.probabilities, output.calibrated_probabilities)
    assert torch.equal(output.probabilities[:, 1], output.logits[:, 1])


@pytest.mark.parametrize("case", OTHERS)
def test_the_output_activation_exports(case: str) -> None:
    config = make_config(case)
    ranker = make_ranker(config).eval()
    outputs = torch.randn(5, 2) * 10
    program = torch.export.export(ranker.activation, (outputs,))
    assert torch.equal(program.module()(outputs), ranker.activation(outputs))


def slow_pairs(logits: Tensor, labels: Tensor, users: Tensor, known: Tensor) -> Tensor:
    pair_losses = [
        softplus(logits[below] - logits[above])
        for above, below in product(range(len(logits)), repeat=2)
        if known[above] and known[below] and users[above] == users[below] and labels[above] > labels[below]
    ]
    return torch.stack(pair_losses).mean() if pair_losses else logits.sum() * 0


@given(st.integers(0, 40), st.integers(1, 12), st.integers(0, 10**6), st.sampled_from([1, 7, 1 << 20]))
def test_the_pairwise_loss_is_the_mean_over_all_pairs_within_users(
    count: int, max_user: int, seed: int, chunk: int
) -> None:
    torch.manual_seed(seed)
    logits = torch.randn(count, dtype=torch.float64, requires_grad=True)
    labels, known = (torch.rand(count) < 0.4).double(), torch.rand(count) < 0.8
    users = torch.randint(-max_user, max_user, (count,))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pairs, "CHUNK_PAIRS", chunk)
        found = pairwise_loss(logits, labels, users, known)
    expected = slow_pairs(logits, labels, users, known)
    assert_close(found, expected)
    if count:
        (gradient,) = torch.autograd.grad(3 * found, logits)
        (slow,) = torch.autograd.grad(3 * expected, logits)
        assert_close(gradient, slow)


def test_without_pairs_the_pairwise_loss_is_zero() -> None:
    logits = torch.randn(4, requires_grad=True)
    loss = pairwise_loss(logits, torch.tensor([1.0, 0, 1, 0]), torch.arange(4), torch.ones(4, dtype=torch.bool))
    loss.backward()
    assert loss == 0
    assert torch.equal(logits.grad, torch.zeros(4))


def test_the_pairwise_loss_is_added_to_the_task_that_sets_it() -> None:
    logits, labels, weights = make_rows()
    users = torch.randint(0, 5, (60,))
    found = loss_of({}, {"pairwise": {"weight": 0.1}})(logits, labels, weights, {"user": users})
    plain = MultiTaskLoss([1.0, 1.0])(logits, labels, weights)
    assert found[0] == plain[0]
    pairs_of_task = slow_pairs(logits[:, 1], labels[:, 1], users, torch.ones(60, dtype=torch.bool))
    assert_close(found[1], plain[1] + 0.1 * pairs_of_task)


FOLLOWERS: dict[str, Any] = {"tower": {"kind": "mlp"}, **regression("log1p", kind="mse")}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {"tasks": {"like": FOLLOWERS | {"loss": {"kind": "focal"}}}}}, "focal is a loss of binary tasks"),
        ({"model": {"tasks": {"like": FOLLOWERS | {"pos_weight": 2.0}}}}, "a regression task has no positives"),
        ({"model": {"tasks": {"like": FOLLOWERS | {"pairwise": {"weight": 1.0}}}}}, "no positives and negatives to"),
        ({"model": {"tasks": {"like": {"tower": {"kind": "mlp"}, "pairwise": {"weight": 1.0}}}}}, "set features.user"),
        (
            {"train_data": {"tasks": {"like": {"neg_downsampling_rate": 0.5}}}},
            "regression task, without positives and",
        ),
        (
            {"train_data": {"downsample_negatives": {"batch_multiplier": 2, "keep_positives_of": ["like"]}}},
            "'like' is a regression task, without positives; list binary tasks only",
        ),
        (
            {
                "train_data": {
                    "rectify_labels": {"served_at": "a", "impressed_at": "b", "engaged_at": {"like": "c"}},
                }
            },
            "'like' is a regression task, without positives; remove it",
        ),
        ({"which_metrics": ["auc"]}, "'auc' is a metric of binary tasks, and there are none"),
        (
            {"model": {"tasks": {"like": {"tower": {"kind": "mlp"}}}}, "which_metrics": ["xauc"]},
            "'xauc' is a metric of regression tasks, and there are none",
        ),
        (
            {"optimizer": {"balancing": {"kind": "pcgrad"}}},
            "pcgrad needs at least two tasks, found 1",
        ),
        (
            {"optimizer": {"balancing": {"kind": "grad_norm"}}, "model": {"sharing": {"kind": "share_none"}}},
            "grad_norm balances gradients of shared weights, and share_none has no",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(change: dict[str, Any], message: str, tmp_path: Any) -> None:
    values = feed_values(tmp_path, tmp_path)
    values["model"]["tasks"] = {"like": FOLLOWERS}
    values["train_data"]["tasks"] = {"like": {}}
    values["scoring"] = {}
    del values["features"]["user"]
    for section, changed in change.items():
        values[section] = {**values[section], **changed} if isinstance(changed, dict) else changed
    if values["model"]["sharing"]["kind"] == "share_none":
        values["model"]["backbone"] = None
    with pytest.raises(ConfigError, match=message):
        config_of(values)
