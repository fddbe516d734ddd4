"""Boards: which runs are trained, which are not trained again, what fails, and what the page shows."""

import json
import shutil
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest
import yaml
from support import RECIPES, Recorder, feed_values
from typer.testing import CliRunner

from recap.boards.plan import load_plan
from recap.boards.run import run_board
from recap.cli.main import app
from recap.errors import ConfigError, InputError, Interrupted
from recap.storage import locked

SOURCE = "validation_data.validation.source.inputs"
ROWS = {"MaskNet": {"config": "ranker.yaml"}, "an MLP": {"config": "ranker.yaml", "set_files": ["flat.yaml"]}}


def write_board(feed: Path, folder: Path, **changes: Any) -> Path:
    """A board of two rows over one configuration of four steps."""
    values = feed_values(feed, folder / "unused")
    values["training"] = {"num_train_steps": 4, "eval_log_every_n": 2, "checkpoint_every_n": 2, "train_log_every_n": 2}
    values["training"]["watch"] = {"metric": "auc", "split": "validation"}
    (folder / "ranker.yaml").write_text(yaml.safe_dump(values))
    (folder / "flat.yaml").write_text("model: {backbone: {kind: mlp, layer_sizes: [4]}}\n")
    board = {
        "title": "A feed",
        "runs": str(folder / "runs"),
        "seeds": [0, 1],
        "tasks": ["like", "share"],
        "floors": {"a floor": {"auc": {"like": 0.5, "share": 0.6}}},
        "rows": ROWS,
    }
    (folder / "board.yaml").write_text(yaml.safe_dump({**board, **changes}, sort_keys=False))
    return folder / "board.yaml"


def shown(file: Path, reporter: Recorder, *, run_commands: bool = False) -> list[str]:
    """The lines of the page of a board that was run."""
    plan = load_plan(file, run_commands=run_commands)
    run_board(plan, plan.runs, reporter, "recap board board.yaml")
    return (plan.runs / "board.md").read_text().splitlines()


def table(lines: list[str], heading: str) -> dict[str, list[str]]:
    """The table whose first cell is `heading`: first cell → the other cells."""
    start = next(index for index, line in enumerate(lines) if line.startswith(f"| {heading} |"))
    end = next((index for index, line in enumerate(lines) if index > start and not line.startswith("|")), len(lines))
    rows = [line[2:-2].split(" | ") for line in (lines[start], *lines[start + 2 : end])]
    return {row[0]: row[1:] for row in rows}


def reached(runs: Path, run: str) -> list[float]:
    metrics = json.loads((runs / "records" / f"{run}.evaluation.json").read_text())["splits"]["validation"]
    return [metrics[task]["auc"] for task in ("like", "share")]


@pytest.fixture(scope="module")
def finished(feed: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str], Recorder]:
    """The folder of a board that ran, its page, and what was reported."""
    folder, recorder = tmp_path_factory.mktemp("board"), Recorder()
    return folder, shown(write_board(feed, folder, baseline="MaskNet"), recorder), recorder


def test_a_board_trains_each_seed_of_each_row_and_shows_means(finished: tuple[Path, list[str], Recorder]) -> None:
    folder, lines, recorder = finished
    assert recorder.steps == [1, 2, 3, 4] * 4
    assert lines[:5] == [
        "## A feed",
        "",
        "| AUC | seeds | like | share | mean |",
        "|---|---|---|---|---|",
        "| a floor |  | 0.5000 | 0.6000 | 0.5500 |",
    ]
    cells = table(lines, "AUC")["an MLP"]
    runs = [reached(folder / "runs", f"an_MLP-{seed}") for seed in (0, 1)]
    assert [cell.split(" ± ")[0] for cell in cells[1:3]] == [f"{mean(it):.4f}" for it in zip(*runs, strict=True)]
    means = list(map(mean, runs))
    assert cells[0] == "2"
    assert cells[3] == f"{mean(means):.4f} ± {stdev(means):.4f}"


