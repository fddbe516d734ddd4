"""Frozen modules: their weights do not change, all others do, and unknown names are refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from model.kinds import SHARINGS
from model.rankers import make_batch, make_config, make_ranker
from support import Recorder, feed_values
from torch import Tensor
from torch.testing import assert_close
from training.runs import assert_same_run, files, interrupt

from recap.config.file.load import config_of
from recap.config.recap import RecapConfig
from recap.data.encoding.assets import load_assets
from recap.errors import ConfigError, Interrupted
from recap.model.directory import new_ranker
from recap.model.frozen import freeze
from recap.model.gradients import TaskGradients
from recap.model.objective.losses import MultiTaskLoss
from recap.runtime import seed_torch
from recap.training.trainer import train

WEIGHTS, MOMENTS = "weights.safetensors", "optimizer.safetensors"


def frozen(feed: Path, run: Path, names: list[str], **optimizer: Any) -> RecapConfig:
    values = feed_values(feed, run)
    values["training"] |= {"num_train_steps": 6, "checkpoint_every_n": 2}
    values["optimizer"] |= {"frozen": names, **optimizer}
    return config_of(values)


def fresh(config: RecapConfig) -> dict[str, Tensor]:
    seed_torch(config.training.seed, 0)
    return new_ranker(config, load_assets(config.features)).state_dict()


@pytest.mark.parametrize("kind", ["none", "uncertainty", "pcgrad", "grad_norm"])
@pytest.mark.parametrize(
    "names",
    [["inputs.embeddings", "towers.like"], ["inputs", "sharing.backbone.mlp"], ["inputs", "sharing", "towers.like"]],
)
def test_frozen_modules_stay_bit_for_bit_and_all_others_move(
    feed: Path, tmp_path: Path, names: list[str], kind: str
) -> None:
    config = frozen(feed, tmp_path / "run", names, balancing={"kind": kind}, embedding_l2=0.1, network_l2=0.01)
    train(config, Recorder())
    before, after = fresh(config), files(tmp_path / "run", 6, WEIGHTS)
    stays = {name for name in before if name.startswith(tuple(f"{module}." for module in names))}
    for name in before:
        assert torch.equal(before[name], after[name]) == (name in stays), name
    moments = {name.rpartition("/")[0] for name in files(tmp_path / "run", 6, MOMENTS)}
    assert moments
    assert not moments & stays


@pytest.mark.parametrize("sharing", SHARINGS)
def test_gradients_of_unfrozen_modules_do_not_depend_on_freezing(sharing: str) -> None:
    config = make_config(f"mlp-{sharing}")
    batch = make_batch(config)
    results = []
    for names in ([], ["inputs.embeddings", "towers.like"]):
        ranker = make_ranker(config).eval()
        freeze(ranker, names)
        outputs = ranker.raw_outputs(batch)
        leaf = torch.stack([output.detach() for output in outputs], dim=1).requires_grad_()
        gradients = TaskGradients(ranker.parameters(), 2)
        gradients.add(outputs, leaf, MultiTaskLoss.of(config.model)(leaf, batch.labels, batch.weights, batch.user))
        gradients.write([0.5, 0.5], [0.5, 0.5])
        results.append(
            {name: parameter.grad for name, parameter in ranker.named_parameters() if parameter.grad is not None}
        )
    assert 0 < len(results[1]) < len(results[0])
    for name, gradient in results[1].items():
        assert_close(gradient, results[0][name])
    assert results[0].keys() - results[1].keys() == {
        name for name in results[0] if name.startswith(("inputs.embeddings.", "towers.like."))
    }


def test_normalisations_in_frozen_modules_stay_in_evaluation_mode(feed: Path, tmp_path: Path) -> None:
    config = frozen(feed, tmp_path / "run", [])
    ranker = new_ranker(config, load_assets(config.features))
    freeze(ranker, ["towers.like"])

    def training(task: str) -> dict[str, set[bool]]:
        results: dict[str, set[bool]] = {}
        for module in ranker.towers.named(task).modules():
            results.setdefault(type(module).__name__, set()).add(module.training)
        return results

    for _ in range(2):
        ranker.eval()
        ranker.train()
        assert training("like")["BatchNorm1d"] == {False}
        assert training("like")["Dropout"] == {True}
        assert training("share")["BatchNorm1d"] == {True}
    ranker.eval()
    assert not any(module.training for module in ranker.modules())


def test_a_run_with_frozen_modules_resumes_bit_for_bit(feed: Path, tmp_path: Path) -> None:
    whole, stopped = (frozen(feed, tmp_path / name, ["inputs", "towers.share"]) for name in ("whole", "stopped"))
    train(whole, Recorder())
    for step in (1, 3, 4):
        with pytest.raises(Interrupted):
            train(stopped, Recorder({step: interrupt}))
    train(stopped, Recorder())
    assert_same_run(tmp_path / "whole", tmp_path / "stopped", 6)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["input"], r"optimizer.frozen.0: unknown module 'input'. Known: inputs, .* mean 'inputs'\?"),
        (["inputs", "towers.lik"], r"frozen.1: unknown tower 'towers.lik'. Known: .* mean 'towers.like'\?"),
        (["inputs", "inputs"], r"frozen.1: 'inputs' is listed twice; remove one"),
        (["inputs.embeddings", "inputs"], r"frozen.0: 'inputs.embeddings' is part of 'inputs', which is also listed"),
        ("inputs", r"optimizer.frozen: expected a list, found 'inputs'"),
    ],
)
def test_modules_that_no_model_has_are_refused_with_the_configuration(tmp_path: Path, names: Any, message: str) -> None:
    values = feed_values(tmp_path, tmp_path / "run")
    values["optimizer"]["frozen"] = names
    with pytest.raises(ConfigError, match=message) as caught:
        config_of(values)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["towers.like", "inputs.embeddings.tables.huor"],
            r"optimizer.frozen.1: no module with weights is named 'inputs.embeddings.tables.huor'. Known: "
            r"inputs.embeddings.tables.hour, inputs.embeddings.tables.language. Did you mean '[a-z.]*.hour'",
        ),
        (
            ["cascade"],
            r"optimizer.frozen.0: no module with weights is named 'cascade'. Known: inputs, sharing, t",
        ),
        (["sharing.backbone.mpl"], r"Did you mean 'sharing.backbone.mlp'"),
        (["inputs", "sharing", "towers"], r"optimizer.frozen: all modules with weights are frozen, so nothing"),
    ],
)
def test_modules_that_this_model_lacks_are_refused_before_the_first_step(
    feed: Path, tmp_path: Path, names: list[str], message: str
) -> None:
    recorder = Recorder()
    with pytest.raises(ConfigError, match=message):
        train(frozen(feed, tmp_path / "run", names), recorder)
    assert recorder.steps == []


def test_a_task_with_an_escaped_name_is_frozen_by_its_module_name(feed: Path, tmp_path: Path) -> None:
    values = feed_values(feed, tmp_path / "run")
    tower = values["model"]["tasks"]["like"]
    for task, module in (("a.b", "towers.a%2Eb"), ("items", "towers.items%")):
        values["model"]["tasks"] = {task: tower}
        values["train_data"]["tasks"] = {task: {}}
        values["validation_data"] = {}
        values["scoring"] = {"weights": {}}
        values["optimizer"]["frozen"] = [module]
        config = config_of(values)
        ranker = new_ranker(config, load_assets(config.features))
        freeze(ranker, config.optimizer.frozen)
        assert not any(parameter.requires_grad for parameter in ranker.tower_parameters(task))
