"""Where weights start: today's draws by default, and each choice by its definition."""

import math
from typing import Any

import pytest
import torch
from model.rankers import make_config, make_ranker
from pydantic import TypeAdapter
from torch import Tensor, nn

from recap.config.file.load import config_of
from recap.config.network import LayerInitializationConfig, XavierUniformConfig
from recap.model.inputs.tables import BLOCK_ROWS, LocalTables, TableSpec
from recap.model.layers import initialize, initializing_with, linear

INPUTS, OUTPUTS = 300, 200


def layers_of(**values: Any) -> LayerInitializationConfig:
    return TypeAdapter[LayerInitializationConfig](LayerInitializationConfig).validate_python(values)


@pytest.mark.parametrize(
    ("kind", "deviation", "limit"),
    [
        ({"kind": "xavier_uniform"}, math.sqrt(2 / (INPUTS + OUTPUTS)), math.sqrt(6 / (INPUTS + OUTPUTS))),
        ({"kind": "xavier_normal"}, math.sqrt(2 / (INPUTS + OUTPUTS)), None),
        ({"kind": "kaiming_uniform"}, math.sqrt(2 / INPUTS), math.sqrt(6 / INPUTS)),
        ({"kind": "kaiming_normal"}, math.sqrt(2 / INPUTS), None),
        ({"kind": "normal", "std": 0.3}, 0.3, None),
    ],
)
@pytest.mark.parametrize("transposed", [False, True])
def test_weights_have_the_deviation_and_the_limits_of_their_choice(
    kind: dict[str, Any], deviation: float, limit: float | None, transposed: bool
) -> None:
    torch.manual_seed(0)
    weight = torch.empty((INPUTS, OUTPUTS) if transposed else (OUTPUTS, INPUTS))
    with initializing_with(layers_of(**kind)):
        initialize(weight, transposed=transposed)
    assert weight.std().item() == pytest.approx(deviation, rel=0.02)
    largest = weight.abs().max().item()
    assert largest == pytest.approx(limit, rel=0.01) if limit is not None else largest > 3.5 * deviation


def test_layers_start_xavier_uniform_unless_said_otherwise_and_only_within() -> None:
    def drawn() -> Tensor:
        torch.manual_seed(0)
        return linear(6, 4).weight

    torch.manual_seed(0)
    expected = nn.init.xavier_uniform_(nn.Linear(6, 4).weight)
    assert torch.equal(drawn(), expected)
    with initializing_with(layers_of(kind="normal", std=0.1)):
        assert not torch.equal(drawn(), expected)
        with initializing_with(XavierUniformConfig(kind="xavier_uniform")):
            assert torch.equal(drawn(), expected)
    assert torch.equal(drawn(), expected)


@pytest.mark.parametrize("case", ["every_tower", "every_history", "ple_with_esmm", "rank_mixer-share_all"])
def test_every_product_of_a_ranker_starts_as_configured_and_every_bias_at_zero(case: str) -> None:
    config = make_config(case)
    settings = {"layers": {"kind": "normal", "std": 1e-6}, "embeddings": {"std": 1e-6}}
    values = config.model_dump(mode="json")
    values["model"]["initialization"] = settings
    default, ranker = make_ranker(config), make_ranker(config_of(values))
    moved = [
        name
        for (name, before), after in zip(default.named_parameters(), ranker.parameters(), strict=True)
        if not torch.equal(before, after)
    ]
    small = [name for name, parameter in ranker.named_parameters() if 0 < parameter.abs().max() < 1e-4]
    products = [
        f"{name}.weight" for name, module in ranker.named_modules() if isinstance(module, nn.Linear | nn.Embedding)
    ]
    own = {name for name in products if name.endswith("positions.weight")}  # of a transformer
    assert {*products} - own <= {*small}
    assert {*small} <= {*moved}


def test_rows_of_a_table_have_the_deviation_of_its_specification() -> None:
    specs = [TableSpec("small", 2000, 8, ("small",), std=0.5), TableSpec("large", BLOCK_ROWS + 1, 1, ("large",), std=2)]
    torch.manual_seed(0)
    tables = LocalTables(specs)
    for spec in specs:
        weight = tables.weight(spec.name)
        assert weight.std().item() == pytest.approx(spec.std, rel=0.03)
        assert not weight[0].any()
