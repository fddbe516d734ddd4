"""Members of tasks in training: their gradients under each balancing, and runs that resume."""

from pathlib import Path
from typing import Any

import pytest
import torch
from model.kinds import BACKBONES, OTHERS
from model.rankers import make_batch, make_config, make_ranker
from support import Recorder, feed_config
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.testing import assert_close
from training.runs import assert_same_run, interrupt

from recap.config.file.load import config_of
from recap.config.recap import RecapConfig
from recap.data.batch import Batch
from recap.errors import Interrupted
from recap.model.gradients import TaskGradients
from recap.model.objective.objective import Objective
from recap.model.ranker import Ranker
from recap.training.balancing.weighted_losses import MeanOfLosses
from recap.training.trainer import train


def tri_bce(outputs: list[Tensor], batch: Batch, task: int) -> Tensor:
    """The loss of a task of the case `tri_bce`, whose gradient reaches the network directly."""
    assert batch.labels is not None
    assert batch.weights is not None
    label, weight, pos_weight = batch.labels[:, task], batch.weights[:, task], torch.tensor([1.0, 2.0][task])
    own, first, second = (
        binary_cross_entropy_with_logits(outputs[column], label, weight, pos_weight=pos_weight)
        for column in (task, 2 + 2 * task, 3 + 2 * task)
    )
    weights = [(member - own).clamp(min=0).detach() for member in (first, second)]
    return own + weights[0] * first + weights[1] * second


def gradients(ranker: Ranker) -> dict[str, Tensor]:
    return {name: parameter.grad.clone() for name, parameter in ranker.named_parameters() if parameter.grad is not None}


def without_dropout(config: RecapConfig) -> Ranker:
    ranker = make_ranker(config).train()
    for module in ranker.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return ranker


def test_the_losses_of_members_reach_the_weights() -> None:
    config = make_config("tri_bce")
    batch, ranker = make_batch(config), without_dropout(config)
    outputs = ranker.raw_outputs(batch)
    ((tri_bce(outputs, batch, 0) + tri_bce(outputs, batch, 1)) / 2).backward()  # type: ignore[no-untyped-call]
    expected = gradients(ranker)
    ranker.zero_grad()
    balancing = MeanOfLosses(config, ranker.parameters(), torch.device("cpu"))
    balancing.backward(Objective(config)(ranker.raw_outputs(batch), batch), 1.0)
    actual = gradients(ranker)
    assert actual.keys() == expected.keys()
    for name, gradient in actual.items():
        assert_close(gradient, expected[name], msg=name)


def test_the_gradients_of_a_task_include_those_of_its_members() -> None:
    config = make_config("tri_bce")
    batch, ranker = make_batch(config), without_dropout(config)
    losses = Objective(config)(ranker.raw_outputs(batch), batch)
    by_task = TaskGradients(ranker.parameters(), 2)
    by_task.add(losses.outputs, losses.leaf, losses.losses)
    for task in range(2):
        ranker.zero_grad()
        tri_bce(ranker.raw_outputs(batch), batch, task).backward()  # type: ignore[no-untyped-call]
        expected = gradients(ranker)
        for (name, _), sums in zip(ranker.named_parameters(), by_task.sums, strict=True):
            gradient = sums[task]
            if gradient is not None:
                assert_close(gradient, expected[name], msg=name)
            else:
                assert not expected.get(name, torch.zeros(1)).any()


EXPERTS = {"kind": "rank_mixer", "num_tokens": 3, "width": 6, "num_layers": 1, "experts": {"num_experts": 2}}
RUNS: dict[str, dict[str, Any]] = {
    "tri_bce": {key: OTHERS["tri_bce"][key] for key in ("auxiliary_loss", "backbone")}
    | {"tasks": {name: {"tower": {"kind": "mlp"}} for name in ("like", "share")}},
    "self_ensemble": {"auxiliary_loss": {"kind": "self_ensemble"}, "backbone": BACKBONES["qnn"]},
    "experts": {"backbone": EXPERTS},
}


@pytest.mark.parametrize("case", RUNS)
def test_a_run_with_auxiliary_outputs_resumes_exactly(case: str, feed: Path, tmp_path: Path) -> None:
    def config(name: str) -> RecapConfig:
        training = {"num_train_steps": 6, "checkpoint_every_n": 3, "gradient_accumulation": 2}
        return feed_config(
            feed, tmp_path / name, model={"sharing": {"kind": "share_all"}, **RUNS[case]}, training=training
        )

    train(config("whole"), Recorder())
    with pytest.raises(Interrupted):
        train(config("stopped"), Recorder({4: interrupt}))
    train(config("stopped"), Recorder())
    assert_same_run(tmp_path / "whole", tmp_path / "stopped", 6)


@pytest.mark.slow
def test_a_compiled_pass_has_the_penalty_of_experts() -> None:
    config = make_config("rank_mixer_with_experts-share_all")
    ranker, batch = without_dropout(config), make_batch(config)
    columns = [*torch.compile(ranker.network_outputs, backend="eager")(batch), *ranker.penalty()]
    assert columns[2].shape == columns[0].shape
    columns[2].sum().backward()
    assert ranker.sharing.backbone.layers[0].experts.gate.weight.grad.any()  # type: ignore[union-attr, operator, index]


def test_balancing_of_gradients_trains_with_members(feed: Path, tmp_path: Path) -> None:
    values = feed_config(
        feed, tmp_path / "run", model={"sharing": {"kind": "share_all"}, **RUNS["tri_bce"]}
    ).model_dump()
    values["training"]["num_train_steps"] = 3
    values["optimizer"]["balancing"] = {"kind": "pcgrad"}
    recorder = Recorder()
    train(config_of(values), recorder)
    assert len(recorder.losses) == 3