def test_the_page_shows_differences_costs_and_where_runs_were_trained(
    finished: tuple[Path, list[str], Recorder],
) -> None:
    folder, lines, _ = finished
    heading = "Difference from MaskNet [95% interval over users and seeds]; bold where the interval excludes 0:"
    start = lines.index(heading)
    (cells,) = [row for name, row in table(lines[start:], "AUC").items() if name == "an MLP"]
    content = json.loads((folder / "runs" / "board.json").read_text())
    change = content["rows"]["an MLP"]["differences"]["auc"]["like"]
    ours, theirs = ([reached(folder / "runs", f"{row}-{seed}")[0] for seed in (0, 1)] for row in ("an_MLP", "MaskNet"))
    assert change["value"] == pytest.approx(mean(ours) - mean(theirs))
    assert change["low"] < change["value"] < change["high"]
    assert f"{change['value']:+.4f} [{change['low']:+.4f}, {change['high']:+.4f}]" in cells[0]
    costs = table(lines, "row")
    assert costs.pop("row") == ["time to train", "examples/s", "parameters"]
    assert list(costs) == ["MaskNet", "an MLP"]
    assert all(cost[0].endswith(" s") and float(cost[1].replace(",", "")) > 0 for cost in costs.values())
    run = content["rows"]["MaskNet"]["runs"]["0"]
    assert costs["MaskNet"][2] == f"{run['parameters']:,}"
    assert run["environment"]["cpus"] >= 1
    assert run["environment"]["recap"]
    assert lines[-2].startswith("Written by `recap board board.yaml`.")
    assert lines[-1].startswith("4 runs on ")


def test_without_users_and_with_one_seed_the_page_says_so(feed: Path, tmp_path: Path) -> None:
    rows = {name: {**row, "overrides": ["features.user=null"]} for name, row in ROWS.items()}
    lines = shown(write_board(feed, tmp_path, baseline="MaskNet", rows=rows, seeds=[0]), Recorder())
    assert "Difference from MaskNet [95% interval over rows, not seeds]; bold where the interval excludes 0:" in lines


def test_only_new_runs_are_trained(feed: Path, finished: tuple[Path, list[str], Recorder]) -> None:
    folder, before, _ = finished
    again = Recorder()
    assert shown(folder / "board.yaml", again) == before
    assert again.steps == []
    after = shown(write_board(feed, folder, seeds=[0, 1, 2], rows={"MaskNet": ROWS["MaskNet"]}), again)
    assert again.steps == [1, 2, 3, 4]
    assert table(after, "AUC")["MaskNet"][0] == "3"
    assert table(after, "AUC")["a floor"] == table(before, "AUC")["a floor"]


def test_a_board_may_show_the_best_checkpoint_and_other_metrics(feed: Path, tmp_path: Path) -> None:
    rows = {"MaskNet": {"config": "ranker.yaml"}}
    shows = {"best": True, "metrics": ["log_loss", "grouped_auc"], "tasks": ["like"], "floors": {}, "seeds": [3]}
    lines = shown(write_board(feed, tmp_path, rows=rows, **shows), Recorder())
    written = json.loads((tmp_path / "runs" / "records" / "MaskNet-3.evaluation.json").read_text())
    assert table(lines, "log loss") == {
        "log loss": ["seeds", "like"],
        "MaskNet": ["1", f"{written['splits']['validation']['like']['log_loss']:.5f}"],
    }
    assert "MaskNet" in table(lines, "grouped AUC")
    state = tmp_path / "runs" / "MaskNet-3" / "checkpoints" / "step_00000004" / "state.json"
    assert lines[-1] == "The best checkpoints were chosen by validation itself, so their values are a little too good."
    assert written["model"] == f"step_{json.loads(state.read_text())['best_step']:08d}"


def test_a_run_that_fails_is_shown_and_the_others_go_on(feed: Path, tmp_path: Path) -> None:
    rows = {
        "without weights": {"config": "ranker.yaml", "overrides": ["training.initial_checkpoint_dir=absent"]},
        "MaskNet": {"config": "ranker.yaml"},
    }
    file = write_board(feed, tmp_path, rows=rows, seeds=[0], baseline="MaskNet")
    done = CliRunner().invoke(app, ["board", str(file), "--output", str(tmp_path / "page")])
    assert done.exception is not None
    assert str(done.exception).startswith(f"{file}: 1 run of 2 failed:\n  without weights, seed 0: absent: ")
    lines = (tmp_path / "page" / "board.md").read_text().splitlines()
    assert table(lines, "AUC")["without weights"][0] == "failed"
    assert table(lines, "AUC")["MaskNet"][0] == "1"
    assert any(line.startswith("Failed: without weights, seed 0: absent: ") for line in lines)
    assert (tmp_path / "page" / "board.png").read_bytes().startswith(b"\x89PNG")
    assert "## A feed" in done.output
    repaired = rows | {"without weights": {"config": "ranker.yaml"}}
    done = CliRunner().invoke(app, ["board", str(write_board(feed, tmp_path, rows=repaired, seeds=[0]))])
    assert done.exit_code == 0
    assert "failed" not in done.output


