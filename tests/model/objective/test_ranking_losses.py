"""List-wise losses, JRC and their groups, against their formulas written as loops."""

import math
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from model.rankers import make_batch, make_config, make_ranker
from torch import Tensor
from torch.testing import assert_close

from recap.config.file.load import config_of
from recap.config.recap import RecapConfig
from recap.errors import ConfigError
from recap.model.objective.lists import jrc_loss, listwise_loss
from recap.model.objective.objective import Objective
from recap.model.objective.pairs import pairwise_loss


def log_share(logits: Tensor, row: int, groups: Tensor, known: Tensor) -> Tensor:
    """log(exp(l of the row) / Σ exp(l of the rows of its group))."""
    group = [other for other in range(len(logits)) if known[other] and groups[other] == groups[row]]
    return logits[row] - torch.stack([logits[other].exp() for other in group]).sum().log()


def slow_listwise(logits: Tensor, labels: Tensor, groups: Tensor, known: Tensor) -> Tensor:
    rows = [row for row in range(len(logits)) if known[row]]
    alone = {row for row in rows if sum(int(groups[row] == groups[other]) for other in rows) == 1}
    counted = [row for row in rows if labels[row] == 1 and row not in alone]
    losses = [-log_share(logits, row, groups, known) for row in counted]
    return torch.stack(losses).mean() if losses else logits.sum() * 0


def slow_jrc(logits: Tensor, labels: Tensor, groups: Tensor, known: Tensor) -> Tensor:
    """The ranking term of the paper: the mean over the rows of −log(exp f(x)[y] / Σ exp f(xᵢ)[y])."""
    losses = [-log_share(logits[:, int(labels[row])], row, groups, known) for row in range(len(logits)) if known[row]]
    return torch.stack(losses).sum() / len(logits) if losses else logits.sum() * 0


@given(st.integers(0, 12), st.integers(1, 4), st.integers(0, 10**6))
def test_losses_of_lists_are_those_of_their_formulas(count: int, max_group: int, seed: int) -> None:
    torch.manual_seed(seed)
    logits = torch.randn(count, 2, dtype=torch.float64, requires_grad=True)
    labels, known = (torch.rand(count) < 0.4).double(), torch.rand(count) < 0.8
    groups = torch.randint(-max_group, max_group, (count,))
    for found, expected in (
        (listwise_loss(logits[:, 0], labels, groups, known), slow_listwise(logits[:, 0], labels, groups, known)),
        (jrc_loss(logits, labels, groups, known), slow_jrc(logits, labels, groups, known)),
    ):
        assert_close(found, expected)
        (gradient,) = torch.autograd.grad(3 * found, logits, retain_graph=True)
        (slow,) = torch.autograd.grad(3 * expected, logits, retain_graph=True)
        assert_close(gradient, slow)


@pytest.mark.parametrize("size", [1.0, 90.0, 1e4])
def test_losses_of_lists_are_finite_for_logits_of_any_size(size: float) -> None:
    logits = (torch.tensor([[1.0, -1], [-1, 1], [1, 1], [-1, -1]]) * size).requires_grad_()
    labels, groups, known = torch.tensor([0.0, 1, 0, 1]), torch.zeros(4, dtype=torch.int64), torch.ones(4).bool()
    loss = listwise_loss(logits[:, 0], labels, groups, known) + jrc_loss(logits, labels, groups, known)
    loss.backward()
    assert loss.isfinite()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_the_true_probabilities_are_where_each_loss_is_least() -> None:
    """Log-odds for pairs, log p for lists, and log p and log(1 − p) for JRC; the expectation is over all labels."""
    p = torch.tensor([0.1, 0.4, 0.7], dtype=torch.float64)
    groups, known = torch.zeros(3, dtype=torch.int64), torch.ones(3).bool()
    odds, log_p, both = p.logit(), p.log(), torch.stack([(1 - p).log(), p.log()], dim=1)
    for logits in (odds, log_p, both):
        logits.requires_grad_()
    expected = torch.zeros(3, dtype=torch.float64)
    for outcome in product([0.0, 1.0], repeat=3):
        labels = torch.tensor(outcome, dtype=torch.float64)
        positives = labels.sum()
        pairs = positives * (3 - positives)
        losses = [
            pairwise_loss(odds, labels, groups, known) * pairs,
            slow_listwise(log_p, labels, groups, known) * positives,
            jrc_loss(both, labels, groups, known),
        ]
        expected = expected + torch.stack(losses) * torch.where(labels == 1, p, 1 - p).prod()
    expected.sum().backward()
    for logits in (odds, log_p, both):
        assert_close(logits.grad, torch.zeros_like(logits))


