"""A run that is followed: each checkpoint is evaluated once, beside training, until nothing is left to do."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import Recorder, feed_config, feed_values
from training.runs import interrupt, records

from recap.config.file.load import config_of
from recap.errors import ConfigError, FollowingStopped, InputError, Interrupted, RunError
from recap.evaluation import follow as following
from recap.evaluation.follow import follow
from recap.model.directory import SavedModel
from recap.runs import Run
from recap.training.trainer import train

NO_EVALUATION = {"eval_log_every_n": None}


def evaluations(run: Path) -> list[dict[str, Any]]:
    file = run / "evaluations.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def steps(run: Path) -> list[int]:
    return [record["step"] for record in evaluations(run)]


def test_a_run_that_evaluates_nothing_itself_is_evaluated_by_who_follows_it(feed: Path, tmp_path: Path) -> None:
    run, trained, recorder = tmp_path / "run", Recorder(), Recorder()
    train(feed_config(feed, run, training=NO_EVALUATION), trained)
    assert trained.evaluated_at == []
    assert {record["split"] for record in records(run)} == {"train"}
    config = feed_config(feed, run)
    assert follow(lambda: config, run, recorder) == run / "evaluations.jsonl"
    assert recorder.evaluated_at == [(12, "validation")]
    assert recorder.said == ["passed over, since step 12 is there: step 4, 8"]
    train(feed_config(feed, tmp_path / "both"), Recorder())
    assert evaluations(run) == [
        record for record in records(tmp_path / "both") if record["split"] == "validation" and record["step"] == 12
    ]
    again = Recorder()
    follow(lambda: config, run, again)
    assert again.evaluated_at == []
    assert steps(run) == [12, 12]


def test_tensorboard_shows_what_the_file_holds(feed: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = feed_config(feed, tmp_path / "run", training=NO_EVALUATION)
    train(config, Recorder())
    follow(lambda: config, tmp_path / "run", Recorder())
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard" / "evaluations")).Reload()
    for record in evaluations(tmp_path / "run"):
        (shown,) = events.Scalars(f"validation/{record['task']}/auc")
        assert (shown.step, shown.value) == (12, pytest.approx(record["auc"]))


def stopped_after_5(feed: Path, run: Path) -> None:
    """Checkpoints of steps 4 and 5, and steps that are left."""
    with pytest.raises(Interrupted):
        train(feed_config(feed, run), Recorder({5: interrupt}))


def test_without_a_new_checkpoint_it_ends_after_its_time_and_goes_on_when_asked_again(
    feed: Path, tmp_path: Path
) -> None:
    run, config = tmp_path / "run", feed_config(feed, tmp_path / "run")
    with pytest.raises(RunError, match=r"no new checkpoint for 0 s \(--timeout\); no checkpoint was evaluated"):
        follow(lambda: config, run, Recorder(), timeout=0)
    assert not run.exists()
    stopped_after_5(feed, run)
    with pytest.raises(RunError, match=r"no new checkpoint for 0 s .*; the last .* evaluated is step 5"):
        follow(lambda: config, run, Recorder(), timeout=0)
    with (run / "evaluations.jsonl").open("a") as file:
        file.write('{"step": 9, "spl')
    train(config, Recorder())
    follow(lambda: config, run, Recorder())
    assert steps(run) == [5, 5, 12, 12]


def test_a_signal_ends_it_between_two_batches_and_leaves_nothing_half(feed: Path, tmp_path: Path) -> None:
    class Interrupting(Recorder):
        def evaluated(self, *arguments: Any) -> None:
            interrupt()

    stopped_after_5(feed, tmp_path / "run")
    config = feed_config(feed, tmp_path / "run")
    with pytest.raises(FollowingStopped, match=r"stopped by SIGTERM; .* that of step 5") as caught:
        follow(lambda: config, tmp_path / "run", Interrupting())
    assert caught.value.exit_code == 128 + signal.SIGTERM
    two = config.model_dump(exclude_unset=True)
    two["validation_data"]["again"] = two["validation_data"]["validation"]
    train(config, Recorder())
    with pytest.raises(FollowingStopped):  # after the first set of step 12
        follow(lambda: config_of(two), tmp_path / "run", Interrupting())
    assert steps(tmp_path / "run") == [5, 5]


def test_a_checkpoint_that_is_deleted_while_it_is_opened_gives_way_to_another(
    feed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, open_model = tmp_path / "run", following.open_model

    def open_and_lose(folder: Path) -> SavedModel:
        if folder == Run(run).checkpoint_path(12):
            shutil.rmtree(folder)
        return open_model(folder)

    config = feed_config(feed, run)
    train(config, Recorder())
    monkeypatch.setattr(following, "open_model", open_and_lose)
    recorder = Recorder()
    with pytest.raises(RunError, match="is step 8"):
        follow(lambda: config, run, recorder, timeout=0)
    assert recorder.evaluated_at == [(8, "validation")]


def test_a_damaged_checkpoint_is_told_once_and_evaluated_when_it_was_written_again(feed: Path, tmp_path: Path) -> None:
    run, config, recorder = tmp_path / "run", feed_config(feed, tmp_path / "run"), Recorder()
    train(config, Recorder())
    os.truncate(Run(run).checkpoint_path(12) / "weights.safetensors", 100)
    with pytest.raises(RunError, match="no checkpoint was evaluated"):
        follow(lambda: config, run, recorder, timeout=0.1)
    told = [text for text in recorder.said if "weights.safetensors: damaged" in text]
    assert len(told) == 1
    assert told[0].endswith("; it is not evaluated")
    train(config, Recorder())
    follow(lambda: config, run, Recorder())
    assert steps(run) == [12, 12]


def test_what_is_asked_for_is_checked(feed: Path, tmp_path: Path) -> None:
    run, config = tmp_path / "run", feed_config(feed, tmp_path / "run")
    train(config, Recorder())
    with pytest.raises(ConfigError, match="--split: 'test' is no validation set"):
        follow(lambda: config, run, Recorder(), split="test")
    with following._results(run / "evaluations.jsonl"), pytest.raises(InputError, match="another process follows"):
        follow(lambda: config, run, Recorder())
    with pytest.raises(ConfigError, match=r"training.watch: needs evaluations while training"):
        feed_config(feed, run, training=NO_EVALUATION | {"watch": {"metric": "auc", "split": "validation"}})


def test_results_that_do_not_fit_the_disk_are_not_there_in_part(tmp_path: Path) -> None:
    script = (
        "import resource, sys\nfrom pathlib import Path\nfrom recap.evaluation import follow\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, -1))\n"
        "with follow._results(Path(sys.argv[1])) as file:\n"
        "    follow._append(file, b'x' * 60 + b'\\n')\n"
        "    try:\n        follow._append(file, b'y' * 60 + b'\\n')\n"
        "    except OSError as error:\n        print(error.strerror)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, tmp_path / "file"], capture_output=True, text=True)
    assert done.stdout == "No space left on device\n", done.stderr
    assert (tmp_path / "file").read_bytes() == b"x" * 60 + b"\n"


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.slow
def test_each_checkpoint_is_evaluated_as_it_appears_from_before_the_run_begins(feed: Path, tmp_path: Path) -> None:
    """Checkpoints are deleted at once, and training waits where it must not run ahead."""
    run, config = tmp_path / "run", tmp_path / "ranker.yaml"
    values = feed_values(feed, run)
    values["training"] |= {"eval_log_every_n": 4, "checkpoint_max_to_keep": 1}
    config.write_text(yaml.safe_dump(values))
    command = [sys.executable, "-m", "recap", "evaluate", "--follow"]
    followers = [
        subprocess.Popen([*command, source], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for source in (config, tmp_path / "not-begun")
    ]
    waits = {4 * n + 3: lambda n=n: wait_until(lambda: steps(run)[-1:] == [4 * n]) for n in (1, 2)}
    assert followers[1].stdout is not None
    assert followers[1].stdout.readline() == f"waiting for the first checkpoint of {tmp_path}/not-begun\n"
    followers[1].send_signal(signal.SIGINT)
    train(config_of(values), Recorder(waits))
    told, errors = followers[0].communicate(timeout=60)
    assert (followers[0].returncode, errors) == (0, "")
    assert told.splitlines()[-1] == f"finished: {run}; written: {run}/evaluations.jsonl"
    assert evaluations(run) == [record for record in records(run) if record["split"] == "validation"]
    assert list(Run(run).checkpoints) == [12]
    _, errors = followers[1].communicate(timeout=60)
    assert (followers[1].returncode, errors) == (130, "stopped by SIGINT; no checkpoint was evaluated\n")
    assert not (tmp_path / "not-begun").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "--timeout", "3"], "--timeout: is for --follow"),
        (["run", "--follow", "--step", "3"], "--step: --follow evaluates each checkpoint"),
        (["missing.yaml", "--follow"], "missing.yaml: cannot be read"),
    ],
)
def test_options_that_do_not_go_together_are_refused(tmp_path: Path, arguments: list[str], said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "recap", "evaluate", *arguments], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 2
    assert said in done.stderr
