"""Losses of members: Tri-BCE, the self-ensemble loss and the mean of members, against their formulas."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from model.kinds import BACKBONES, OTHERS
from model.rankers import make_batch, make_config, make_ranker
from torch import Tensor
from torch.nn.functional import binary_cross_entropy
from torch.testing import assert_close

from recap.config.file.load import config_of
from recap.config.recap import RecapConfig
from recap.model.activation import logit_of_mean, output_of_mean
from recap.model.objective.losses import MultiTaskLoss
from recap.model.objective.members import ColumnLoss, MeanOfMembers, SeparateMembers
from recap.model.objective.objective import Objective

LOGITS = st.floats(-60, 60)


@given(st.lists(LOGITS, min_size=1, max_size=5))
def test_the_logit_of_the_mean_is_that_of_the_mean_probability(logits: list[float]) -> None:
    values = torch.tensor(logits, dtype=torch.float64)
    odds = values.sigmoid().sum() / (-values).sigmoid().sum()
    assert_close(logit_of_mean(values), odds.log())


@pytest.mark.parametrize("size", [1.0, 90.0, 1e4])
def test_the_logit_of_the_mean_has_finite_gradients(size: float) -> None:
    for signs in ((1, 1), (1, -1), (-1, -1)):
        logits = (torch.tensor(signs) * size).requires_grad_()
        logit_of_mean(logits).backward()  # type: ignore[no-untyped-call]
        assert logits.grad is not None
        assert logits.grad.isfinite().all()
    alike = torch.full((3,), size)
    assert_close(logit_of_mean(alike), torch.tensor(size))


def with_two_tasks(case: str, **task: Any) -> RecapConfig:
    values = make_config(case).model_dump()
    values["model"]["tasks"]["share"] |= task
    return config_of(values)


def columns(config: RecapConfig, rows: int = 30) -> tuple[list[Tensor], Any]:
    """The columns of a training pass with random logits: two tasks, then two members of each."""
    torch.manual_seed(1)
    return list(torch.randn(6, rows).unbind()), make_batch(config, rows)


def cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor, pos_weight: float) -> float:
    total = 0.0
    for logit, label, weight in zip(logits.tolist(), labels.tolist(), weights.tolist(), strict=True):
        p = 1 / (1 + math.exp(-logit))
        total -= weight * (pos_weight * label * math.log(p) + (1 - label) * math.log(1 - p))
    return total / len(logits)


def test_tri_bce_weighs_each_network_by_how_much_worse_it_is() -> None:
    config = with_two_tasks("tri_bce")
    outputs, batch = columns(config)
    actual = Objective(config)(outputs, batch).losses
    for task, pos_weight in enumerate([1.0, 2.0]):
        label, weight = batch.labels[:, task], batch.weights[:, task]
        own, first, second = (
            cross_entropy(outputs[index], label, weight, pos_weight) for index in (task, 2 + 2 * task, 3 + 2 * task)
        )
        expected = own + max(0.0, first - own) * first + max(0.0, second - own) * second
        assert actual[task].item() == pytest.approx(expected, rel=1e-5)


def test_the_weights_of_tri_bce_are_constants() -> None:
    """∂L/∂(logit of a network) = its weight times the gradient of its own loss."""
    config = with_two_tasks("tri_bce")
    outputs, batch = columns(config)
    losses = Objective(config)(outputs, batch)
    losses.losses[0].backward()
    label, weight = batch.labels[:, 0], batch.weights[:, 0]
    own, first = (cross_entropy(outputs[index], label, weight, 1.0) for index in (0, 2))
    slope = weight * (outputs[2].sigmoid() - label) / len(batch)
    assert_close(losses.leaf.grad[:, 2], max(0.0, first - own) * slope)
    assert_close(losses.leaf.grad[:, 0], weight * (outputs[0].sigmoid() - label) / len(batch))


def test_the_self_ensemble_loss_draws_both_passes_to_their_mean() -> None:
    """L(p̄, y) + L(p₁, p̄) + L(p₂, p̄), with p̄ as a constant in the last two."""
    config = with_two_tasks("self_ensemble")
    outputs, batch = columns(config)
    outputs[0] = logit_of_mean(torch.stack(outputs[2:4], dim=1))
    losses = Objective(config)(outputs, batch)
    mean = (outputs[2].sigmoid() + outputs[3].sigmoid()) / 2
    weight = batch.weights[:, 0]
    expected = sum(
        (binary_cross_entropy(p, target, reduction="none") * weight).mean()
        for p, target in ((mean, batch.labels[:, 0]), (outputs[2].sigmoid(), mean), (outputs[3].sigmoid(), mean))
    )
    assert_close(losses.losses[0], expected)
    losses.losses[0].backward()
    assert_close(losses.leaf.grad[:, 0], weight * (mean - batch.labels[:, 0]) / len(batch))


def test_the_loss_between_outputs_of_a_regression_is_its_own() -> None:
    config = with_two_tasks(
        "self_ensemble", objective={"kind": "regression", "transform": "log1p", "loss": {"kind": "mae"}}, pos_weight=1.0
    )
    losses = MultiTaskLoss.of(config.model)
    first, second = torch.randn(2, 7)
    assert_close(losses.losses_between(1, first, second), (first - second).abs())


def test_the_mean_of_members_replaces_the_loss_of_their_mean() -> None:
    config = make_config("mlp-share_all")
    losses = MultiTaskLoss.of(config.model)
    label, weight = (torch.rand(9) < 0.5).float(), torch.rand(9)
    members = list(torch.randn(4, 9).unbind())
    loss = ColumnLoss(losses, 1, label, weight, {})
    actual = MeanOfMembers()(torch.tensor(7.0), members[0], members, loss)
    assert actual.item() == pytest.approx(sum(cross_entropy(one, label, weight, 2.0) for one in members) / 4, rel=1e-5)


def test_each_member_of_a_deep_ensemble_has_the_gradient_that_it_has_alone() -> None:
    config = make_config("mlp-share_all")
    loss = ColumnLoss(MultiTaskLoss.of(config.model), 1, (torch.rand(9) < 0.5).float(), torch.rand(9), {})
    members = [column.requires_grad_() for column in torch.randn(3, 9).unbind()]
    alone = [loss(member) for member in members]
    total = SeparateMembers()(torch.tensor(7.0), members[0], members, loss)
    assert total.item() == pytest.approx(sum(one.item() for one in alone) / 3, rel=1e-5)
    expected = [torch.autograd.grad(one, member)[0] for one, member in zip(alone, members, strict=True)]
    for found, gradient in zip(torch.autograd.grad(total, members), expected, strict=True):
        assert_close(found, gradient)


@pytest.mark.parametrize("part", ["distillation", "constraint"])
def test_what_reads_the_mean_of_a_deep_ensemble_reaches_each_member_as_it_would_alone(part: str) -> None:
    """Members that are alike have the gradient, from the losses and from the penalty, of a model without members."""
    gradients = []
    for case, members in (("mlp-share_all", 1), ("mlp-deep_ensemble", 3)):
        values = make_config(case).model_dump()
        if part == "distillation":
            values["model"]["tasks"]["share"]["distillation"] = {"column": "teacher", "temperature": 2.0}
        else:
            values["model"] |= OTHERS["aitm"]
        config = config_of(values)
        torch.manual_seed(0)
        batch = replace(make_batch(config), teacher=torch.rand(40, 2))
        logits = [column.requires_grad_() for column in torch.randn(2, 40).unbind()]
        columns = [column.expand(members, 40).clone() for column in logits]
        outputs = [logit_of_mean(column.T) for column in columns]
        if members > 1:
            outputs += [member for column in columns for member in column.unbind()]
        losses = Objective(config)(outputs, batch)
        (losses.losses.sum() + losses.penalty).backward()
        assert losses.leaf.grad is not None
        slopes = losses.leaf.grad.unbind(dim=1)
        gradients.append([one / members for one in torch.autograd.grad(outputs, logits, slopes)])
    assert_close(gradients[1], gradients[0])


def test_the_logits_of_the_two_networks_have_the_tasks_own_as_their_mean() -> None:
    """Each network's logit is w·x + b with its part of the weights, twice, and the bias of the tower."""
    config = make_config("tri_bce")
    ranker, batch = make_ranker(config).train(), make_batch(config)
    for module in ranker.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    outputs = ranker.raw_outputs(batch)
    assert len(outputs) == 6
    assert_close(outputs[0], (outputs[2] + outputs[3]) / 2)
    assert_close(outputs[1], (outputs[4] + outputs[5]) / 2)
    inputs = ranker.inputs(batch)
    deep, shallow = ranker.sharing.backbone(inputs).chunk(2, dim=1)
    tower = ranker.towers.named("like")
    weights, bias = tower.network.layers[0].weight[0].chunk(2), tower.network.layers[0].bias
    for member, network, weight in zip(outputs[2:4], (deep, shallow), weights, strict=True):
        assert_close(member, tower.affine_map(2 * network @ weight + bias))


