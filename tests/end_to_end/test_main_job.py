"""The main job from the command line: simulate → train → kill → resume → evaluate → predict."""

import json
import signal
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from processes import Command, run_recap

from recap.runs import Run

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes" / "simulated" / "ranker.yaml"
OVERRIDES = [
    "training.num_train_steps=60",
    "training.checkpoint_every_n=10",
    "training.eval_log_every_n=30",
    "training.train_log_every_n=20",
    "train_data.global_batch_size=256",
]


def recap(folder: Path, *arguments: str | Path, code: int = 0) -> str:
    """Run a command in `folder`; return its output."""
    done = run_recap(*arguments, folder=folder)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a simulated feed, trained into `whole`."""
    folder = tmp_path_factory.mktemp("main_job")
    recap(folder, "data", "simulate", "--output", "data/simulated", "--rows", "20000", "--validation-rows", "4000")
    recap(folder, "train", RECIPE, *OVERRIDES, "training.save_dir=whole")
    return folder


@pytest.mark.slow
def test_a_killed_job_gives_the_same_numbers(folder: Path) -> None:
    train = ["train", str(RECIPE), *OVERRIDES, "training.save_dir=killed"]
    started = Command(*train, folder=folder)
    while started.is_running and max(list(Run(folder / "killed").checkpoints), default=0) < 20:
        time.sleep(0.002)
    started.send_signal(signal.SIGKILL)
    assert started.wait().returncode == -signal.SIGKILL
    assert "resuming after step" in recap(folder, *train)
    assert "already finished" in recap(folder, *train)
    for run in ("whole", "killed"):
        recap(folder, "evaluate", run)
        recap(folder, "predict", run, "data/simulated/validation/*.parquet", "--output", f"{run}/predictions")
    evaluations = [json.loads((folder / run / "evaluation.json").read_text()) for run in ("whole", "killed")]
    assert evaluations[0] == evaluations[1]
    predictions = [pq.read_table(folder / run / "predictions") for run in ("whole", "killed")]
    assert predictions[0].equals(predictions[1])
    assert predictions[0].num_rows == 4000


@pytest.mark.slow
def test_prediction_needs_no_labels_and_agrees_with_the_evaluation(folder: Path) -> None:
    source = pq.read_table(folder / "data" / "simulated" / "validation" / "part-00000.parquet")
    (folder / "unseen").mkdir()
    columns = [name for name in source.column_names if not name.startswith("is_") or name == "is_in_network"]
    pq.write_table(source.select(columns), folder / "unseen" / "a.parquet", row_group_size=500)
    recap(folder, "predict", "whole", "unseen/*.parquet", "--output", "unseen_predictions")
    predictions = pq.read_table(folder / "unseen_predictions" / "a.parquet")
    assert predictions.column_names[:3] == ["user_id", "served_at_ms", "post_id"]
    assert predictions.column("post_id").equals(source.column("post_id"))
    recap(folder, "evaluate", "whole")
    evaluation = json.loads((folder / "whole" / "evaluation.json").read_text())["splits"]["validation"]
    for task, metrics in evaluation.items():
        mean = sum(predictions.column(task).to_pylist()) / predictions.num_rows
        assert mean == pytest.approx(metrics["pctr"], rel=1e-5)
    assert min(predictions.column("score").to_pylist()) >= 0


@pytest.mark.slow
def test_misuse_ends_with_a_message_and_exit_code_2(folder: Path) -> None:
    assert "none.yaml: cannot be read" in recap(folder, "train", "none.yaml", code=2)
    assert "save_dri" in recap(folder, "train", RECIPE, "training.save_dri=x", code=2)
    assert "unknown split 'test'. Known: validation" in recap(folder, "evaluate", "whole", "--split", "test", code=2)
    assert "no checkpoint of step 7; available: 50, 60" in recap(folder, "evaluate", "whole", "--step", "7", code=2)
    assert "nothing: no such folder" in recap(folder, "predict", "nothing", "x", "--output", "y", code=2)
    assert "no*.parquet: matches no file" in recap(folder, "predict", "whole", "no*.parquet", "--output", "y", code=2)
    bad = folder / "bad"
    bad.mkdir()
    pq.write_table(pa.table({"user_id": [1]}), bad / "a.parquet")
    answer = recap(folder, "predict", "whole", "bad/a.parquet", "--output", "y", code=2)
    assert "bad/a.parquet: column 'author_followers': is missing" in answer
    assert not (folder / "y").exists()


@pytest.mark.slow
def test_existing_predictions_are_replaced_only_with_overwrite(folder: Path) -> None:
    arguments = ("predict", "whole", "data/simulated/validation/*.parquet", "--output", "kept")
    recap(folder, *arguments)
    file = next((folder / "kept").glob("*.parquet"))
    before = file.stat().st_mtime_ns
    assert "written: 0 files in kept; 1 file was complete before" in recap(folder, *arguments)
    assert "differ in: configuration; add --overwrite" in recap(folder, *arguments, "--set=scoring.weights={}", code=2)
    assert file.stat().st_mtime_ns == before
    recap(folder, *arguments, "--overwrite")
    assert file.stat().st_mtime_ns != before


@pytest.mark.slow
def test_control_c_saves_the_step_and_the_message_explains_resuming(folder: Path) -> None:
    train = ["train", str(RECIPE), *OVERRIDES, "training.save_dir=stopped", "training.num_train_steps=100000"]
    started = Command(*train, folder=folder)
    while started.is_running and max(list(Run(folder / "stopped").checkpoints), default=0) < 10:
        time.sleep(0.01)
    started.send_signal(signal.SIGINT)
    done = started.wait()
    assert done.returncode == 130
    assert "stopped by SIGINT after step" in done.stderr
    assert "To resume, run the same command again" in done.stderr
