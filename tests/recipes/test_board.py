"""Boards: which runs are trained, which are not trained again, and the resulting table."""

import json
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest
import yaml
from support import RECIPES, Recorder, feed_values, load_script

from recap.config.file.load import load_config
from recap.errors import ConfigError

board = load_script(RECIPES / "board.py")


def write_board(feed: Path, folder: Path, **changes: Any) -> Path:
    """A board of two rows over one configuration of four steps."""
    values = feed_values(feed, folder / "unused")
    values["training"] = {"num_train_steps": 4, "eval_log_every_n": 2, "checkpoint_every_n": 2}
    values["training"]["watch"] = {"metric": "auc", "split": "validation"}
    (folder / "ranker.yaml").write_text(yaml.safe_dump(values))
    (folder / "flat.yaml").write_text("model: {backbone: {kind: mlp, layer_sizes: [4]}}\n")
    content = {
        "runs": str(folder / "runs"),
        "seeds": [0, 1],
        "tasks": ["like", "share"],
        "floors": {"a floor": [0.5, 0.6]},
        "rows": {"MaskNet": {"config": "ranker.yaml"}, "an MLP": {"config": "ranker.yaml", "set_files": ["flat.yaml"]}},
    }
    (folder / "board.yaml").write_text(yaml.safe_dump({**content, **changes}, sort_keys=False))
    return folder / "board.yaml"


def reached(run: Path) -> list[float]:
    splits = json.loads((run / "evaluation.json").read_text())["splits"]
    return [splits["validation"][task]["auc"] for task in ("like", "share")]


def test_a_board_trains_each_seed_of_each_row_and_shows_means(feed: Path, tmp_path: Path) -> None:
    recorder = Recorder()
    lines = board.make_board(write_board(feed, tmp_path), recorder).splitlines()
    assert recorder.steps == [1, 2, 3, 4] * 4
    assert lines[:3] == [
        "| AUC | seeds | like | share | mean |",
        "|---|---|---|---|---|",
        "| a floor |  | 0.5000 | 0.6000 | 0.5500 |",
    ]
    assert [line.split(" | ")[:2] for line in lines[3:]] == [["| MaskNet", "2"], ["| an MLP", "2"]]
    runs = [reached(tmp_path / "runs" / f"an_MLP-{seed}") for seed in (0, 1)]
    cells = lines[4].strip("| ").split(" | ")[2:]
    assert [cell.split(" ± ")[0] for cell in cells[:2]] == [f"{mean(column):.4f}" for column in zip(*runs, strict=True)]
    means = list(map(mean, runs))
    assert cells[2] == f"{mean(means):.4f} ± {stdev(means):.4f}"
    assert (tmp_path / "runs" / "board.md").read_text().splitlines() == lines


def test_only_new_rows_are_trained(feed: Path, tmp_path: Path) -> None:
    file = write_board(feed, tmp_path)
    before = board.make_board(file, Recorder())
    again = Recorder()
    assert board.make_board(file, again) == before
    assert again.steps == []
    rows = yaml.safe_load(file.read_text())["rows"] | {
        "slow": {"config": "ranker.yaml", "overrides": ["optimizer.backbone.learning_rate=0.001"]}
    }
    after = board.make_board(write_board(feed, tmp_path, rows=rows), again)
    assert again.steps == [1, 2, 3, 4] * 2
    assert after.splitlines()[:-1] == before.splitlines()


def test_a_board_may_show_the_best_checkpoint_and_another_metric(feed: Path, tmp_path: Path) -> None:
    rows = {"MaskNet": {"config": "ranker.yaml"}}
    file = write_board(feed, tmp_path, best=True, metric="log_loss", tasks=["like"], rows=rows, floors={}, seeds=[3])
    lines = board.make_board(file, Recorder()).splitlines()
    run = tmp_path / "runs" / "MaskNet-3"
    found = json.loads((run / "evaluation.json").read_text())
    assert lines[0] == "| log loss | seeds | like |"
    assert lines[2] == f"| MaskNet | 1 | {found['splits']['validation']['like']['log_loss']:.4f} |"
    best = json.loads((run / "checkpoints" / "step_00000004" / "state.json").read_text())["best_step"]
    assert found["model"] == f"step_{best:08d}"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": ["like", "lick"]}, r"rows.MaskNet: unknown task 'lick'. Known: like, share"),
        ({"split": "test"}, r"rows.MaskNet: unknown split 'test'. Known: validation"),
        ({"floors": {"a": [0.5]}}, r"floors.a: expected 2 values, one for each task; found 1"),
        ({"metric": "ctr"}, r"board.yaml: metric: "),
        ({"rows": {"a": {"config": "absent.yaml"}}}, r"absent.yaml: .*cannot be read"),
        ({"seed": 1}, r"board.yaml: seed: Extra inputs"),
        (
            {"rows": {"a b": {"config": "ranker.yaml"}, "a_b": {"config": "ranker.yaml"}}},
            r"rows 'a b' and 'a_b' would share the folder 'a_b'; rename one",
        ),
        (
            {"best": True, "rows": {"a": {"config": "ranker.yaml", "overrides": ["training.watch=null"]}}},
            r"rows.a: best needs a watched metric; add training.watch, or remove best",
        ),
    ],
)
def test_an_invalid_board_is_refused_before_anything_is_trained(
    feed: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    if "tasks" in changes:
        changes["floors"] = {}
    with pytest.raises(ConfigError, match=message):
        board.make_board(write_board(feed, tmp_path, **changes), Recorder())
    assert not (tmp_path / "runs").exists()


def test_the_command_prints_its_usage_and_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert board.main([]) == 2
    assert board.main([str(tmp_path / "absent.yaml")]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "usage: python recipes/board.py BOARD.yaml",
        f"{tmp_path}/absent.yaml: cannot be read (No such file or directory)",
    ]


@pytest.mark.parametrize(
    "file", sorted(RECIPES.glob("*/board*.yaml")), ids=lambda file: f"{file.parent.name}-{file.stem}"
)
def test_the_boards_of_the_recipes_are_valid(file: Path) -> None:
    read = board.read_board(file)
    for row in read.rows.values():
        assert all((file.parent / name).exists() for name in (row.config, *row.set_files))


@pytest.mark.parametrize("name", ["mlp", "dcn", "mask_net", "mmoe", "ple", "din", "transformer"])
def test_the_rows_of_kuairand_are_valid(name: str) -> None:
    assert len(load_config(RECIPES / "kuairand" / "board" / f"{name}.yaml").tasks) == 8
