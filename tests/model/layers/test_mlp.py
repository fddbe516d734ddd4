"""The MLP: its layers in their order, each activation against its equation, and an ensemble against single MLPs."""

import math
from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch
from model.rankers import make_batch, make_config, make_ranker
from pydantic import TypeAdapter, ValidationError
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.testing import assert_close

from recap.config.file.load import config_of
from recap.config.model import TaskConfig, TowerConfig
from recap.config.network import Activation, EnsembleConfig, MlpConfig, MlpTowerConfig
from recap.model.inputs.layout import InputLayout
from recap.model.layers import Mlp
from recap.model.layers.activations import Dice, build_activation
from recap.model.layers.mlp import EnsembleMlp
from recap.model.objective.objective import Objective
from recap.model.towers import Tower

SIZES = {"kind": "mlp", "layer_sizes": [8, 8]}


def network(**values: Any) -> Mlp:
    torch.manual_seed(0)
    return Mlp(5, MlpConfig.model_validate(SIZES | values))


def names(module: nn.Module) -> list[str]:
    """The layers of a Sequential; those of a residual layer in brackets."""
    listed = []
    for layer in module.children():
        inner = getattr(layer, "layer", None)
        listed.append(type(layer).__name__ if inner is None else f"[{' '.join(names(inner))}]")
    return listed


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, "Linear ReLU Linear"),
        ({"batch_norm": {}, "dropout": {}}, "Linear BatchNorm1d ReLU Dropout Linear"),
        ({"layer_norm": {}, "final_layer_norm": True}, "Linear LayerNorm ReLU Linear LayerNorm"),
        (
            {"batch_norm": {}, "norm_position": "after_activation", "final_layer_activation": True, "dropout": {}},
            "Linear ReLU BatchNorm1d Dropout Linear ReLU Dropout",
        ),
        (
            {"batch_norm": {}, "final_layer_norm": True, "final_layer_activation": True, "activation": "silu"},
            "Linear BatchNorm1d SiLU Linear BatchNorm1d SiLU",
        ),
        (
            {"dropout": {"rates": [0.1, 0.2], "position": "before_linear"}},
            "Dropout Linear ReLU Dropout Linear",
        ),
        ({"residual": True, "layer_norm": {}}, "Linear LayerNorm ReLU [Linear]"),
        (
            {"residual": True, "dropout": {"position": "before_linear"}, "final_layer_activation": True},
            "Dropout Linear ReLU [Dropout Linear ReLU]",
        ),
    ],
)
def test_the_layers_of_an_mlp_stand_in_the_order_that_is_asked_for(values: dict[str, Any], expected: str) -> None:
    assert " ".join(names(network(**values).layers)) == expected


def test_every_hidden_layer_of_a_tower_has_norm_and_activation_and_the_logit_has_none() -> None:
    config = MlpTowerConfig.model_validate(SIZES | {"layer_norm": {}, "activation": "gelu", "residual": True})
    assert names(Mlp(5, config).layers) == ["Linear", "LayerNorm", "GELU", "[Linear LayerNorm GELU]", "ExactLinear"]


SLOW: dict[str, Callable[[float], float]] = {
    "relu": lambda x: max(x, 0.0),
    "leaky_relu": lambda x: x if x > 0 else 0.01 * x,
    "prelu": lambda x: x if x > 0 else 0.25 * x,
    "gelu": lambda x: x * 0.5 * (1 + math.erf(x / math.sqrt(2))),
    "silu": lambda x: x / (1 + math.exp(-x)),
    "tanh": math.tanh,
}


@pytest.mark.parametrize("kind", [kind for kind in get_args(Activation) if kind != "dice"])
def test_each_activation_is_its_function(kind: Activation) -> None:
    values = torch.linspace(-3, 3, 14, dtype=torch.float64).view(7, 2)
    expected = [[SLOW[kind](value) for value in row] for row in values.tolist()]
    assert_close(build_activation(kind, 2).double()(values).detach(), torch.tensor(expected, dtype=torch.float64))


def slow_dice(values: list[float], mean: float, variance: float, slope: float) -> list[float]:
    """f(s) = p(s) s + (1 − p(s)) α s, p(s) = 1 / (1 + exp(−(s − E[s]) / √(Var[s] + ε))) (equation 3)."""
    outputs = []
    for value in values:
        p = 1 / (1 + math.exp(-(value - mean) / math.sqrt(variance + 1e-8)))
        outputs.append(p * value + (1 - p) * slope * value)
    return outputs


def test_dice_matches_its_equation_with_the_statistics_of_the_rows_and_then_with_the_running_ones() -> None:
    dice = Dice(1).double()
    nn.init.constant_(dice.slope, 0.3)
    rows = [0.5, -1.0, 2.0, 4.0]
    column = torch.tensor(rows, dtype=torch.float64)[:, None]
    mean = sum(rows) / 4
    variance = sum((value - mean) ** 2 for value in rows) / 4
    assert_close(dice(column)[:, 0].tolist(), slow_dice(rows, mean, variance, 0.3))
    assert dice.norm.running_mean is not None
    assert dice.norm.running_var is not None
    running = dice.norm.running_mean.item(), dice.norm.running_var.item()
    assert running == pytest.approx((0.1 * mean, 0.9 + 0.1 * variance * 4 / 3))
    assert_close(dice.eval()(column)[:, 0].tolist(), slow_dice(rows, *running, 0.3))