@pytest.mark.parametrize("sharing", ["share_partial", "mmoe", "ple"])
def test_each_sharing_tells_the_two_networks_apart(sharing: str) -> None:
    """What one network has no part in, its logit does not depend on."""
    values = make_config("tri_bce").model_dump()
    values["model"]["sharing"] = make_config(f"mlp-{sharing}").model_dump()["model"]["sharing"]
    config = config_of(values)
    ranker, batch = make_ranker(config).train(), make_batch(config)
    outputs = ranker.raw_outputs(batch)
    assert_close(outputs[0], (outputs[2] + outputs[3]) / 2)
    outputs[2].sum().backward(retain_graph=True)
    names = {name for name, p in ranker.sharing.named_parameters() if p.grad is not None and p.grad.any()}
    names -= {name for name in names if name.startswith("levels.0")}  # the level above reads all of it
    assert any(".exponential.0." in name for name in names)
    assert not any(".linear.0." in name for name in names)


def test_a_self_ensemble_is_the_mean_of_two_passes() -> None:
    config = make_config("self_ensemble")
    ranker, batch = make_ranker(config).train(), make_batch(config)
    outputs = ranker.raw_outputs(batch)
    assert len(outputs) == 6
    for task in range(2):
        first, second = outputs[2 + 2 * task : 4 + 2 * task]
        assert (first != second).any()
        assert_close(outputs[task].sigmoid(), (first.sigmoid() + second.sigmoid()) / 2)
    assert len(ranker.eval().raw_outputs(batch)) == 2


