"""What is said of a model without its data is so."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from model.kinds import CASES, make_batch, make_config, make_ranker
from support import feed_values, write_feed
from typer.testing import CliRunner

from recap.cli.main import app
from recap.config.file.load import config_of
from recap.config.file.yaml import render
from recap.errors import ConfigError
from recap.model.summary import ModuleSummary, summarise, synthetic_batch
from recap.training.optimizer.scheduled import ScheduledOptimizer

LANGUAGES = {"language": pa.array(["en", "ja"])}


def leaves(module: ModuleSummary) -> Iterator[ModuleSummary]:
    if not module.children:
        yield module
    for child in module.children:
        yield from leaves(child)


@pytest.mark.parametrize("case", CASES)
def test_totals_are_those_of_the_model(case: str) -> None:
    config = make_config(case)
    ranker, found = make_ranker(config), summarise(config, LANGUAGES)
    parameters = sum(parameter.numel() for parameter in ranker.parameters())
    assert found.parameters == found.model.parameters == parameters
    assert found.gradient_bytes == 4 * parameters
    assert found.moment_bytes == 8 * parameters
    assert found.weight_bytes == sum(tensor.nbytes for tensor in ranker.state_dict().values())
    assert found.flops == sum(child.flops for child in found.model.children) > 0
    assert found.model.output == [[2], [2]]
    assert found.activation_bytes > 4 * ranker.inputs.layout.width


def test_flops_and_activations_of_a_linear_model_are_as_counted_by_hand() -> None:
    values = feed_values(Path("feed"), Path("run"))
    values["features"] = {"vectors": {"vector": 4}}
    values["model"] = {"tasks": {"like": {"tower": {"kind": "mlp", "layer_sizes": [16]}}}}
    values["train_data"]["tasks"], values["scoring"] = {"like": {}}, {}
    found = summarise(config_of(values), {})
    assert found.flops == 2 * (4 * 16 + 16 * 1)
    assert [each.flops for each in leaves(found.model) if each.kind in ("Linear", "ExactLinear")] == [
        2 * 4 * 16,
        2 * 16,
    ]
    assert found.parameters == 8 + (4 * 16 + 16) + (16 + 1)


TABLES = 4 * (25 * 4 + 3 * 4)
"""Bytes of the tables of hour and language."""


@pytest.mark.parametrize(
    ("algorithm", "others", "tables"),
    [
        ({"kind": "adam"}, 2, 2 * TABLES),
        ({"kind": "adamw"}, 2, 2 * TABLES),
        ({"kind": "sgd"}, 0, 0),
        ({"kind": "sgd", "momentum": 0.9}, 1, TABLES),
        ({"kind": "adagrad"}, 1, TABLES),
        ({"kind": "rowwise_adagrad"}, 2, TABLES // 4),
    ],
)
def test_moments_are_those_that_the_algorithm_keeps(algorithm: dict[str, Any], others: int, tables: int) -> None:
    values = make_config("mlp-share_all").model_dump()
    plain = algorithm if algorithm["kind"] != "rowwise_adagrad" else {"kind": "adam"}
    rate = {"kind": "constant", "learning_rate": 0.1}
    values["optimizer"] |= {"algorithm": plain, "tables": {"algorithm": algorithm, "learning_rate": rate}}
    found = summarise(config_of(values), LANGUAGES)
    assert found.gradient_bytes == 4 * found.parameters
    assert found.moment_bytes == others * (4 * found.parameters - TABLES) + tables
    ranker = make_ranker(config_of(values))
    optimizer = ScheduledOptimizer(config_of(values), ranker)
    for parameter in ranker.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step(dict.fromkeys(optimizer.schedules, 0.1))
    kept = {name: value for name, value in optimizer.state_dict().items() if not name.endswith("/step")}
    assert found.moment_bytes == sum(value.nbytes for value in kept.values())


def test_sparse_gradients_of_tables_do_not_count() -> None:
    values = make_config("mlp-share_all").model_dump()
    rate = {"kind": "constant", "learning_rate": 0.1}
    values["optimizer"]["tables"] = {"algorithm": {"kind": "sgd"}, "learning_rate": rate, "sparse": True}
    found = summarise(config_of(values), LANGUAGES)
    assert found.gradient_bytes == 4 * found.parameters - TABLES


@pytest.mark.parametrize("case", CASES)
def test_a_synthetic_batch_is_like_one_that_was_read(case: str) -> None:
    config = make_config(case)
    made, read = synthetic_batch(config, LANGUAGES, 5), make_batch(config, 5)
    for name in ("continuous", "binary", "discrete"):
        assert getattr(made, name).shape == getattr(read, name).shape
        assert getattr(made, name).dtype == getattr(read, name).dtype
    assert {name: vector.shape for name, vector in made.vectors.items()} == {"vector": torch.Size([5, 4])}


def test_the_command_reads_no_data_and_says_which_file_it_lacks(tmp_path: Path) -> None:
    folder = write_feed(tmp_path / "feed")
    for file in folder.glob("*/*.parquet"):
        file.unlink()
    config = tmp_path / "ranker.yaml"
    config.write_text(render(feed_values(folder, tmp_path / "run")))
    shown = CliRunner().invoke(app, ["model", "summary", str(config)])
    assert shown.exit_code == 0, shown.output
    assert "model  Ranker  → 2 of 2" in shown.output
    said = json.loads(CliRunner().invoke(app, ["model", "summary", str(config), "--json"]).output)
    assert f"parameters: {said['parameters']:,}\n" in shown.output
    learned = [child["name"] for child in said["model"]["children"] if child["parameters"]]
    assert learned == ["inputs", "sharing", "towers"]
    (folder / "languages.parquet").unlink()
    lacking = CliRunner().invoke(app, ["model", "summary", str(config)])
    assert "languages.parquet: vocabulary of 'language': no such file" in str(lacking.exception)


def test_frozen_weights_take_no_gradients_and_what_learns_an_average() -> None:
    values = make_config("mlp-share_all").model_dump()
    values["training"]["ema"] = {"decay": 0.99}
    whole = summarise(config_of(values), LANGUAGES)
    values["optimizer"]["frozen"] = ["inputs.embeddings"]
    found = summarise(config_of(values), LANGUAGES)
    assert whole.average_bytes == whole.gradient_bytes == 4 * whole.parameters
    assert found.average_bytes == found.gradient_bytes == whole.gradient_bytes - TABLES
    assert found.moment_bytes == 2 * found.gradient_bytes
    assert (found.parameters, found.weight_bytes) == (whole.parameters, whole.weight_bytes)


def test_a_frozen_module_that_is_none_is_refused() -> None:
    values = make_config("mlp-share_all").model_dump()
    values["optimizer"]["frozen"] = ["inputs.embedings"]
    with pytest.raises(ConfigError, match=r"optimizer.frozen.0: 'inputs.embedings' is no module with weights"):
        summarise(config_of(values), LANGUAGES)