def test_a_row_whose_configuration_changed_is_to_be_renamed_or_trained_again(feed: Path, tmp_path: Path) -> None:
    shown(write_board(feed, tmp_path, rows={"MaskNet": ROWS["MaskNet"]}), Recorder())
    changed = {"MaskNet": ROWS["an MLP"], "as before": ROWS["MaskNet"]}
    lines = shown(write_board(feed, tmp_path, rows=changed), Recorder())
    (failed,) = [line for line in lines if line.startswith("Failed: ")]
    assert failed.startswith(
        f"Failed: MaskNet, seeds 0, 1: {tmp_path / 'runs' / 'MaskNet-*'}: its configuration changed after it began; "
        "undo this, rename the row, or delete its folder(s): model.backbone"
    )


def test_a_run_is_evaluated_again_on_other_data(feed: Path, tmp_path: Path) -> None:
    file = write_board(feed, tmp_path, rows={"a": ROWS["MaskNet"]}, seeds=[0], floors={})
    before = shown(file, Recorder())
    text = (tmp_path / "ranker.yaml").read_text()
    (tmp_path / "ranker.yaml").write_text(text.replace("validation/*.parquet", "train/part-0.parquet"))
    again = Recorder()
    assert table(shown(file, again), "AUC")["a"] != table(before, "AUC")["a"]
    (tmp_path / "ranker.yaml").write_text(text)
    assert shown(file, again) == before
    assert again.steps == []


def test_the_record_of_a_run_whose_folder_was_deleted_is_forgotten(feed: Path, tmp_path: Path) -> None:
    def stop() -> None:
        raise Interrupted(2, 1)

    file = write_board(feed, tmp_path, rows={"a": ROWS["MaskNet"]}, seeds=[0])
    shown(file, Recorder())
    (job,) = load_plan(file).jobs
    assert job.is_finished
    shutil.rmtree(job.folder)
    assert not job.is_finished
    recorder = Recorder()
    recorder.after_step = {1: stop}
    with pytest.raises(Interrupted):
        shown(file, recorder)
    assert job.folder.exists()
    assert not job.is_finished


def test_finished_runs_do_not_need_their_training_data(feed: Path, tmp_path: Path) -> None:
    absent = {"config": "ranker.yaml", "overrides": ["train_data.source.inputs=absent/*.parquet"]}
    file = write_board(feed, tmp_path, rows={"a": absent})
    for seed in (0, 1):
        with pytest.raises(ConfigError, match=r"rows.a: train_data: absent/\*.parquet: matches no file"):
            load_plan(file)
        (tmp_path / "runs" / "records").mkdir(parents=True, exist_ok=True)
        (tmp_path / "runs" / "records" / f"a-{seed}.json").touch()
        (tmp_path / "runs" / f"a-{seed}").mkdir()
    assert len(load_plan(file).jobs) == 2


def test_a_stopped_board_says_what_is_left_and_continues(feed: Path, tmp_path: Path) -> None:
    def stop() -> None:
        raise Interrupted(2, 1)

    file = write_board(feed, tmp_path, seeds=[0])
    recorder = Recorder()
    recorder.after_step = {1: lambda: stop() if len(recorder.steps) > 4 else None}
    with pytest.raises(Interrupted):
        shown(file, recorder)
    assert "Not run yet: 1 of 2 runs." in (tmp_path / "runs" / "board.md").read_text()
    again = Recorder()
    assert not [line for line in shown(file, again) if line.startswith("Not run yet")]
    assert again.steps[-1] == 4


