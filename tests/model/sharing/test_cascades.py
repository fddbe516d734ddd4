"""ESMM, AITM and DBMTL against the equations of their papers, written as slow loops."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from model.kinds import SHARINGS
from model.rankers import make_batch, make_config, make_ranker
from model.sharing.three_tasks import LAYOUT, TASKS, model_config, some_inputs
from torch import Tensor, nn
from torch.testing import assert_close

from recap.model.objective.objective import Objective, chain_penalty
from recap.model.sharing import Sharing, build_sharing
from recap.model.sharing.cascade import Aitm, Cascade, Dbmtl, Esmm, build_cascade, logit_of_product


def make_cascade(**values: Any) -> Cascade:
    torch.manual_seed(0)
    return build_cascade(model_config(cascade=values), LAYOUT)


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


def test_parameters_are_named_after_their_tasks() -> None:
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


@pytest.mark.parametrize("kind", ["mmoe", "cgc", "ple"])
@pytest.mark.parametrize("cascade", [{"kind": "esmm", "chain": TASKS}, {"kind": "aitm", "chain": TASKS, "width": 3}])
def test_sharing_and_cascade_export_for_any_number_of_rows(kind: str, cascade: dict[str, Any]) -> None:
    sharing = build_sharing(model_config(sharing=SHARINGS[kind]), LAYOUT)
    module = _SharingAndCascade(sharing, build_cascade(model_config(cascade=cascade), sharing.layout)).eval()
    rows = ({0: torch.export.Dim("rows", min=2, max=100)},)
    program = torch.export.export(module, (some_inputs(),), dynamic_shapes=rows).module()
    assert_close(program(some_inputs(rows=9)), module(some_inputs(rows=9)))
