"""MMoE, CGC and PLE against the equations of their papers, written as slow loops."""

from typing import Any

import pytest
import torch
from model.sharing.three_tasks import LAYOUT, TASKS, model_config, some_inputs
from torch import Tensor, nn
from torch.testing import assert_close

from recap.config.backbones import MaskNetConfig
from recap.config.network import MlpConfig
from recap.model.inputs.layout import InputLayout
from recap.model.sharing import Sharing, build_sharing
from recap.model.sharing.experts import Gate
from recap.model.sharing.mmoe import Mmoe
from recap.model.sharing.one_backbone import ShareAll
from recap.model.sharing.ple import Level, Ple

KINDS: dict[str, dict[str, Any]] = {
    "mmoe": {"kind": "mmoe", "num_experts": 3},
    "cgc": {"kind": "cgc", "shared_experts": 2, "task_experts": 1},
    "ple": {"kind": "ple", "shared_experts": 2, "task_experts": 2, "levels": 3},
}


def make_sharing(kind: str, **changes: int) -> Sharing:
    torch.manual_seed(0)
    return build_sharing(model_config(sharing=KINDS[kind] | changes), LAYOUT)


def slow_gate(gate: nn.Module, row: Tensor, outputs: list[Tensor]) -> Tensor:
    """Σᵢ softmax(W x)ᵢ · fᵢ, one row and one expert at a time."""
    assert isinstance(gate, Gate)
    scores = [torch.dot(weights, row).exp() for weights in gate.linear.weight]
    mixed = torch.zeros_like(outputs[0])
    for score, output in zip(scores, outputs, strict=True):
        mixed = mixed + score / torch.stack(scores).sum() * output
    return mixed


def outputs_of(experts: nn.Module, row: Tensor) -> list[Tensor]:
    return [output[0] for output in experts(row[None])]


def test_mmoe_matches_its_paper() -> None:
    sharing, inputs = make_sharing("mmoe"), some_inputs()
    assert isinstance(sharing, Mmoe)
    for task, output in zip(TASKS, sharing(inputs), strict=True):
        gate = sharing.task_gates.named(task)
        slow = [slow_gate(gate, row, outputs_of(sharing.experts, row)) for row in inputs]
        assert_close(output, torch.stack(slow))


def test_mmoe_with_one_expert_is_share_all() -> None:
    single, shared = make_sharing("mmoe", num_experts=1), build_sharing(model_config(), LAYOUT)
    assert isinstance(single, Mmoe)
    assert isinstance(shared, ShareAll)
    shared.backbone.load_state_dict(single.experts.networks[0].state_dict())
    inputs = some_inputs()
    for left, right in zip(single(inputs), shared(inputs), strict=True):
        assert torch.equal(left, right)


def slow_level(level: nn.Module, read: dict[str, Tensor]) -> dict[str, Tensor]:
    """The mixtures of a level for one row: a task mixes its own and the shared experts, the shared gate all."""
    assert isinstance(level, Level)
    outputs = {part: outputs_of(level.experts.named(part), read[part]) for part in [*TASKS, "shared"]}
    mixed = {task: outputs[task] + outputs["shared"] for task in TASKS}
    mixed["shared"] = [output for part in [*TASKS, "shared"] for output in outputs[part]]
    return {gate: slow_gate(level.gates.named(gate), read[gate], mixed[gate]) for gate in level.mixed_parts}


@pytest.mark.parametrize("kind", ["cgc", "ple"])
def test_cgc_and_ple_match_their_paper(kind: str) -> None:
    sharing, inputs = make_sharing(kind), some_inputs()
    assert isinstance(sharing, Ple)
    slow = []
    for row in inputs:
        read = dict.fromkeys([*TASKS, "shared"], row)
        for level in sharing.levels:
            read = slow_level(level, read)
        assert list(read) == TASKS  # the last level has no shared gate
        slow.append([read[task] for task in TASKS])
    for index, output in enumerate(sharing(inputs)):
        assert_close(output, torch.stack([row[index] for row in slow]))


