"""PEPNet against the equations of its paper, written as slow loops."""

import copy

import pytest
import torch
from model.rankers import make_batch, make_config, make_ranker
from model.scenarios.moved import moved_ranker
from torch import Tensor, nn
from torch.testing import assert_close

from recap.model.layers import Mlp
from recap.model.scenarios.pepnet import GateUnit, Pepnet


def slow_gate(gate: nn.Module | None, row: Tensor) -> Tensor:
    """2σ(W′ ReLU(W x + b) + b′) of one row."""
    assert isinstance(gate, GateUnit)
    first, last = (layer for layer in gate.mlp.layers if isinstance(layer, nn.Linear))
    hidden = torch.stack([torch.dot(w, row) + b for w, b in zip(first.weight, first.bias, strict=True)])
    out = [torch.dot(w, hidden.clamp(min=0)) + b for w, b in zip(last.weight, last.bias, strict=True)]
    return torch.stack([2 / (1 + (-value).exp()) for value in out])


def test_pepnet_matches_its_paper() -> None:
    _, ranker, batch = moved_ranker("pepnet")
    pepnet = ranker.scenario
    assert isinstance(pepnet, Pepnet)
    inputs = ranker.inputs(batch)
    (hour,), (language,) = (ranker.inputs.layout.columns_of([name]) for name in ("hour", "language"))
    scaled = torch.stack([row * slow_gate(pepnet.inputs_gate, torch.cat([row[language], row])) for row in inputs])
    logits = torch.zeros(len(batch), 2)
    for index, (row, epnet) in enumerate(zip(inputs, scaled, strict=True)):
        factors = slow_gate(pepnet.units_gate, torch.cat([row[hour], epnet]))  # 8 units of each of two towers
        for task, tower in enumerate(ranker._towers):
            (hidden,) = ranker.sharing(epnet[None])[task]
            mlp = tower.network
            assert isinstance(mlp, Mlp)
            *layers, last = mlp.layers
            for layer in layers:
                hidden = layer(hidden[None])[0]
            hidden = hidden * factors[8 * task : 8 * task + 8]
            logits[index, task] = tower.affine_map(last(hidden[None]))[0, 0]
    assert_close(ranker(batch).logits, logits)


def test_a_gate_of_pepnet_sends_no_gradient_to_what_it_scales() -> None:
    _, ranker, batch = moved_ranker("pepnet")
    pepnet = ranker.scenario
    assert isinstance(pepnet, Pepnet)
    inputs = ranker.inputs(batch).detach().requires_grad_()
    _, _, contexts = pepnet(inputs, batch.discrete)
    torch.stack([factors.sum() for context in contexts for factors in context]).sum().backward()
    (hour,) = ranker.inputs.layout.columns_of(["hour"])
    assert inputs.grad is not None
    assert inputs.grad[:, hour].any()
    others = torch.ones(inputs.shape[1], dtype=torch.bool)
    others[hour] = False
    assert not inputs.grad[:, others].any()


def test_pepnet_whose_gates_are_1_changes_nothing() -> None:
    _, ranker, batch = moved_ranker("pepnet")
    without = copy.copy(ranker)
    without._modules = ranker._modules | {"scenario": None}
    assert isinstance(ranker.scenario, Pepnet)
    for gate in (ranker.scenario.inputs_gate, ranker.scenario.units_gate):
        assert gate is not None
        for parameter in gate.parameters():
            nn.init.zeros_(parameter)
    assert_close(ranker(batch).logits, without(batch).logits)


@pytest.mark.parametrize(("field", "gates"), [("domain", "inputs_gate"), ("personal", "units_gate")])
def test_each_gate_of_pepnet_may_be_alone(field: str, gates: str) -> None:
    config = make_config("pepnet")
    assert config.model.scenario is not None
    scenario = config.model.scenario.model_copy(update={field: None})
    model = config.model.model_copy(update={"scenario": scenario})
    ranker = make_ranker(config.model_copy(update={"model": model}))
    assert getattr(ranker.scenario, gates) is None
    assert ranker(make_batch(config)).logits.shape == (40, 2)
