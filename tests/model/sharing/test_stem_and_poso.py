"""STEM and POSO against the equations of their papers, written as slow loops."""

from typing import Any

import pytest
import torch
from model.sharing.three_tasks import LAYOUT, TASKS, model_config, some_inputs
from torch import Tensor, nn
from torch.testing import assert_close

from recap.model.sharing import build_sharing
from recap.model.sharing.experts import Gate
from recap.model.sharing.poso import Poso
from recap.model.sharing.stem import Stem


def make_stem() -> Stem:
    torch.manual_seed(0)
    config = model_config(sharing={"kind": "stem", "shared_experts": 1, "task_experts": 2})
    stem = build_sharing(config, LAYOUT)
    assert isinstance(stem, Stem)
    return stem


def part_of(row: Tensor, number: int) -> Tensor:
    """What the experts of part `number` read: the numbers, and their share of each embedding."""
    author, tab = row[3:11], row[11:]
    return torch.cat([row[:3], author[2 * number : 2 * number + 2], tab[number : number + 1]])


def test_stem_matches_its_paper() -> None:
    stem, inputs = make_stem(), some_inputs()
    for index, (task, output) in enumerate(zip(TASKS, stem(inputs), strict=True)):
        gate: Any = stem.task_gates.named(task)
        assert isinstance(gate, Gate)
        for row, found in zip(inputs, output, strict=True):
            parts = [part_of(row, number) for number in range(4)]  # the last is shared
            experts = [
                expert[0]
                for number, name in enumerate([*TASKS, "shared"])
                for expert in stem.experts.named(name)(parts[number][None])
            ]
            scores = [torch.dot(weights, parts[index] + parts[3]).exp() for weights in gate.linear.weight]
            total = torch.stack(scores).sum()
            mixed = sum((score / total * expert for score, expert in zip(scores, experts, strict=True)), torch.zeros(5))
            assert_close(found, mixed)


def test_a_task_of_stem_trains_only_its_own_and_the_shared_experts_and_columns() -> None:
    stem, inputs = make_stem(), some_inputs().requires_grad_()
    stem(inputs)[1].square().sum().backward()
    moved = {
        name
        for name in [*TASKS, "shared"]
        if any(p.grad is not None and p.grad.any() for p in stem.experts.named(name).parameters())
    }
    assert moved == {"like", "shared"}
    assert inputs.grad is not None
    columns = inputs.grad.any(dim=0).nonzero()[:, 0].tolist()
    assert columns == [0, 1, 2, 3 + 2, 3 + 3, 3 + 6, 3 + 7, 11 + 1, 11 + 3]


def test_the_gates_of_stem_name_all_experts() -> None:
    stem = make_stem()
    assert stem.gates["like"] == ["click_1", "click_2", "like_1", "like_2", "a.b_1", "a.b_2", "shared_1"]
    for weights in stem.gate_weights(some_inputs()).values():
        assert_close(weights.sum(dim=1), torch.ones(6))


@pytest.mark.parametrize("copies", [1, 3])
def test_poso_matches_its_paper(copies: int) -> None:
    torch.manual_seed(0)
    config = model_config(sharing={"kind": "poso", "features": ["tab"], "copies": copies, "gate_width": 4})
    poso, inputs = build_sharing(config, LAYOUT), some_inputs()
    assert isinstance(poso, Poso)
    first, last = (layer for layer in poso.gate.layers if isinstance(layer, nn.Linear))
    click, like, _ = poso(inputs)
    assert click is like
    for row, found in zip(inputs, click, strict=True):
        hidden = (first.weight @ row[11:] + first.bias).clamp(min=0)
        gates = [1 / (1 + (-(torch.dot(w, hidden) + b)).exp()) for w, b in zip(last.weight, last.bias, strict=True)]
        experts = [output[0] for output in poso.experts(row[None])]
        mixed = sum((gate * expert for gate, expert in zip(gates, experts, strict=True)), torch.zeros(5))
        assert_close(found, 2 / copies * mixed)