def test_the_mean_output_of_a_regression_is_that_of_its_members() -> None:
    members = torch.tensor([[1.0, 4.0], [2.0, -2.0]])
    assert output_of_mean(members, is_regression=True).tolist() == [2.5, 0.0]


@pytest.mark.parametrize("case", ["self_ensemble", "tri_bce"])
def test_the_penalty_of_experts_follows_the_members(case: str) -> None:
    values = make_config(case).model_dump()
    if case == "self_ensemble":
        values["model"]["backbone"] = BACKBONES["rank_mixer_with_experts"]
        values["model"]["tasks"]["like"]["tower"] = OTHERS["tri_bce"]["tasks"]["share"]["tower"]
    else:
        del values["model"]["auxiliary_loss"]
        values["model"]["backbone"] = BACKBONES["rank_mixer_with_experts"]
    config = config_of(values)
    ranker, batch = make_ranker(config).train(), make_batch(config)
    outputs = ranker.raw_outputs(batch)
    assert len(outputs) == (7 if case == "self_ensemble" else 3)
    assert outputs[-1].shape == outputs[0].shape
    losses = Objective(config)(outputs, batch)
    assert_close(losses.penalty, outputs[-1].mean())
    assert losses.penalty > 0
    without = Objective(config)(outputs[:-1], batch)
    assert torch.equal(losses.losses, without.losses)
    assert without.penalty == 0
