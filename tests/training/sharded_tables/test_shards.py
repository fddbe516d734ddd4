"""Tensors in blocks: any box is read exactly, and consolidation gives the whole tensors of an undivided checkpoint."""

import json
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from shutil import copytree

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from support import Recorder, feed_config, write_feed
from typer.testing import CliRunner

from recap.cli.main import app
from recap.errors import CheckpointError, InputError
from recap.evaluation.run import evaluate_run
from recap.model.directory import WEIGHTS, open_model
from recap.reporting import Reporter
from recap.runs import Run
from recap.storage import MANIFEST, atomic_directory
from recap.training.sharded_tables import shards
from recap.training.sharded_tables.shards import Block, BlockFiles, StoredTensor, index_text, write_whole
from recap.training.trainer import train

TABLE = "inputs.embeddings.tables.hour.weight"


def stored(folder: Path, tensor: torch.Tensor, rows: list[int], columns: list[int], files: int = 2) -> StoredTensor:
    """`tensor` in the blocks between the cuts, written to several files."""
    blocks: list[Block] = []
    parts: list[dict[str, torch.Tensor]] = [{} for _ in range(files)]
    row_cuts, column_cuts = (sorted({0, *cuts, size}) for cuts, size in zip((rows, columns), tensor.shape, strict=True))
    for top, bottom in pairwise(row_cuts):
        for left, right in pairwise(column_cuts):
            number, key = len(blocks) % files, f"{top},{left}"
            parts[number][key] = tensor[top:bottom, left:right].contiguous()
            shape = [bottom - top, right - left]
            blocks.append(Block(file=f"{number}.safetensors", key=key, offsets=[top, left], shape=shape))
    for number, content in enumerate(parts):
        save_file(content, folder / f"{number}.safetensors")
    return StoredTensor(dtype="F32", shape=list(tensor.shape), blocks=blocks)


@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 5)),
    cuts=st.tuples(st.lists(st.integers(1, 8)), st.lists(st.integers(1, 4))),
    corners=st.tuples(*[st.integers(0, 9)] * 2, *[st.integers(0, 5)] * 2),
)
@settings(max_examples=50)
def test_any_box_of_a_tensor_in_blocks_equals_that_of_the_tensor(
    tmp_path_factory: pytest.TempPathFactory,
    shape: tuple[int, int],
    cuts: tuple[list[int], list[int]],
    corners: tuple[int, int, int, int],
) -> None:
    folder, tensor = tmp_path_factory.mktemp("blocks"), torch.rand(shape)
    rows, columns = ([cut for cut in of if cut < size] for of, size in zip(cuts, shape, strict=True))
    in_blocks = stored(folder, tensor, rows, columns)
    assert in_blocks.problem() is None
    top, bottom = sorted(min(corner, shape[0]) for corner in corners[:2])
    left, right = sorted(min(corner, shape[1]) for corner in corners[2:])
    target = torch.full((bottom - top, right - left), torch.nan)
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "READ_BYTES", 24)
        files = BlockFiles(folder, stack)
        files.read_into(target, in_blocks, [top, left])
        assert torch.equal(target, tensor[top:bottom, left:right])
        write_whole(folder / "whole", {"table": in_blocks}, files)
    save_file({"table": tensor}, folder / "expected")
    assert (folder / "whole").read_bytes() == (folder / "expected").read_bytes()