@pytest.mark.parametrize(("kind", "calls"), [("mmoe", 3), ("cgc", 2 + 3), ("ple", 3 * (2 + 3 * 2))])
def test_every_expert_is_computed_once(kind: str, calls: int) -> None:
    sharing = make_sharing(kind)
    counted = []
    for name, module in sharing.named_modules():
        if name.split(".")[-2:-1] == ["networks"]:
            module.register_forward_hook(lambda *_: counted.append(1))
    sharing(some_inputs())
    assert len(counted) == calls


@pytest.mark.parametrize("kind", KINDS)
def test_the_weights_of_a_gate_sum_to_1_over_its_named_experts(kind: str) -> None:
    sharing = make_sharing(kind)
    weights = sharing.gate_weights(some_inputs())
    assert weights.keys() == sharing.gates.keys()
    for gate, values in weights.items():
        assert values.shape == (6, len(sharing.gates[gate]))
        assert (values >= 0).all()
        assert_close(values.sum(dim=1), torch.ones(6))


def test_gates_and_experts_are_named_by_level_and_task() -> None:
    assert make_sharing("mmoe").gates == {task: ["expert_1", "expert_2", "expert_3"] for task in TASKS}
    assert make_sharing("cgc").gates["a.b"] == ["a.b_1", "shared_1", "shared_2"]
    ple = make_sharing("ple", levels=2, task_experts=1).gates
    assert list(ple) == [f"level_1/{gate}" for gate in [*TASKS, "shared"]] + [f"level_2/{task}" for task in TASKS]
    assert ple["level_1/shared"] == ["click_1", "like_1", "a.b_1", "shared_1", "shared_2"]


def test_the_reported_weights_of_ple_are_those_it_mixes_with() -> None:
    sharing, inputs = make_sharing("ple"), some_inputs()
    seen: list[Tensor] = []
    for module in sharing.modules():
        if isinstance(module, Gate):
            module.register_forward_hook(lambda _, __, output: seen.append(output))
    sharing(inputs)
    used = seen.copy()
    assert all(
        torch.equal(left, right) for left, right in zip(used, sharing.gate_weights(inputs).values(), strict=True)
    )


def moved_experts(sharing: Ple, task: int) -> set[tuple[int, str]]:
    """(level, part) of the experts that get a gradient from a loss of one task alone."""
    sharing.zero_grad()
    sharing(some_inputs())[task].square().sum().backward()
    return {
        (number, part)
        for number, level in enumerate(sharing.levels, start=1)
        if isinstance(level, Level)
        for part in [*TASKS, "shared"]
        if any(p.grad is not None and p.grad.any() for p in level.experts.named(part).parameters())
    }


def test_a_task_trains_its_own_and_shared_experts_and_all_of_lower_levels() -> None:
    sharing = make_sharing("ple", levels=2)
    assert isinstance(sharing, Ple)
    everything = {(1, part) for part in [*TASKS, "shared"]}
    assert moved_experts(sharing, 1) == everything | {(2, "like"), (2, "shared")}
    single = make_sharing("cgc")
    assert isinstance(single, Ple)
    assert moved_experts(single, 1) == {(1, "like"), (1, "shared")}


def test_higher_levels_read_numbers_without_embeddings() -> None:
    config = model_config(sharing=KINDS["ple"])
    blocks = [{"output_size": 6, "aggregation_size": 4}]
    mask_net = MaskNetConfig.model_validate({"kind": "mask_net", "mask_blocks": blocks})
    sharing = build_sharing(config.model_copy(update={"backbone": mask_net}), LAYOUT)
    assert sharing.layout == InputLayout.of_numbers(6)
    assert [output.shape for output in sharing(some_inputs())] == [(6, 6)] * 3
    assert isinstance(config.backbone, MlpConfig)


def test_gates_are_named_after_their_tasks() -> None:
    names = [name for name, _ in make_sharing("mmoe").named_parameters()]
    assert names[-1] == "task_gates.a%2Eb.linear.weight"
