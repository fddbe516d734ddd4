"""`recap model summary`: the modules of a model and their costs, without data."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from model.kinds import CASES
from model.rankers import make_batch, make_config, make_ranker
from support import feed_values, write_feed
from typer.testing import CliRunner

from recap.cli.main import app
from recap.config.file.load import config_of
from recap.config.file.yaml import render
from recap.errors import ConfigError
from recap.model.frozen import freeze
from recap.model.ranker import Ranker
from recap.model.summary import ModuleSummary, summarise, synthetic_batch

LANGUAGES = {"language": pa.array(["en", "ja"])}


def leaves(module: ModuleSummary) -> Iterator[ModuleSummary]:
    if not module.children:
        yield module
    for child in module.children:
        yield from leaves(child)


@pytest.mark.parametrize("case", CASES)
def test_totals_match_the_model(case: str) -> None:
    config = make_config(case)
    ranker = make_ranker(config)
    width = ranker.inputs.layout.width
    summary = summarise(ranker, config, LANGUAGES)
    assert summary.parameters == summary.model.parameters == sum(p.numel() for p in ranker.parameters())
    assert summary.weight_bytes == sum(tensor.nbytes for tensor in ranker.state_dict().values())
    assert summary.flops == sum(child.flops for child in summary.model.children) > 0
    assert summary.model.output == [[2], [2]]
    assert summary.activation_bytes > 4 * width


def test_flops_of_a_linear_model_match_a_count_by_hand() -> None:
    values = feed_values(Path("feed"), Path("run"))
    values["features"] = {"vectors": {"vector": 4}}
    values["model"] = {"tasks": {"like": {"tower": {"kind": "mlp", "layer_sizes": [16]}}}}
    values["train_data"]["tasks"], values["scoring"] = {"like": {}}, {}
    config = config_of(values)
    summary = summarise(Ranker(config, {}), config, {})
    assert summary.flops == 2 * (4 * 16 + 16 * 1)
    flops = [leaf.flops for leaf in leaves(summary.model) if leaf.kind in ("Linear", "ExactLinear")]
    assert flops == [2 * 4 * 16, 2 * 16]
    assert summary.parameters == 8 + (4 * 16 + 16) + (16 + 1)


def test_tables_are_listed_with_the_shape_of_each_feature() -> None:
    config = make_config("history_din")
    summary = summarise(make_ranker(config), config, LANGUAGES)
    inputs = next(child for child in summary.model.children if child.name == "inputs")
    embeddings = next(child for child in inputs.children if child.name == "embeddings")
    # hour, post, and of 5 events the ids, actions and hours
    assert embeddings.output == [[1, 4], [1, 4], [5, 4], [5, 4], [5, 4]]


@pytest.mark.parametrize("case", CASES)
def test_a_synthetic_batch_has_the_shapes_and_types_of_a_real_one(case: str) -> None:
    config = make_config(case)
    made, read = synthetic_batch(config, LANGUAGES, 5).tensors(), make_batch(config, 5).tensors()
    for name, tensor in made.items():
        assert (tensor.shape, tensor.dtype) == (read[name].shape, read[name].dtype)
    assert read.keys() - made.keys() <= {"labels", "weights", "user"}


def run(config: Path, *options: str) -> Any:
    return CliRunner().invoke(app, ["model", "summary", str(config), *options])


def test_the_command_reads_vocabularies_but_no_data(tmp_path: Path) -> None:
    folder = write_feed(tmp_path / "feed")
    for file in folder.glob("*/*.parquet"):
        file.unlink()
    config = tmp_path / "ranker.yaml"
    config.write_text(render(feed_values(folder, tmp_path / "run")))
    shown = run(config)
    assert shown.exit_code == 0, shown.output
    assert "model  Ranker  → 2 of 2" in shown.output
    summary = json.loads(run(config, "--json").output)
    assert f"parameters: {summary['parameters']:,}\n" in shown.output
    assert summary["gradient_bytes"] == 4 * summary["parameters"]
    assert summary["moment_bytes"] == 8 * summary["parameters"]
    learned = [child["name"] for child in summary["model"]["children"] if child["parameters"]]
    assert learned == ["inputs", "sharing", "towers"]
    (folder / "languages.parquet").unlink()
    assert "languages.parquet: vocabulary of 'language': no such file" in str(run(config).exception)


def test_an_unknown_frozen_module_is_refused() -> None:
    ranker = make_ranker(make_config("mlp-share_all"))
    message = r"optimizer.frozen.0: no module with weights is named 'inputs.embedings'. .* mean 'inputs.embeddings'\?"
    with pytest.raises(ConfigError, match=message):
        freeze(ranker, ["inputs.embedings"])


def test_the_summary_leaves_the_ranker_in_evaluation_mode() -> None:
    config = make_config("mlp-share_all")
    ranker = make_ranker(config)
    summarise(ranker, config, LANGUAGES)
    assert not ranker.training
    assert torch.is_grad_enabled()