def with_losses(case: str = "mlp-share_all", features: dict[str, Any] | None = None, **like: Any) -> RecapConfig:
    values = make_config(case).model_dump()
    values["model"]["tasks"]["like"] |= like
    values["features"] |= features or {}
    return config_of(values)


def test_several_losses_on_order_add_to_the_task_that_sets_them() -> None:
    config = with_losses(
        features={"request": "post_id"},
        pairwise={"weight": 0.3},
        listwise={"weight": 0.2, "group": "request"},
    )
    batch = replace(make_batch(config), request=torch.arange(40) // 6)
    outputs = list(torch.randn(2, 40).unbind())
    plain, found = (Objective(each)(outputs, batch).losses for each in (make_config("mlp-share_all"), config))
    label, known = batch.labels[:, 0], batch.weights[:, 0] > 0
    pairs = pairwise_loss(outputs[0], label, batch.user, known)
    lists = slow_listwise(outputs[0], label, batch.request, known)
    assert_close(found[0], plain[0] + 0.3 * pairs + 0.2 * lists)
    assert found[1] == plain[1]


def test_jrc_is_cross_entropy_and_a_softmax_over_the_rows_of_each_label() -> None:
    """alpha · L_calib + (1 − alpha) · L_gen over alpha, of f(x)[1] − f(x)[0] as the task's logit (section 3)."""
    alpha = 0.4
    config = make_config("jrc")
    config = with_losses("jrc", jrc={"weight": (1 - alpha) / alpha})
    batch = make_batch(config)
    f = torch.randn(40, 2)
    logit, shift = f[:, 1] - f[:, 0], f.mean(dim=1)
    outputs = [logit, torch.randn(40), logit, shift]
    losses = Objective(config)(outputs, batch)
    label, known = batch.labels[:, 0], batch.weights[:, 0] > 0
    calibration = sum(-math.log(f[row].softmax(dim=0)[int(label[row])]) for row in range(40)) / 40
    generative = slow_jrc(f, label, batch.user, known)
    assert_close(losses.losses[0], (alpha * torch.tensor(calibration) + (1 - alpha) * generative) / alpha)
    losses.losses[0].backward()
    assert_close(losses.leaf.grad[:, 3].sum(), torch.tensor(0.0))  # a shift of all rows changes nothing


def test_the_second_output_of_jrc_is_read_in_training_alone() -> None:
    config = make_config("jrc")
    ranker, batch = make_ranker(config), make_batch(config)
    assert len(ranker.train().raw_outputs(batch)) == 4
    outputs = ranker.eval().raw_outputs(batch)
    assert len(outputs) == 2
    with torch.no_grad():
        last = ranker.towers.named("like").network.layers[-1]
        last.weight[1] += 1.0
    assert torch.equal(ranker.raw_outputs(batch)[0], outputs[0])


@pytest.mark.parametrize("loss", ["pairwise", "listwise", "jrc"])
@pytest.mark.parametrize(
    ("model", "task", "features", "message"),
    [
        ({}, {"group": "user"}, {"user": None}, "compares rows of the same user; set features.user, or remove {}"),
        ({}, {"group": "request"}, {}, "compares rows of the same request; set features.request, or remove {}"),
        ({}, {"objective": {"kind": "regression"}}, {}, "a regression task has no positives and negatives to compare"),
        (
            {},
            {"tower": {"kind": "mlp", "layer_sizes": [4], "ensemble": {"members": 2}}},
            {},
            "compares the logits of rows, but each member of the ensemble has its own; remove one",
        ),
        (
            {"auxiliary_loss": {"kind": "self_ensemble"}},
            {},
            {},
            "has two outputs for a task, and self_ensemble would divide them again; remove it, or",
        ),
        (
            {"cascade": {"kind": "esmm", "chain": ["share", "like"]}},
            {},
            {},
            "has a logit for each label, which a product of probabilities lacks; remove it, or take the task out",
        ),
    ],
)
def test_losses_on_order_that_cannot_be_computed_are_refused(
    model: dict[str, Any], task: dict[str, Any], features: dict[str, Any], message: str, loss: str
) -> None:
    values = make_config("mlp-share_all").model_dump()
    task = dict(task)
    group = task.pop("group", "user")
    values["model"] |= model
    values["features"] |= features
    values["model"]["tasks"]["like"] |= {loss: {"weight": 1.0, "group": group}, **task}
    if loss != "jrc" and model:  # the task's own output has an order
        config_of(values)
        return
    with pytest.raises(ConfigError) as error:
        config_of(values)
    assert f"model.tasks.like.{loss}: {message.format(loss)}" in str(error.value)
