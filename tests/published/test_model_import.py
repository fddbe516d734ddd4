"""`recap model import`: weights of the published code → a model directory."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from model.golden import TOLERANCE, read, section
from model.test_golden import ranker_config
from safetensors.torch import save_file
from support import feed_config
from torch import Tensor
from torch.testing import assert_close

from recap.cli.main import main
from recap.config.recap import RecapConfig
from recap.data.batch import Batch
from recap.errors import InputError
from recap.model.directory import build_ranker, open_model
from recap.model.published_weights import import_weights
from recap.published.names import our_name


@pytest.fixture(params=["share_all", "share_none", "share_partial"])
def published(
    request: pytest.FixtureRequest, tmp_path: Path
) -> tuple[RecapConfig, dict[str, Tensor], dict[str, Tensor]]:
    """The imported configuration, the state dict, and inputs with outputs."""
    tensors, meta = read(f"ranker_{request.param}")
    return ranker_config(meta, tmp_path), section(tensors, "weight/"), tensors


def test_the_imported_model_scores_as_the_published_one(published: Any, tmp_path: Path) -> None:
    config, weights, tensors = published
    wrapped = {f"module.model.{name}": value for name, value in weights.items()}
    save_file(wrapped, tmp_path / "weights.safetensors")
    torch.save({"model": weights, "step": 3}, tmp_path / "weights.pt")
    batch = Batch(
        continuous=tensors["input/continuous"],
        binary=tensors["input/binary"],
        discrete=torch.zeros(33, 0, dtype=torch.int64),
        vectors={name: tensors[f"input/{name}"] for name in ("user_embedding", "author_embedding")},
    )
    for name in ("weights.safetensors", "weights.pt"):
        imported = import_weights(config, tmp_path / name, tmp_path / "model", {})
        model = open_model(tmp_path / "model")
        assert imported.weights == len(model.ranker.state_dict())
        assert all("_calibrators" in name or "max_value" in name or "min_value" in name for name in imported.configured)
        assert_close(model.ranker.eval()(batch).logits, tensors["output/logits"], **TOLERANCE)


def test_every_weight_that_does_not_fit_is_listed_and_nothing_is_written(tmp_path: Path) -> None:
    tensors, meta = read("ranker_share_all")
    config, weights = ranker_config(meta, tmp_path), section(tensors, "weight/")
    weights["_backbone._surprise.weight"] = torch.zeros(2)
    weights["_towers.is_replied.layers.6.bias"] = torch.tensor([torch.nan])
    weights["_towers.is_reported.layers.0.weight"] = torch.zeros(7, 9)
    del weights["_user_embedding_layer_norm.bias"]
    weights["_calibrators.is_replied.ratio"] = torch.tensor(1.0)
    weights["_preprocessor._before_concat_layers.3.max_value"] = torch.tensor(4.0)
    save_file(weights, tmp_path / "weights.safetensors")
    with pytest.raises(InputError) as caught:
        import_weights(config, tmp_path / "weights.safetensors", tmp_path / "model", {})
    text = str(caught.value)
    assert "_backbone._surprise.weight has no place in this model (as sharing.backbone._surprise.weight)" in text
    assert "_towers.is_replied.layers.6.bias has values that are NaN or infinite" in text
    assert "towers.is_reported.network.layers.0.weight is 7×9, this model needs 7×24" in text
    assert "inputs.vector_norms.user_embedding.bias of this model has no published weight" in text
    assert "_calibrators.is_replied.ratio is 1, and 0.005 in the configuration" in text
    assert "_before_concat_layers.3.max_value is 4, and 5 in the configuration" in text
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("_dmp_wrapped_module.model.embeddings.ebc.embedding_bags.user.weight", "inputs.embeddings.tables.user.weight"),
        (
            "_towers.recap__engagement__is_favorited.layers.0.bias",
            "towers.recap%2Eengagement%2Eis_favorited.network.layers.0.bias",
        ),
        ("_backbone.cross.0.weight", "sharing.backbone.crossed.0.weight"),
        ("_backbone.cross.1.weight", "elsewhere.weight"),
    ],
)
def test_names_of_weights(name: str, ours: str) -> None:
    given = {"_backbone.cross": "sharing.backbone.crossed", "_backbone.cross.1": "elsewhere"}
    assert our_name(name, ["recap.engagement.is_favorited"], given) == ours


def test_a_table_gets_a_row_for_unknown_values_and_given_names_apply(feed: Path, tmp_path: Path) -> None:
    features = {"discrete": {"hour": {"size": 24}}}
    config = feed_config(feed, tmp_path / "run", features=features)
    own = {name: value.clone() for name, value in build_ranker(config, {}).state_dict().items()}
    rows = own.pop("inputs.embeddings.tables.hour.weight")[1:].clone()
    names = {
        "tables.first": "inputs.embeddings.tables.hour",
        **{part: part for part in ("inputs", "sharing", "towers")},
    }
    save_file({**own, "tables.first.weight": rows}, tmp_path / "weights.safetensors")
    import_weights(config, tmp_path / "weights.safetensors", tmp_path / "model", names)
    table = open_model(tmp_path / "model").ranker.state_dict()["inputs.embeddings.tables.hour.weight"]
    assert torch.equal(table, torch.cat([torch.zeros(1, 4), rows]))


class Surprise:
    """What a pickle may hold."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return print, ("executed",)


def test_the_command_reports_what_it_did_and_refuses_what_it_cannot_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors, meta = read("ranker_share_none")
    ranker_config(meta, tmp_path)
    monkeypatch.chdir(tmp_path)
    save_file(section(tensors, "weight/"), "weights.safetensors")
    torch.save({"weight": Surprise()}, "surprise.pt")
    Path("text.pt").write_text("no weights")
    torch.save({"weight": 1}, "number.pt")

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["recap", "model", "import", "ranker.yaml", *arguments])
        with pytest.raises(SystemExit) as caught:
            main()
        printed = capsys.readouterr()
        return int(caught.value.code or 0), printed.out + printed.err

    code, text = run("weights.safetensors", "--output", "model")
    assert code == 0, text
    assert "weights of the model come from weights.safetensors" in text
    assert "set by the configuration, not by the weights: _calibrators.is_favorited.ratio" in text
    for arguments, message in {
        ("weights.safetensors", "--output", "model"): "model already exists; add --overwrite to replace it",
        ("weights.safetensors", "--output", ".", "--overwrite"): "not a model directory",
        ("weights.safetensors",): "--output: missing",
        ("surprise.pt", "--output", "new"): "surprise.pt: not readable as a state dict",
        ("text.pt", "--output", "new"): "text.pt: not readable as a state dict",
        ("number.pt", "--output", "new"): "number.pt: expected a state dict",
        ("nothing.pt", "--output", "new"): "nothing.pt: no such file",
        ("weights.safetensors", "--output", "new", "--map", "x"): "--map: expected PUBLISHED=OURS",
    }.items():
        code, text = run(*arguments)
        assert code == 2
        assert message in text
        assert "executed" not in text
    assert run("weights.safetensors", "--output", "model", "--overwrite")[0] == 0
