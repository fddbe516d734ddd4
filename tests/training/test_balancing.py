"""Balancing of tasks, against slow versions of the papers' algorithms, and in runs."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from model.kinds import SHARINGS
from model.rankers import make_batch, make_config, make_ranker
from safetensors.torch import load_file
from support import Recorder, feed_config
from torch import Tensor
from torch.testing import assert_close
from training.runs import assert_same_run, files, interrupt, records

from recap.config.file.load import config_of
from recap.config.recap import RecapConfig
from recap.data.batch import Batch
from recap.errors import Interrupted
from recap.evaluation.observers.conflicts import conflicts
from recap.evaluation.run import evaluate_run
from recap.model.gradients import TaskGradients, cosines
from recap.model.objective.losses import MultiTaskLoss
from recap.model.objective.objective import Objective
from recap.model.ranker import Ranker
from recap.runs import Run
from recap.runtime import start_runtime
from recap.training.balancing.balancing import Balancing
from recap.training.balancing.build import build_balancing
from recap.training.balancing.gradients import GradNorm, projection_factors
from recap.training.balancing.weighted_losses import Uncertainty
from recap.training.step import split_rows
from recap.training.trainer import train

KINDS: dict[str, dict[str, Any]] = {
    "uncertainty": {"kind": "uncertainty"},
    "pcgrad": {"kind": "pcgrad"},
    "grad_norm": {"kind": "grad_norm", "alpha": 1.5, "learning_rate": 0.1},
}
CPU = torch.device("cpu")


def balanced(kind: str, case: str = "mlp-share_all", **task: Any) -> RecapConfig:
    values = make_config(case).model_dump()
    values["optimizer"]["balancing"] = KINDS[kind]
    values["model"]["tasks"]["share"] |= task
    return config_of(values)


def step(config: RecapConfig, balancing: Balancing, ranker: Ranker, batch: Batch, parts: int = 1) -> Tensor:
    """Set the gradients of a step in the parameters; return its losses."""
    total = torch.zeros(2, dtype=torch.float64)
    for part in split_rows(batch, parts):
        share = len(part) / len(batch)
        losses = Objective(config)(ranker.raw_outputs(part), part)
        balancing.backward(losses, share)
        total += losses.losses.detach().double() * share
    balancing.finish(total)
    return total


def task_gradients(ranker: Ranker, config: RecapConfig, batch: Batch) -> list[dict[str, Tensor]]:
    """Task → the gradient of its loss by parameter, from a separate backward pass through the whole model."""
    actual = []
    for task in range(2):
        ranker.zero_grad()
        loss = MultiTaskLoss.of(config.model)(ranker(batch).logits, batch.labels, batch.weights, batch.user)
        loss[task].backward()
        actual.append(
            {name: parameter.grad for name, parameter in ranker.named_parameters() if parameter.grad is not None}
        )
    ranker.zero_grad()
    return actual


def is_shared(name: str) -> bool:
    return not name.startswith("towers.")


def flat(gradients: dict[str, Tensor]) -> Tensor:
    return torch.cat([gradient.flatten() for name, gradient in gradients.items() if is_shared(name)])


def slow_pcgrad(gradients: Sequence[Tensor], orders: Sequence[Sequence[int]]) -> list[Tensor]:
    made = []
    for task, order in enumerate(orders):
        mine = gradients[task].clone()
        for other in order:
            if other != task and mine @ gradients[other] < 0:
                mine -= (mine @ gradients[other]) / gradients[other].square().sum() * gradients[other]
        made.append(mine)
    return made


@given(st.integers(1, 5), st.integers(0, 10**6))
def test_projection_matches_the_paper(tasks: int, seed: int) -> None:
    torch.manual_seed(seed)
    gradients = torch.randn(tasks, 6, dtype=torch.float64)
    orders = [torch.randperm(tasks).tolist() for _ in range(tasks)]
    actual = projection_factors(gradients @ gradients.T, orders) @ gradients
    assert_close(actual, torch.stack(slow_pcgrad(list(gradients), orders)))


@given(st.integers(0, 10**6))
def test_projected_gradients_of_two_tasks_do_not_conflict(seed: int) -> None:
    torch.manual_seed(seed)
    gradients = torch.randn(2, 6, dtype=torch.float64)
    made = projection_factors(gradients @ gradients.T, [[0, 1], [1, 0]])
    assert ((made @ gradients @ gradients.T) >= -1e-9).all()
    if gradients[0] @ gradients[1] >= 0:
        assert torch.equal(made, torch.eye(2, dtype=torch.float64))


def test_a_gradient_of_zero_changes_nothing() -> None:
    gram = torch.tensor([[4.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    assert torch.equal(projection_factors(gram, [[0, 1], [1, 0]]), torch.eye(2, dtype=torch.float64))
    assert cosines(gram).isnan().tolist() == [[False, True], [True, True]]


@pytest.mark.parametrize("case", [f"mlp-{sharing}" for sharing in SHARINGS])
def test_task_gradients_equal_separate_backward_passes(case: str) -> None:
    config = make_config(case)
    ranker, batch = make_ranker(config).eval(), make_batch(config)
    expected = task_gradients(ranker, config, batch)
    outputs = ranker.raw_outputs(batch)
    leaf = torch.stack(outputs, dim=1).detach().requires_grad_()
    gradients = TaskGradients(ranker.parameters(), 2)
    gradients.add(outputs, leaf, MultiTaskLoss.of(config.model)(leaf, batch.labels, batch.weights))
    for (name, _), actual in zip(ranker.named_parameters(), gradients.sums, strict=True):
        for task in range(2):
            if actual[task] is None:
                assert not expected[task].get(name, torch.zeros(1)).any()
            else:
                assert_close(actual[task], expected[task][name])
        if not is_shared(name):  # of what tasks share, experts of a task are its own too
            assert None in actual
    named = zip(ranker.named_parameters(), gradients.sums, strict=True)
    both = [name for (name, _), actual in named if None not in actual]
    rows = torch.stack([torch.cat([gradients[name].flatten() for name in both]) for gradients in expected]).double()
    assert_close(gradients.gram(), rows @ rows.T, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("against", [False, True])
@pytest.mark.parametrize("parts", [1, 3])
def test_pcgrad_projects_shared_gradients_and_leaves_towers(against: bool, parts: int) -> None:
    config = balanced("pcgrad")
    ranker, batch = make_ranker(config).eval(), make_batch(config, rows=60)
    assert batch.labels is not None
    labels = batch.labels.clone()
    labels[:, 1] = 1 - labels[:, 0] if against else labels[:, 0]
    batch.labels.copy_(labels)
    # Both towers read alike, so that labels alone decide their gradients.
    like, share = (ranker.towers.named(task).network for task in ("like", "share"))
    share.load_state_dict(like.state_dict())
    expected = task_gradients(ranker, config, batch)
    one, other = (flat(gradients) for gradients in expected)
    assert bool(one @ other < 0) == against
    torch.manual_seed(0)
    step(config, build_balancing(config, ranker.parameters(), CPU), ranker, batch, parts)
    actual = {name: parameter.grad for name, parameter in ranker.named_parameters() if parameter.grad is not None}
    total = torch.stack(slow_pcgrad([one, other], [[1], [0]])).sum(dim=0) / 2
    assert_close(flat(actual), total, rtol=1e-3, atol=1e-6)
    if not against:
        assert_close(flat(actual), (one + other) / 2, rtol=1e-3, atol=1e-6)
    for name, gradient in actual.items():
        if not is_shared(name):
            assert_close(
                gradient, sum(gradients.get(name, torch.zeros(())) for gradients in expected) / 2, rtol=1e-3, atol=1e-6
            )


def test_grad_norm_matches_the_paper() -> None:
    config = balanced("grad_norm", loss_weight=3.0)
    ranker, batch, later = make_ranker(config).eval(), make_batch(config), make_batch(config, seed=5)
    balancing = build_balancing(config, ranker.parameters(), CPU)
    assert isinstance(balancing, GradNorm)
    weights, first = np.ones(2), None
    for rows in (batch, later, later):
        gradients = task_gradients(ranker, config, rows)
        losses = step(config, balancing, ranker, rows).numpy()
        first = losses if first is None else first
        actual = {name: parameter.grad for name, parameter in ranker.named_parameters() if parameter.grad is not None}
        shared = torch.stack([flat(by_parameter) for by_parameter in gradients])
        assert_close(flat(actual), (torch.tensor(weights * [1, 3]).float() @ shared) / 2, rtol=1e-3, atol=1e-6)
        norms = shared.norm(dim=1).double().numpy() * [1, 3]
        left = losses / first
        target = (weights * norms).mean() * (left / left.mean()) ** 1.5
        weights = weights - 0.1 * np.sign(weights * norms - target) * norms
        weights *= 2 / weights.sum()
        assert balancing.task_factors.numpy() == pytest.approx(weights, rel=1e-4)
    assert balancing.task_factors.sum().item() == pytest.approx(2)


def test_grad_norm_leaves_out_a_task_without_labels() -> None:
    config = balanced("grad_norm")
    ranker, batch = make_ranker(config), make_batch(config)
    balancing = build_balancing(config, ranker.parameters(), CPU)
    assert isinstance(balancing, GradNorm)
    assert batch.weights is not None
    batch.weights[:, 1] = 0
    step(config, balancing, ranker, batch)
    assert balancing.task_factors.tolist() == [1, 1]
    assert balancing.first_losses.isnan().tolist() == [False, True]


@pytest.mark.parametrize("parts", [1, 3])
def test_uncertainty_weighs_losses_and_learns_the_variances(parts: int) -> None:
    tasks = {"objective": {"kind": "regression"}, "pos_weight": 1.0, "loss_weight": 3.0}
    config = balanced("uncertainty", **tasks)
    ranker, batch = make_ranker(config).eval(), make_batch(config, rows=60)
    balancing = build_balancing(config, ranker.parameters(), CPU)
    assert isinstance(balancing, Uncertainty)
    with torch.no_grad():
        balancing.log_variances.copy_(torch.tensor([0.3, -0.7]))
    gradients = task_gradients(ranker, config, batch)
    losses = step(config, balancing, ranker, batch, parts)
    factors = [math.exp(-0.3), 0.5 * 3 * math.exp(0.7)]
    actual = {name: parameter.grad for name, parameter in ranker.named_parameters() if parameter.grad is not None}
    expected = sum(factor * flat(by_parameter) for factor, by_parameter in zip(factors, gradients, strict=True)) / 2
    assert_close(flat(actual), expected, rtol=1e-3, atol=1e-6)
    by_variance = [
        (0.5 - factor * loss) / 2 for factor, loss in zip(factors, losses.tolist(), strict=True)
    ]  # d/ds of exp(-s) L + s / 2
    assert balancing.log_variances.grad is not None
    assert balancing.log_variances.grad.tolist() == pytest.approx(by_variance, rel=1e-4)
    assert balancing.task_weights() == pytest.approx([math.exp(-0.3), 0.5 * math.exp(0.7)])


@pytest.mark.parametrize("kind", ["none", *KINDS])
def test_every_balancing_trains_every_loss(kind: str, feed: Path, tmp_path: Path) -> None:
    tower = {"tower": {"kind": "mlp"}}
    time = tower | {"objective": {"kind": "regression", "loss": {"kind": "huber"}}}
    like = tower | {"loss": {"kind": "focal"}, "pairwise": {"weight": 0.5}}
    rates = {"kind": "constant", "learning_rate": 0.01}
    config = feed_config(
        feed,
        tmp_path / "run",
        features={"discrete": {"language": {"vocabulary": str(feed / "languages.parquet")}}},
        model={"tasks": {"like": like, "hour": time, "share": tower}},
        train_data={"tasks": {"like": {}, "hour": {}, "share": {}}},
        optimizer={"balancing": KINDS.get(kind, {"kind": kind}), "backbone": rates, "towers": {"default": rates}},
        training={"num_train_steps": 4, "eval_log_every_n": 4, "gradient_accumulation": 2},
    )
    recorder = Recorder()
    train(config, recorder)
    assert all(math.isfinite(loss) for loss in recorder.losses)
    result = evaluate_run(config, tmp_path / "run").splits["validation"]
    assert ("mae" in result.metrics["hour"], "auc" in result.metrics["like"]) == (True, True)
    assert bool(result.conflicts) == (kind in ("pcgrad", "grad_norm"))


def test_a_loss_weight_counts_in_the_mean(feed: Path, tmp_path: Path) -> None:
    tower = {"tower": {"kind": "mlp"}}
    for name, weight in (("half", 0.5), ("whole", 1.0)):
        model = {"tasks": {"like": tower, "share": tower | {"loss_weight": weight}}}
        train(feed_config(feed, tmp_path / name, model=model, training={"num_train_steps": 1}), Recorder())
    half, whole = (
        [line for line in records(tmp_path / name) if line["split"] == "train"] for name in ("half", "whole")
    )
    assert half[0]["loss/share"] == whole[0]["loss/share"]
    assert half[0]["loss"] == pytest.approx((whole[0]["loss/like"] + 0.5 * whole[0]["loss/share"]) / 2)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("parts", [None, 3])
def test_a_stopped_run_resumes_bit_for_bit_with_every_balancing(
    kind: str, parts: int | None, feed: Path, tmp_path: Path
) -> None:
    rates = {"kind": "constant", "learning_rate": 0.01}
    optimizer = {"balancing": KINDS[kind], "backbone": rates, "towers": {"default": rates}}
    training = {"gradient_accumulation": parts, "num_train_steps": 9}
    whole, stopped = (
        feed_config(feed, tmp_path / name, optimizer=optimizer, training=training) for name in ("whole", "stopped")
    )
    train(whole, Recorder())
    for step in (3, 5):
        with pytest.raises(Interrupted):
            train(stopped, Recorder({step: interrupt}))
    train(stopped, Recorder())
    assert_same_run(tmp_path / "whole", tmp_path / "stopped", 9)
    states = [Run(tmp_path / run).checkpoint_path(9) / "balancing.safetensors" for run in ("whole", "stopped")]
    if kind == "pcgrad":
        assert not any(state.exists() for state in states)
        return
    left, right = (load_file(state) for state in states)
    assert all(torch.equal(left[name], right[name]) for name in left)
    weights = [line["balancing/like"] for line in records(tmp_path / "whole") if line["split"] == "train"]
    assert len(set(weights)) == len(weights)
    if kind == "uncertainty":
        assert "balancing.log_variances/exp_avg" in files(tmp_path / "whole", 9, "optimizer.safetensors")


def test_evaluation_reports_conflicts_between_balanced_tasks(feed: Path, tmp_path: Path) -> None:
    rates = {"kind": "constant", "learning_rate": 0.01}
    optimizer = {"balancing": {"kind": "pcgrad"}, "backbone": rates, "towers": {"default": rates}}
    config = feed_config(feed, tmp_path / "run", optimizer=optimizer, training={"num_train_steps": 2})
    train(config, Recorder())
    report = evaluate_run(config, tmp_path / "run")
    actual = report.splits["validation"].conflicts
    assert [actual[task][task] for task in actual] == pytest.approx([1, 1])
    assert actual["like"]["share"] == pytest.approx(actual["share"]["like"])
    assert -1 <= actual["like"]["share"] <= 1
    written = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert written["conflicts"] == {"validation": actual}


def test_conflicts_are_means_over_batches_and_do_not_change_the_ranker() -> None:
    config = balanced("pcgrad")
    ranker, batches = make_ranker(config).train(), [make_batch(config, seed=seed) for seed in range(20)]
    assert batches[0].weights is not None
    batches[0].weights[:, 1] = 0  # a batch in which one of the tasks has no labels
    before = {name: tensor.clone() for name, tensor in ranker.state_dict().items()}
    values = config.model_dump() | {"validation_data": {"all": config.train_data.model_dump(exclude={"num_epochs"})}}
    for name in ("shuffle_window_rows", "interleave_files", "downsample_negatives", "sampling_correction"):
        values["validation_data"]["all"].pop(name, None)
    actual = conflicts(ranker, batches, config_of(values), "all", start_runtime())  # type: ignore[arg-type]
    assert ranker.training
    assert all(torch.equal(before[name], tensor) for name, tensor in ranker.state_dict().items())
    assert all(parameter.grad is None for parameter in ranker.parameters())
    ranker.eval()
    rows = [
        torch.stack([flat(by_parameter) for by_parameter in task_gradients(ranker, config, batch)])
        for batch in batches[1:16]
    ]
    expected = np.mean([torch.cosine_similarity(row[0], row[1], dim=0).item() for row in rows])
    assert actual["like"]["share"] == pytest.approx(expected, abs=1e-5)