def test_two_processes_do_not_run_a_board_at_once(feed: Path, tmp_path: Path) -> None:
    file = write_board(feed, tmp_path)
    (tmp_path / "runs" / "records").mkdir(parents=True)
    with locked(tmp_path / "runs" / "records"), pytest.raises(InputError, match="another process runs a board"):
        shown(file, Recorder())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": ["like", "lick"]}, r"board.yaml:\d+:\d+: rows.MaskNet: unknown task 'lick'. Known: like, share"),
        ({"split": "test"}, r"rows.MaskNet: unknown split 'test'. Known: validation"),
        ({"floors": {"a": {"auc": {"lick": 0.5}}}}, r"floors.a.auc.lick: unknown task 'lick'. .*Did you mean 'like'"),
        ({"floors": {"a": {"ne": {"like": 0.5}}}}, r"floors.a.ne: the board does not show 'ne'"),
        ({"floors": {"MaskNet": {}}}, r"floors.MaskNet: is also a row; rename one"),
        ({"metrics": ["ctr"]}, r"board.yaml:\d+:\d+: metrics.0: "),
        ({"metrics": ["rmse"]}, r"rows.MaskNet: like is a binary task, which has no rmse"),
        ({"metrics": ["auc", "auc"]}, r"metrics.1: 'auc' is listed twice; remove one"),
        (
            {"rows": {"a": {"config": "ranker.yaml", "overrides": [f"{SOURCE}=absent/*.parquet"]}}},
            r"board.yaml:\d+:\d+: rows.a: validation: absent/\*.parquet: matches no file",
        ),
        ({"mean_of": ["lick"]}, r"mean_of.0: unknown task 'lick'"),
        ({"tasks": ["like", "mean"]}, r"tasks.1: 'mean' is the column of means"),
        ({"baseline": "masknet"}, r"baseline: unknown row 'masknet'. .*Did you mean 'MaskNet'"),
        (
            {"rows": {"a": {"config": "absent.yaml"}}},
            r"rows.a: its configuration cannot be used:\n.*absent.yaml: .*read",
        ),
        ({"rows": {"a|b": {"config": "ranker.yaml"}}}, r"at most 100 characters, without \| and line breaks"),
        (
            {"rows": {"a": {"config": "ranker.yaml", "overrides": ["model={}", "training.seed=3"]}}},
            r"rows.a.overrides.1: training.seed is set by seeds of the board; remove it",
        ),
        ({"seed": 1}, r"board.yaml:\d+:1: seed: 'seed' is unknown.*Did you mean 'seeds'"),
        (
            {"rows": {"a b": {"config": "ranker.yaml"}, "a_b": {"config": "ranker.yaml"}}},
            r"rows.a_b: would share the folder 'a_b' with 'a b'; rename one",
        ),
        (
            {"best": True, "rows": {"a": {"config": "ranker.yaml", "overrides": ["training.watch=null"]}}},
            r"rows.a: best needs a watched metric; add training.watch, or remove best",
        ),
        (
            {"rows": {"a": {"config": "ranker.yaml", "rival": {"kind": "trees"}}}},
            r"rows.a.rival.kind: .*Known: lightgbm, command",
        ),
        (
            {"rows": {"a": {"config": "ranker.yaml", "rival": {"kind": "lightgbm", "columns": ["agee"]}}}},
            r"rows.a.rival.columns.0: unknown feature 'agee'. .*Did you mean 'age'",
        ),
        (
            {"rows": {"a": {"config": "ranker.yaml", "rival": {"kind": "command", "command": ["true"]}}}},
            r"rows.a.rival.command: is a program, which runs with all your rights; .*add --run-commands",
        ),
        (
            {"metrics": ["grouped_auc"], "rows": {"a": {"config": "ranker.yaml", "overrides": ["features.user=null"]}}},
            r"rows.a: grouped_auc needs lists; set features.user or features.request",
        ),
    ],
)
def test_an_invalid_board_is_refused_before_anything_is_trained(
    feed: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        load_plan(write_board(feed, tmp_path, **{"floors": {}, **changes}))
    assert not (tmp_path / "runs").exists()


def test_a_missing_board_exits_with_2(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["board", str(tmp_path / "absent.yaml")])
    assert isinstance(done.exception, ConfigError)
    assert "cannot be read (No such file or directory)" in str(done.exception)


@pytest.mark.parametrize(
    "file", sorted(RECIPES.glob("*/board*.yaml")), ids=lambda file: f"{file.parent.name}-{file.stem}"
)
def test_the_boards_of_the_recipes_are_valid(file: Path) -> None:
    assert load_plan(file, find_data=False).jobs
