"""Laws that every ranker obeys, whatever its parts; calibration."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from model.golden import TOLERANCE
from model.kinds import CASES
from model.rankers import make_batch, make_config, make_ranker
from support import feed_values
from torch.testing import assert_close

from recap.config.file.load import config_of
from recap.config.recap import RecapConfig
from recap.model.calibration import Calibration
from recap.model.objective.losses import MultiTaskLoss
from recap.model.ranker import Ranker


@pytest.fixture(params=CASES)
def config(request: pytest.FixtureRequest) -> RecapConfig:
    return make_config(request.param)


def test_outputs_have_a_column_for_each_task(config: RecapConfig) -> None:
    output = make_ranker(config).eval()(make_batch(config, rows=7))
    for value in output:
        assert value.shape == (7, 2)
        assert value.dtype == torch.float32
        assert value.isfinite().all()


def test_every_parameter_gets_a_finite_gradient(config: RecapConfig) -> None:
    ranker, batch = make_ranker(config), make_batch(config, rows=200)
    MultiTaskLoss([1.0, 2.0])(ranker(batch).logits, batch.labels, batch.weights).mean().backward()
    for name, parameter in ranker.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_every_parameter_is_either_shared_or_in_one_tower(config: RecapConfig) -> None:
    ranker = make_ranker(config)
    parameters = [
        *ranker.shared_parameters(),
        *(p for task in config.tasks for p in ranker.tower_parameters(task)),
    ]
    assert {id(p) for p in parameters} == {id(p) for p in ranker.parameters()}
    assert len(parameters) == len({id(p) for p in parameters})


def test_the_score_of_a_row_does_not_depend_on_other_rows(config: RecapConfig) -> None:
    ranker, batch = make_ranker(config).eval(), make_batch(config, rows=12)
    together = ranker(batch).logits
    alone = torch.cat([ranker(batch.rows(slice(row, row + 1))).logits for row in range(len(batch))])
    assert_close(alone, together, **TOLERANCE)  # rounding of matrix products depends on shape and processor
    assert torch.equal(ranker(batch).logits, together)


def test_loaded_weights_give_the_same_logits(config: RecapConfig) -> None:
    ranker, other, batch = make_ranker(config), make_ranker(config, seed=1), make_batch(config)
    ranker(batch)  # moves the running statistics of BatchNorm
    other.load_state_dict(ranker.state_dict())
    assert torch.equal(ranker.eval()(batch).logits, other.eval()(batch).logits)


def test_the_seed_fixes_the_initial_weights(config: RecapConfig) -> None:
    first, same, other = make_ranker(config), make_ranker(config), make_ranker(config, seed=1)
    pairs = list(zip(first.parameters(), same.parameters(), strict=True))
    assert all(torch.equal(left, right) for left, right in pairs)
    assert not all(torch.equal(left, right) for left, right in zip(first.parameters(), other.parameters(), strict=True))


def test_training_reduces_the_loss(config: RecapConfig) -> None:
    ranker, batch = make_ranker(config), make_batch(config, rows=256)
    first = batch.binary[:, 0]
    labels = torch.stack([first, first * (batch.vectors["vector"][:, 0] > 0)], dim=1)  # nested, as in a chain of tasks
    loss, optimizer = MultiTaskLoss([1.0, 1.0]), torch.optim.Adam(ranker.parameters(), lr=0.01)
    losses: list[float] = []
    while len(losses) < 2 or (losses[-1] >= 0.5 * losses[0] and len(losses) < 90):
        optimizer.zero_grad()
        total = loss(ranker(batch).logits, labels, torch.ones_like(labels)).mean()
        total.backward()
        optimizer.step()
        losses.append(total.item())
    assert losses[-1] < 0.5 * losses[0]


def test_any_name_may_be_a_task_or_a_feature() -> None:
    values = feed_values(Path("feed"), Path("run"))
    tower = {"tower": {"kind": "mlp"}}
    tasks = {name: {} for name in ("a.b", "keys", "training", "a%2Eb")}
    values["model"]["tasks"] = dict.fromkeys(tasks, tower)
    values["train_data"]["tasks"] = tasks
    values["scoring"] = {}
    values["features"]["discrete"] = {"x.hour": {"size": 24}, "items": {"size": 2}}
    ranker = Ranker(config_of(values), {})
    assert len(ranker.towers) == 4
    assert "inputs.embeddings.tables.x%2Ehour.weight" in ranker.state_dict()


def test_the_row_of_unknown_values_starts_at_zero() -> None:
    ranker = make_ranker(make_config("mlp-share_all"))
    tables = [value for name, value in ranker.state_dict().items() if "embeddings" in name]
    assert [len(table) for table in tables] == [25, 3]
    assert all((table[0] == 0).all() and (table[1:] != 0).all() for table in tables)


def test_an_embedding_of_width_0_leaves_its_feature_out() -> None:
    values = feed_values(Path("feed"), Path("run"))
    values["model"]["embeddings"] = {"default": 0, "hour": 3}
    config = config_of(values)
    ranker = make_ranker(config)
    assert ranker.inputs.layout.embeddings == [3]
    assert ranker(make_batch(config)).logits.shape == (40, 2)


def test_a_model_may_read_vectors_alone() -> None:
    values = feed_values(Path("feed"), Path("run"))
    values["features"] = {"vectors": {"vector": 4}}
    values["model"]["embeddings"] = {}
    config = config_of(values)
    assert make_ranker(config)(make_batch(config)).logits.shape == (40, 2)


@given(st.floats(1e-6, 1 - 1e-6), st.floats(1e-4, 1.0), st.floats(1e-4, 1.0))
def test_calibration_gives_the_posterior_of_the_population(prior: float, positive: float, negative: float) -> None:
    sampled = prior * positive / (prior * positive + (1 - prior) * negative)
    ratio = torch.tensor([negative / positive], dtype=torch.float64)
    found = Calibration(ratio)(torch.tensor([[sampled]], dtype=torch.float64)).item()
    assert found == pytest.approx(prior, rel=1e-6)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=20), st.floats(1e-3, 1e3))
def test_calibration_is_monotonic_and_invertible(values: list[float], ratio: float) -> None:
    probabilities = torch.tensor(sorted([0.0, *values, 1.0]), dtype=torch.float64)[:, None]
    ratios = torch.tensor([ratio], dtype=torch.float64)
    calibrated = Calibration(ratios)(probabilities)
    assert calibrated[0] == 0
    assert calibrated[-1] == 1
    assert (calibrated.diff(dim=0) >= 0).all()
    assert_close(Calibration(1 / ratios)(calibrated), probabilities, atol=1e-9, rtol=1e-6)
    assert torch.equal(Calibration(torch.ones(1))(probabilities), probabilities)


@pytest.mark.parametrize("parts", [1, 2, 3, 8])
def test_micro_batch_losses_weighted_by_rows_sum_to_the_batchs(parts: int) -> None:
    torch.manual_seed(0)
    logits, labels, weights = torch.randn(50, 3), (torch.rand(50, 3) < 0.3).float(), torch.rand(50, 3)
    loss = MultiTaskLoss([1.0, 2.0, 5.0])
    total = torch.zeros(3)
    for rows in torch.arange(50).tensor_split(parts):
        total += loss(logits[rows], labels[rows], weights[rows]) * len(rows) / 50
    assert_close(total, loss(logits, labels, weights))
