"""Experts, gates and cascades against the equations of their papers, written as slow loops."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from model.kinds import make_batch, make_config, make_ranker
from torch import Tensor, nn
from torch.testing import assert_close

from recap.config.backbones import MaskNetConfig
from recap.config.model import ModelConfig
from recap.config.network import MlpConfig
from recap.model.inputs.layout import InputLayout
from recap.model.objective.objective import Objective, chain_penalty
from recap.model.sharing import Sharing, build_sharing
from recap.model.sharing.cascade import Aitm, Cascade, Esmm, build_cascade, logit_of_product
from recap.model.sharing.experts import Gate
from recap.model.sharing.mmoe import Mmoe
from recap.model.sharing.one_backbone import ShareAll
from recap.model.sharing.ple import Level, Ple

TASKS = ["click", "like", "a.b"]
LAYOUT = InputLayout(4, [3, 2])
KINDS: dict[str, dict[str, Any]] = {
    "mmoe": {"kind": "mmoe", "num_experts": 3},
    "cgc": {"kind": "cgc", "shared_experts": 2, "task_experts": 1},
    "ple": {"kind": "ple", "shared_experts": 2, "task_experts": 2, "levels": 3},
}


def model_config(sharing: dict[str, Any] | None = None, cascade: dict[str, Any] | None = None) -> ModelConfig:
    """Three tasks over an MLP."""
    values = {
        "backbone": {"kind": "mlp", "layer_sizes": [7, 5]},
        "sharing": sharing or {"kind": "share_all"},
        "cascade": cascade,
        "tasks": {task: {"tower": {"kind": "mlp"}} for task in TASKS},
    }
    return ModelConfig.model_validate(values)


def make_sharing(kind: str, **changes: int) -> Sharing:
    torch.manual_seed(0)
    return build_sharing(model_config(KINDS[kind] | changes), LAYOUT)


def make_cascade(**values: Any) -> Cascade:
    torch.manual_seed(0)
    return build_cascade(model_config(cascade=values), LAYOUT)


def some_inputs(rows: int = 6, width: int = LAYOUT.width) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(1))


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
    config = model_config(KINDS["ple"])
    blocks = [{"output_size": 6, "aggregation_size": 4}]
    mask_net = MaskNetConfig.model_validate({"kind": "mask_net", "mask_blocks": blocks})
    sharing = build_sharing(config.model_copy(update={"backbone": mask_net}), LAYOUT)
    assert sharing.layout == InputLayout.of_numbers(6)
    assert [output.shape for output in sharing(some_inputs())] == [(6, 6)] * 3
    assert isinstance(config.backbone, MlpConfig)


def slow_logit(logits: list[float]) -> Tensor:
    """log p − log(1 − p) of the product, in 64 bits."""
    log_p = nn.functional.logsigmoid(torch.tensor(logits, dtype=torch.float64)).sum()
    return log_p - torch.log(-torch.expm1(log_p))


LOGITS = st.lists(st.floats(-30, 30, width=32), min_size=3, max_size=3)


@given(LOGITS)
def test_esmm_multiplies_the_probabilities_along_the_chain(logits: list[float]) -> None:
    cascade = make_cascade(kind="esmm", chain=["like", "a.b", "click"])
    click, like, last = (logit.item() for logit in cascade.chained([torch.tensor([logit]) for logit in logits]))
    assert like == torch.tensor(logits[1]).item()
    expected = slow_logit([logits[1], logits[2]]), slow_logit([logits[1], logits[2], logits[0]])
    assert last == pytest.approx(expected[0].item(), rel=1e-5, abs=1e-5)
    assert click == pytest.approx(expected[1].item(), rel=1e-5, abs=1e-5)


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=3, max_size=3))
def test_the_probabilities_of_esmm_never_increase_along_the_chain(logits: list[float]) -> None:
    quarters = [torch.tensor([logit / 4]) for logit in logits]  # so that no sum overflows
    found = torch.stack(make_cascade(kind="esmm", chain=TASKS).chained(quarters))
    assert (found.diff(dim=0) <= 0).all()
    assert (found.sigmoid().diff(dim=0) <= 0).all()


@pytest.mark.parametrize("left", [-1e4, -80.0, 0.0, 80.0, 1e4])
@pytest.mark.parametrize("right", [-1e4, -80.0, 0.0, 80.0, 1e4])
def test_the_logit_of_a_product_and_its_gradient_are_finite_at_any_magnitude(left: float, right: float) -> None:
    logits = torch.tensor([left, right], requires_grad=True)
    found = logit_of_product(logits[0], logits[1])
    found.backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert (logits.grad >= 0).all()
    if max(abs(left), abs(right)) == 80:  # beyond, even float64 is not exact for the slow version
        assert_close(found.double(), slow_logit([left, right]), atol=1e-4, rtol=1e-6)
    assert found.isfinite()


def slow_aitm(cascade: Aitm, read: list[Tensor]) -> dict[str, Tensor]:
    """z of each task of the chain for one row."""
    before, found = None, {}
    for task in cascade.chain:
        own = cascade.projections.named(task)(read[TASKS.index(task)])
        if before is not None:
            link: Any = cascade.transfers.named(task)
            parts = [link.transfer(before), own]
            scores = [torch.dot(link.key(u), link.query(u)) / len(u) ** 0.5 for u in parts]
            weights = torch.stack(scores).softmax(dim=0)
            own = weights[0] * link.value(parts[0]) + weights[1] * link.value(parts[1])
        before = found[task] = own
    return found


def test_aitm_matches_its_paper_and_leaves_other_tasks_unchanged() -> None:
    cascade = make_cascade(kind="aitm", chain=["a.b", "click"], width=6)
    assert isinstance(cascade, Aitm)
    read = [some_inputs(), some_inputs() + 1, some_inputs() - 1]
    found = cascade(read)
    assert found[1] is read[1]
    assert [layout.width for layout in cascade.layouts] == [6, LAYOUT.width, 6]
    for row in range(6):
        slow = slow_aitm(cascade, [inputs[row] for inputs in read])
        for task, expected in slow.items():
            assert_close(found[TASKS.index(task)][row], expected)


def test_aitm_transfers_from_each_task_of_a_chain_to_the_next() -> None:
    cascade = make_cascade(kind="aitm", chain=["like", "click", "a.b"], width=6)
    assert isinstance(cascade, Aitm)
    found = cascade([some_inputs()] * 3)
    slow = slow_aitm(cascade, [some_inputs()[2]] * 3)
    for task, expected in slow.items():
        assert_close(found[TASKS.index(task)][2], expected)


def test_the_penalty_is_the_excess_of_later_probabilities() -> None:
    outputs = torch.randn(8, 2, generator=torch.Generator().manual_seed(0))
    later_task, earlier_task = outputs.sigmoid().T.tolist()  # share → like
    slow = sum(max(later - earlier, 0) for earlier, later in zip(earlier_task, later_task, strict=True)) / 8
    objective = Objective(make_config("aitm"))
    assert objective.penalty(outputs).item() == pytest.approx(objective.constraint_weight * slow)
    assert chain_penalty(torch.tensor([[0.5, 0.5, 0.1]])) == 0
    assert chain_penalty(torch.tensor([[0.5, 0.7, 0.8]])).item() == pytest.approx(0.3)
    for other in ("mlp-share_all", "esmm"):
        assert Objective(make_config(other)).penalty(outputs) == 0


def test_the_gradient_of_the_penalty_lowers_the_later_probability() -> None:
    probabilities = torch.tensor([[0.2, 0.6, 0.1]], requires_grad=True)
    chain_penalty(probabilities).backward()
    assert probabilities.grad is not None
    assert probabilities.grad.tolist() == [[-1.0, 1.0, 0.0]]


def test_a_ranker_with_esmm_orders_its_probabilities() -> None:
    config = make_config("esmm")
    ranker, batch = make_ranker(config).eval(), make_batch(config)
    found = ranker(batch)
    assert isinstance(ranker.cascade, Esmm)
    assert (found.probabilities[:, 1] < found.probabilities[:, 0]).all()
    towers = [
        tower(read) for tower, read in zip(ranker.towers.values(), ranker.sharing(ranker.inputs(batch)), strict=True)
    ]
    assert_close(found.probabilities[:, 1], towers[0].sigmoid() * towers[1].sigmoid())


def test_parameters_are_named_after_their_tasks() -> None:
    names = [name for name, _ in make_sharing("mmoe").named_parameters()]
    assert names[-1] == "task_gates.a%2Eb.linear.weight"
    names = [name for name, _ in make_cascade(kind="aitm", chain=["click", "a.b"], width=2).named_parameters()]
    assert "transfers.a%2Eb.value.weight" in names


class _SharingAndCascade(nn.Module):
    """A sharing and a cascade in one module."""

    def __init__(self, sharing: Sharing, cascade: Cascade) -> None:
        super().__init__()
        self.sharing, self.cascade = sharing, cascade

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.stack(
            self.cascade.chained([representation.sum(dim=1) for representation in self.cascade(self.sharing(inputs))]),
            dim=1,
        )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cascade", [{"kind": "esmm", "chain": TASKS}, {"kind": "aitm", "chain": TASKS, "width": 3}])
def test_sharing_and_cascade_export_for_any_number_of_rows(kind: str, cascade: dict[str, Any]) -> None:
    sharing = make_sharing(kind)
    module = _SharingAndCascade(sharing, build_cascade(model_config(cascade=cascade), sharing.layout)).eval()
    rows = ({0: torch.export.Dim("rows", min=2, max=100)},)
    program = torch.export.export(module, (some_inputs(),), dynamic_shapes=rows).module()
    assert_close(program(some_inputs(rows=9)), module(some_inputs(rows=9)))