def test_a_file_of_whole_tensors_is_the_one_of_safetensors(tmp_path: Path) -> None:
    tensors = {
        "b": torch.rand(5, 3),
        "a": torch.arange(3),
        "scalar": torch.tensor(2.0),
        "é": torch.rand(2).bfloat16(),
        "none": torch.rand(0, 4),
    }
    save_file(tensors, tmp_path / "expected")
    with ExitStack() as stack:
        files = BlockFiles(tmp_path, stack)
        write_whole(tmp_path / "live", tensors, files)
        write_whole(tmp_path / "copied", files.whole("expected"), files)
    expected = (tmp_path / "expected").read_bytes()
    assert (tmp_path / "live").read_bytes() == (tmp_path / "copied").read_bytes() == expected


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint."""
    folder = tmp_path_factory.mktemp("whole")
    config = feed_config(write_feed(folder / "feed"), folder / "run", training={"num_train_steps": 1})
    train(config, Recorder())
    return Run(folder / "run").checkpoint_path(1)


def divide(whole: Path, folder: Path) -> Path:
    """The checkpoint with a table in parts, as ranks leave it."""
    (folder / "run").mkdir()
    (folder / "run" / "config.yaml").write_bytes((whole.parents[1] / "config.yaml").read_bytes())
    divided = folder / "run" / "checkpoints" / whole.name
    weights = load_file(whole / WEIGHTS)
    with atomic_directory(divided) as made:
        copytree(whole, made, dirs_exist_ok=True)
        (made / MANIFEST).unlink()
        (made / "shards").mkdir()
        rows = len(weights[TABLE])
        in_blocks = stored(made / "shards", weights.pop(TABLE), [rows // 2], [1])
        blocks = [block.model_copy(update={"file": f"shards/{block.file}"}) for block in in_blocks.blocks]
        index = {"weights": {TABLE: in_blocks.model_copy(update={"blocks": blocks})}}
        (made / "shards" / "index.json").write_text(index_text(index))
        save_file(weights, made / WEIGHTS)
    return divided


def recap(*arguments: object) -> str:
    """The output of a command."""
    done = CliRunner().invoke(app, list(map(str, arguments)))
    if done.exception is not None:
        raise done.exception
    return done.output


def test_a_checkpoint_in_parts_is_refused_until_it_is_consolidated(whole: Path, tmp_path: Path) -> None:
    divided, made = divide(whole, tmp_path), tmp_path / "made"
    config = feed_config(whole.parents[2] / "feed", tmp_path / "run")
    for opened in (lambda: open_model(divided), lambda: evaluate_run(config, tmp_path / "run")):
        with pytest.raises(CheckpointError, match=f"Run 'recap model consolidate {divided} --output DIR', and use DIR"):
            opened()
    with pytest.raises(InputError, match="--output: missing"):
        recap("model", "consolidate", divided)
    output = recap("model", "consolidate", tmp_path / "run", "--output", made)
    assert output.startswith(f"written: {made} with ")
    assert (made / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()
    assert sorted(file.name for file in made.iterdir() if file.is_file()) == [
        "config.yaml",
        "manifest.json",
        "statistics.json",
        "weights.safetensors",
    ]
    assert open_model(made).ranker.state_dict().keys() == load_file(whole / WEIGHTS).keys()
    with pytest.raises(InputError, match="already exists; add --overwrite"):
        recap("model", "consolidate", divided, "--output", made)
    assert recap("model", "consolidate", divided, "--output", made, "--overwrite") == output
    with pytest.raises(InputError, match="its tables are whole, so it is a model directory already"):
        recap("model", "consolidate", made, "--output", tmp_path / "again")


def test_a_warm_start_from_parts_is_refused_before_data_are_read(whole: Path, tmp_path: Path) -> None:
    warm = {"initial_checkpoint_dir": str(divide(whole, tmp_path))}
    config = feed_config(tmp_path / "no feed", tmp_path / "warm", training=warm)
    with pytest.raises(CheckpointError, match="Run 'recap model consolidate"):
        train(config, Reporter())


def change(divided: Path, name: str, text: str) -> None:
    """Replace a file of a checkpoint and its checksum, as someone hostile would."""
    files = {file: (divided / file).read_bytes() for file in json.loads((divided / MANIFEST).read_text())["sha256"]}
    files[name] = text.encode()
    with atomic_directory(divided) as made:
        for file, content in files.items():
            (made / file).parent.mkdir(exist_ok=True)
            (made / file).write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param({"blocks": []}, "its blocks do not add up to its shape", id="no blocks"),
        pytest.param({"shape": [25, 5]}, "its blocks do not add up to its shape", id="wider"),
        pytest.param({"shape": [24, 4]}, "exceeds its shape", id="shorter"),
        pytest.param({"shape": [-1, 4]}, "greater than or equal to 0", id="negative"),
        pytest.param({"shape": [25]}, "is not a box of it", id="one dimension"),
        pytest.param({"dtype": "F64"}, r"0,0 is F32 \[12, 1\], expected F64 \[12, 1\]", id="other dtype"),
        pytest.param({"dtype": "object"}, "its dtype is object", id="no dtype"),
    ],
)
def test_an_index_that_does_not_fit_its_blocks_is_refused(
    whole: Path, tmp_path: Path, damage: dict[str, object], message: str
) -> None:
    divided = divide(whole, tmp_path)
    index = json.loads((divided / "shards" / "index.json").read_text())
    index["weights"][TABLE] |= damage
    change(divided, "shards/index.json", json.dumps(index))
    with pytest.raises(CheckpointError, match=message):
        recap("model", "consolidate", divided, "--output", tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_an_index_names_only_files_of_the_manifest(whole: Path, tmp_path: Path) -> None:
    divided = divide(whole, tmp_path)
    text = (divided / "shards" / "index.json").read_text().replace("shards/1.safetensors", "../../../other")
    change(divided, "shards/index.json", text)
    with pytest.raises(CheckpointError, match=r"names \.\./\.\./\.\./other, which the manifest does not list"):
        recap("model", "consolidate", divided, "--output", tmp_path / "made")


def test_overlapping_blocks_are_refused() -> None:
    def block(key: str, top: int, left: int, rows: int, columns: int) -> Block:
        return Block(file="f", key=key, offsets=[top, left], shape=[rows, columns])

    tiles = [block("a", 0, 0, 2, 2), block("b", 0, 2, 4, 1), block("c", 2, 0, 2, 2)]
    assert StoredTensor(dtype="F32", shape=[4, 3], blocks=tiles).problem() is None
    moved = [tiles[0], tiles[1], block("c", 1, 0, 2, 2)]
    assert StoredTensor(dtype="F32", shape=[4, 3], blocks=moved).problem() == "blocks c and a overlap"