def test_a_residual_layer_adds_its_input() -> None:
    mlp, inputs = network(residual=True, activation="tanh", final_layer_activation=True), torch.randn(6, 5)
    first, last = (layer for layer in mlp.modules() if isinstance(layer, nn.Linear))
    hidden = first(inputs).tanh()
    assert_close(mlp(inputs), hidden + last(hidden).tanh())


def test_dropout_has_a_rate_for_each_layer_with_a_relu() -> None:
    for settings, rates in (
        ({"dropout": {"rates": [0.1, 0.0]}}, [0.1, 0.0]),
        ({"dropout": {"rates": [0.1, 0.0, 0.3]}, "final_layer_activation": True}, [0.1, 0.0, 0.3]),
        ({"dropout": {"rate": 0.2}}, [0.2, 0.2]),
        ({"dropout": {}, "final_layer_activation": True}, [0.1, 0.1, 0.1]),
        ({}, []),
    ):
        layers = network(layer_sizes=[8, 6, 4], **settings).modules()
        assert [layer.p for layer in layers if isinstance(layer, nn.Dropout)] == rates


def test_a_tower_has_a_rate_for_each_hidden_layer() -> None:
    settings = {"kind": "mlp", "layer_sizes": [8, 6], "dropout": {"rates": [0.1, 0.3]}}
    tower = Tower(TaskConfig.model_validate({"tower": settings}), InputLayout.of_numbers(5))
    assert [layer.p for layer in tower.modules() if isinstance(layer, nn.Dropout)] == [0.1, 0.3]


def test_dropout_before_the_linear_drops_its_inputs() -> None:
    mlp = network(dropout={"rate": 0.5, "position": "before_linear"})
    mlp.layers[1] = nn.Identity()
    assert {*mlp.layers[:2](torch.ones(64, 5)).unique().tolist()} == {0.0, 2.0}


def test_a_model_of_an_earlier_recap_states_the_last_norm_by_its_earlier_name() -> None:
    earlier = {"layer_sizes": [8], "batch_norm": {}, "final_layer_batch_norm": True}
    assert MlpConfig.model_validate(earlier).final_layer_norm
    assert not MlpConfig.model_validate({"layer_sizes": [8], "final_layer_batch_norm": False}).final_layer_norm
    with pytest.raises(ValidationError, match="final_layer_batch_norm"):
        MlpConfig.model_validate(earlier | {"final_layer_norm": True})


# Ensembles


def ensemble(**values: Any) -> EnsembleMlp:
    """An ensemble of 3 in float64, with noise added to every initial parameter."""
    config = TypeAdapter[TowerConfig](TowerConfig).validate_python(SIZES | {"ensemble": {"members": 3}} | values)
    assert isinstance(config, MlpTowerConfig)
    assert config.ensemble is not None
    torch.manual_seed(0)
    network = EnsembleMlp(5, config, config.ensemble).double().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return network


def test_each_member_is_an_mlp_with_its_own_scales_biases_and_logit() -> None:
    network, inputs = ensemble(), torch.randn(6, 5, dtype=torch.float64)
    layers: Any = network.layers
    first, _, second, _, last = layers
    columns = []
    for member in range(3):
        rows = inputs
        for layer in (first, second):  # s ⊙ (W (r ⊙ x)) + b
            scaled = rows * layer.input_scales[member]
            products = torch.stack([torch.stack([row @ line for line in layer.linear.weight]) for row in scaled])
            rows = (products * layer.output_scales[member] + layer.bias[member]).relu()
        columns.append(rows @ last.weight[member, :, 0] + last.bias[member])
    assert_close(network(inputs), torch.stack(columns, dim=1))


def test_members_differ_at_the_start_by_the_signs_of_the_first_layer_alone() -> None:
    torch.manual_seed(0)
    network = EnsembleMlp(50, MlpTowerConfig.model_validate(SIZES), EnsembleConfig(members=4))
    layers: Any = network.layers
    first, _, second, _, last = layers
    signs = first.input_scales.tolist()
    assert {value for row in signs for value in row} == {-1.0, 1.0}
    assert len({tuple(row) for row in signs}) == 4
    for scales in (first.output_scales, second.input_scales, second.output_scales):
        assert (scales == 1).all()
    for bias in (first.bias, second.bias, last.bias):
        assert not bias.any()
    logits = network(torch.randn(6, 50))
    assert logits.shape == (6, 4)
    assert logits.std(dim=1).min() > 0.01


def test_an_ensemble_has_norms_residuals_and_dropout_as_an_mlp_has() -> None:
    network = ensemble(batch_norm={}, residual=True, dropout={"rate": 0.1}, activation="prelu")
    layers = ["EnsembleLinear", "BatchNorm1d", "PReLU", "Dropout"]
    assert names(network.layers) == [*layers, f"[{' '.join(layers)}]", "EnsembleOutput"]
    assert network.train()(torch.randn(6, 5, dtype=torch.float64)).shape == (6, 3)


