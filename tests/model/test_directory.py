"""Model directories: what is written opens again, and one from elsewhere is data that is verified."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file
from support import feed_config

from recap.config.recap import RecapConfig
from recap.data.encoding.assets import load_assets
from recap.errors import CheckpointError, ConfigError, DataError
from recap.evaluation.run import evaluate_run
from recap.model import directory
from recap.model.directory import WEIGHTS, SavedModel, new_ranker, open_model, read_weights, write_model
from recap.storage import FORMAT, MANIFEST, atomic_directory, verify


def written(config: RecapConfig, folder: Path) -> SavedModel:
    """A model that nothing trained, as a model directory."""
    assets = load_assets(config.features)
    ranker = new_ranker(config, assets)
    with atomic_directory(folder) as temporary:
        write_model(temporary, config, assets, {name: value.clone() for name, value in ranker.state_dict().items()})
    return SavedModel(config, assets, ranker)


@pytest.fixture
def model(feed: Path, tmp_path: Path) -> Path:
    written(feed_config(feed, tmp_path / "run"), tmp_path / "model")
    return tmp_path / "model"


def manifest(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
    return content


def rehash(folder: Path, **changes: Any) -> None:
    """A manifest of the files as they are, with `changes`; None leaves a key out."""
    files = [file for file in folder.rglob("*") if file.is_file() and file.name != MANIFEST]
    listed = {file.relative_to(folder).as_posix(): sha256(file.read_bytes()).hexdigest() for file in files}
    content = {key: value for key, value in {**manifest(folder), "sha256": listed, **changes}.items() if value}
    (folder / MANIFEST).write_text(json.dumps(content))


def without(folder: Path, part: str) -> None:
    listed = manifest(folder)["sha256"]
    rehash(folder, sha256={name: digest for name, digest in listed.items() if part not in name})


def listing(name: str) -> Callable[[Path], None]:
    return lambda folder: rehash(folder, sha256=manifest(folder)["sha256"] | {name: sha256(b"x").hexdigest()})


def link_outside(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder.parent / "elsewhere")
    (folder / WEIGHTS).symlink_to(folder.parent / "elsewhere")


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    weights = load_file(folder / WEIGHTS)
    change(weights)
    save_file(weights, folder / WEIGHTS)
    rehash(folder)


def truncated(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-4])
    rehash(folder)


def hostile_header(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((2**62).to_bytes(8, "little") + b"{}")
    rehash(folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: rehash(folder, sha256={"state.json": ""}), "does not list config.yaml"),
        (lambda folder: without(folder, "config"), "does not list config.yaml"),
        (lambda folder: without(folder, "weights"), "does not list weights.safetensors"),
        (lambda folder: without(folder, "assets"), "does not list the vocabulary or mask of 'language'"),
        (listing("/etc/hostname"), "lists '/etc/hostname', which is not in this directory"),
        (listing("../elsewhere"), "which is not in this directory"),
        (listing("assets/../../elsewhere"), "which is not in this directory"),
        (listing(""), "which is not in this directory"),
        (listing("\ud800"), "which is not in this directory"),
        (listing("x" * 300), "missing"),
        (listing("a\0b"), "which is not in this directory"),
        (link_outside, "which is not in this directory"),
        (lambda folder: rehash(folder, format=FORMAT + 1), "of a later recap; .* Update recap"),
        (lambda folder: rehash(folder, format="2"), "damaged"),
        (lambda folder: rehash(folder, sha256=[]), "damaged"),
        (lambda folder: (folder / MANIFEST).write_text("[" * 100_000), "damaged"),
        (lambda folder: (folder / MANIFEST).write_bytes(b"\xff"), "damaged"),
        (truncated, "weights.safetensors: cannot be read"),
        (hostile_header, "weights.safetensors: cannot be read"),
        (
            lambda folder: edit_weights(
                folder, lambda weights: weights["sharing.backbone.mlp.layers.0.bias"].fill_(np.nan)
            ),
            "sharing.backbone.mlp.layers.0.bias has values that are NaN or infinite",
        ),
        (
            lambda folder: edit_weights(
                folder,
                lambda weights: weights.update(
                    {"sharing.backbone.mlp.layers.0.bias": torch.zeros(16, dtype=torch.int64)}
                ),
            ),
            "0.bias holds int64, this model needs float32",
        ),
    ],
)
def test_a_model_directory_that_cannot_be_trusted_is_refused(
    model: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(model)
    with pytest.raises(CheckpointError, match=message):
        open_model(model)


def test_more_keys_in_a_manifest_are_ignored(model: Path) -> None:
    rehash(model, made_by="someone")
    assert open_model(model).config.tasks == ["like", "share"]


def test_a_table_larger_than_its_weights_is_refused_before_it_is_built(model: Path) -> None:
    config = (model / "config.yaml").read_text()
    assert "size: 24" in config
    (model / "config.yaml").write_text(config.replace("size: 24", "size: 2147483000"))
    rehash(model)
    with pytest.raises(CheckpointError, match=r"hour.weight is 25×4, this model needs 2147483001×4"):
        open_model(model)


def test_weights_of_a_type_that_recap_never_writes_are_refused(model: Path) -> None:
    weights = load_file(model / "weights.safetensors")
    name = next(iter(weights))
    save_file({**weights, name: weights[name].to(torch.float8_e4m3fn)}, model / "weights.safetensors")
    rehash(model)
    with pytest.raises(CheckpointError):
        open_model(model)
    with pytest.raises(CheckpointError, match="holds float8_e4m3fn; use another checkpoint"):
        read_weights(model)


def test_a_network_with_more_layers_than_weights_is_refused_before_it_is_built(model: Path) -> None:
    config = (model / "config.yaml").read_text()
    backbone = config[config.index("  backbone:") : config.index("  sharing:")]
    dcn = "  backbone: {kind: dcn, poly_degree: 2147483647}\n"
    (model / "config.yaml").write_text(config.replace(backbone, dcn))
    rehash(model)
    with pytest.raises(CheckpointError, match=r"belong to another model; .* \(this model has more than \d+ weights\)"):
        open_model(model)


def test_a_model_directory_reads_no_environment_and_no_other_file(
    model: Path, feed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN", "hunter2")
    file = model / "config.yaml"
    resolved = file.read_text()
    for name in ("${TOKEN}", "${secret:TOKEN}", "${NOT_SET}", "$${TOKEN}"):
        file.write_text(resolved.replace("ids: [post_id]", f'ids: ["{name}"]'))
        rehash(model)
        assert open_model(model).config.features.ids[0].name == name.replace("$$", "$")
    file.write_text(resolved.replace(f"{feed}/validation/*.parquet", '"${secret:TOKEN}"'))
    rehash(model)
    opened = open_model(model).config
    with pytest.raises(ConfigError, match=r"validation_data.validation.source.inputs.0: is a secret of the run"):
        evaluate_run(opened, model)
    (model.parent / "base.yaml").write_text(resolved)
    file.write_text("base: ../base.yaml\n")
    rehash(model)
    with pytest.raises(ConfigError, match="base: 'base' is unknown"):
        open_model(model)


def test_any_name_of_a_feature_can_be_saved(feed: Path, tmp_path: Path) -> None:
    names = ["последнее_просмотренное_видео" * 9, "A", "a", "x/y", "..", "con", "a.b", "a%2Eb", "\U0001f600" * 80]
    for number, name in enumerate(names):
        pq.write_table(pa.table({"value": [name, f"only {number}"]}), tmp_path / f"{number}.parquet")
    discrete = {name: {"vocabulary": str(tmp_path / f"{number}.parquet")} for number, name in enumerate(names)}
    model = written(feed_config(feed, tmp_path / "run", features={"discrete": discrete}), tmp_path / "model")
    assert open_model(tmp_path / "model").assets == model.assets
    files = [file.name for file in (tmp_path / "model" / "assets").iterdir()]
    assert len({name.lower() for name in files}) == len(names)
    assert all(name.isascii() and len(name) < 80 for name in files)


def test_a_damaged_mask_is_refused(feed: Path, tmp_path: Path) -> None:
    column = {"name": "numbers", "length": 3, "mask": str(feed / "mask.npy")}
    written(feed_config(feed, tmp_path / "run", features={"continuous": [column]}), tmp_path / "model")
    open_model(tmp_path / "model")
    file = next((tmp_path / "model" / "assets").glob("numbers*"))
    for values in ([True, False], [False] * 3, [1, 0, 1], [None, True, True]):
        pq.write_table(pa.table({"value": values}), file)
        rehash(tmp_path / "model")
        with pytest.raises(DataError, match="mask of 'numbers': damaged; expected 3 booleans"):
            open_model(tmp_path / "model")


def test_a_model_of_format_1_opens_unless_it_hashes_ids(feed: Path, tmp_path: Path) -> None:
    """The digits of ids were hashed in another way then, and its assets were called after their features."""
    model = tmp_path / "model"
    before = written(feed_config(feed, tmp_path / "run"), model)
    asset = next((model / "assets").iterdir())
    asset.rename(asset.with_name("language.parquet"))
    rehash(model, format=None)
    assert open_model(model).assets == before.assets
    hashed = {"discrete": {"post_id": {"hash": {"buckets": 9}}}}
    written(feed_config(feed, tmp_path / "run", features=hashed), tmp_path / "hashed")
    open_model(tmp_path / "hashed")
    rehash(tmp_path / "hashed", format=None)
    message = "was trained by an earlier recap, which hashed ids that are digits differently; train it again"
    with pytest.raises(CheckpointError, match=message):
        open_model(tmp_path / "hashed")


def test_links_within_a_directory_are_followed(model: Path) -> None:
    (model / WEIGHTS).rename(model / "stored")
    os.symlink("stored", model / WEIGHTS)
    assert WEIGHTS in verify(model).files


@pytest.mark.parametrize(
    ("space", "width", "message"),
    [
        (
            {"size": 2_000_000_000},
            4096,
            r"take 30,517.7 GiB, .* is inputs.embeddings.tables.hour.weight: 2000000001×4096 ",
        ),
        ({"hash": {"buckets": 2_147_483_000}}, 2_147_483_000, "larger than any memory"),
    ],
)
def test_a_table_without_memory_is_refused_with_its_size(
    feed: Path, tmp_path: Path, space: dict[str, Any], width: int, message: str
) -> None:
    features, embeddings = {"discrete": {"hour": space}}, {"embeddings": {"default": width}}
    config = feed_config(feed, tmp_path / "run", features=features, model=embeddings)
    with pytest.raises(ConfigError, match=message):
        new_ranker(config, {})


def test_a_model_deleted_while_it_is_opened_is_named_as_such(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(folder: Path) -> dict[str, Any]:
        shutil.rmtree(folder)
        return read_weights(folder)

    monkeypatch.setattr(directory, "read_weights", read)
    with pytest.raises(CheckpointError, match=r"model: was deleted while it was read, .*; run the command again"):
        open_model(model)


@pytest.mark.slow
def test_opening_a_model_imports_no_compiler(model: Path) -> None:
    """torch imports it to draw initial values on the meta device, which takes seconds."""
    code = f"""
import sys
from pathlib import Path
from recap.model.directory import open_model
open_model(Path({str(model)!r}))
print(sorted({{"torch._dynamo", "sympy", "scipy"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr
