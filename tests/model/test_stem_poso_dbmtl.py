"""STEM, POSO and DBMTL against the equations of their papers, written as slow loops."""

from typing import Any

import pytest
import torch
from model.kinds import make_batch, make_config, make_ranker
from torch import Tensor, nn
from torch.testing import assert_close

from recap.config.model import ModelConfig
from recap.model.inputs.layout import InputLayout
from recap.model.sharing import build_sharing
from recap.model.sharing.cascade import Dbmtl, build_cascade
from recap.model.sharing.experts import Gate
from recap.model.sharing.poso import Poso
from recap.model.sharing.stem import Stem

TASKS = ["click", "like", "a.b"]
LAYOUT = InputLayout(3, [8, 4], ["author", "tab"])
"""Three numbers, then an embedding of 2 columns for each task and for all, and one of 1 column each."""


def model_config(**model: Any) -> ModelConfig:
    values = {
        "backbone": {"kind": "mlp", "layer_sizes": [7, 5]},
        "sharing": {"kind": "share_all"},
        "tasks": {task: {"tower": {"kind": "mlp"}} for task in TASKS},
    }
    return ModelConfig.model_validate(values | model)


def some_inputs(rows: int = 6) -> Tensor:
    return torch.randn(rows, LAYOUT.width, generator=torch.Generator().manual_seed(1))


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


def test_dbmtl_matches_its_paper_and_leaves_other_tasks_unchanged() -> None:
    torch.manual_seed(0)
    parents = {"a.b": ["like", "click"], "like": ["click"]}  # a later task may come first
    cascade = build_cascade(model_config(cascade={"kind": "dbmtl", "parents": parents, "width": 4}), LAYOUT)
    assert isinstance(cascade, Dbmtl)
    read = [some_inputs(), some_inputs() + 1, some_inputs() - 1]
    own = {task: cascade.projections.named(task)(inputs) for task, inputs in zip(TASKS, read, strict=True)}
    like = cascade.joints.named("like")(torch.cat([own["like"], own["click"]], dim=1))
    last = cascade.joints.named("a.b")(torch.cat([own["a.b"], like, own["click"]], dim=1))
    for found, expected in zip(cascade(read), [own["click"], like, last], strict=True):
        assert_close(found, expected)
        assert found.shape == (6, 4)
    alone = build_cascade(model_config(cascade={"kind": "dbmtl", "parents": {"like": ["click"]}, "width": 4}), LAYOUT)
    assert alone(read)[2] is read[2]
    assert [layout.width for layout in alone.layouts] == [4, 4, LAYOUT.width]


def test_a_tower_of_dbmtl_learns_through_its_parents() -> None:
    config = make_config("dbmtl")  # like depends on share
    ranker = make_ranker(config)
    ranker(make_batch(config)).logits[:, 0].sum().backward()
    assert isinstance(ranker.cascade, Dbmtl)
    assert all(parameter.grad is not None for parameter in ranker.cascade.projections.named("share").parameters())