def test_a_tower_predicts_the_mean_probability_of_its_members_and_learns_from_the_mean_of_their_losses() -> None:
    config = make_config("mlp_ensemble-share_none")
    ranker, batch = make_ranker(config).eval(), make_batch(config)
    for number, task in enumerate(config.tasks):
        tower = ranker.towers.named(task)
        assert isinstance(tower, Tower)
        members = tower.members(ranker.inputs(batch))
        assert members.shape == (len(batch), 3)
        assert_close(ranker(batch).probabilities[:, number], members.sigmoid().mean(dim=1))
    outputs = ranker.train().raw_outputs(batch)
    losses = Objective(config)(outputs, batch).losses
    for number, pos_weight in enumerate([1.0, 2.0]):
        own = [
            binary_cross_entropy_with_logits(
                outputs[2 + 3 * number + member],
                batch.labels[:, number],
                batch.weights[:, number],
                pos_weight=torch.tensor(pos_weight),
            )
            for member in range(3)
        ]
        assert_close(losses[number], torch.stack(own).mean())


@pytest.mark.parametrize("case", ["ensemble", "ensemble-share_partial", "ensemble_with_aitm"])
def test_each_member_of_a_backbone_is_a_network_of_its_own_up_to_the_logit(case: str) -> None:
    """Member m of the model = the model without ensemble whose weights are W scaled by the r and s of member m."""
    config = make_config(case)
    ranker, batch = make_ranker(config).eval(), make_batch(config, rows=6)
    with torch.no_grad():
        for parameter in ranker.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    inputs = ranker.inputs(batch)
    members = [tower.members(read[0]) for tower, read in ranker._read(inputs, batch.discrete)]  # type: ignore[operator]
    plain = config.model_dump()
    plain["model"]["backbone"]["ensemble"] = None
    alone = make_ranker(config_of(plain)).eval()
    for member in range(3):
        alone.load_state_dict(weights_of_member(ranker.state_dict(), member), strict=False)
        for column, (tower, read) in zip(members, alone._read(inputs, batch.discrete), strict=True):
            assert_close(column[:, member], tower(*read))
    assert_close(ranker(batch).probabilities, torch.stack([one.sigmoid().mean(dim=1) for one in members], dim=1))


def weights_of_member(weights: dict[str, torch.Tensor], member: int) -> dict[str, torch.Tensor]:
    """The weights of a ranker without ensemble: s ⊙ (W (r ⊙ x)) + b = (s rᵀ ⊙ W) x + b."""
    found = dict(weights)
    for name, weight in weights.items():
        layer, _, part = name.rpartition(".")
        if part == "input_scales":
            scales = weights[f"{layer}.output_scales"][member][:, None] * weight[member]
            found[f"{layer}.weight"] = scales * weights[f"{layer}.linear.weight"]
            found[f"{layer}.bias"] = weights[f"{layer}.bias"][member]
        elif part == "weight" and weight.dim() == 3:  # [M, inputs, 1], to the logit
            found[name], found[f"{layer}.bias"] = weight[member].T, weights[f"{layer}.bias"][member, None]
    return found


def test_a_model_learns_from_the_mean_of_the_losses_of_the_members_of_its_backbone() -> None:
    config = make_config("ensemble")
    ranker, batch = make_ranker(config).train(), make_batch(config)
    outputs = ranker.raw_outputs(batch)
    assert len(outputs) == 2 + 2 * 3
    own = [binary_cross_entropy_with_logits(column, batch.labels[:, 0], batch.weights[:, 0]) for column in outputs[2:5]]
    assert_close(Objective(config)(outputs, batch).losses[0], torch.stack(own).mean())


def test_members_differ_at_the_start_by_the_signs_of_the_backbone_alone() -> None:
    ranker = make_ranker(make_config("ensemble"))
    signs = {name for name, value in ranker.named_parameters() if name.endswith("_scales") and (value == -1).any()}
    assert signs == {"sharing.backbone.layers.0.input_scales"}


def test_a_tower_of_a_regression_predicts_the_mean_of_its_members() -> None:
    tower = {"kind": "mlp", "layer_sizes": [4], "ensemble": {"members": 3}}
    task = TaskConfig.model_validate({"tower": tower, "objective": {"kind": "regression"}})
    network, inputs = Tower(task, InputLayout(5)).eval(), torch.randn(6, 5)
    assert_close(network(inputs), network.members(inputs).mean(dim=1))


def test_every_member_starts_at_the_rate_of_the_task() -> None:
    plain = TaskConfig.model_validate({"tower": {"kind": "mlp", "layer_sizes": [4], "ensemble": {"members": 3}}})
    network = Tower(plain, InputLayout(5))
    with torch.no_grad():
        network.last_bias.fill_(1.5)
    members = network.members(torch.zeros(2, 5))
    assert_close(members, torch.full((2, 3), 1.5))
