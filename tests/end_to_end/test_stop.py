"""SIGTERM and Ctrl-C during every kind of work: finished steps are saved, and the run resumes bit for bit."""

import importlib
import signal
import time
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import yaml
from processes import Command
from support import Recorder, feed_values, write_feed
from training.runs import assert_same_run, interrupt

from recap.config.file.load import load_config
from recap.errors import Interrupted
from recap.runs import Run
from recap.training.checkpoints import Checkpoints
from recap.training.trainer import train


def hang(module: str, owner: str, method: str, left: int) -> None:
    """Let a method hang at the end of its call number `left`, counted from 0."""
    found = getattr(importlib.import_module(module), owner)
    real = getattr(found, method)
    calls = count()

    def hanging(*arguments: Any, **named: Any) -> Any:
        result = real(*arguments, **named)
        if next(calls) >= left:
            print("hanging", flush=True)
            while True:
                time.sleep(3600)
        return result

    setattr(found, method, hanging)


START = ("recap.cli.terminal.console", "Console", "__init__")
OPEN = ("recap.data.stream.source", "Source", "_list_file")
READ = ("recap.data.stream.source", "Loader", "load")
STEP = ("recap.training.step", "TrainStep", "_gradients")
EVALUATE = ("recap.evaluation.observers.metrics", "MetricSuite", "update")
PREDICT = ("recap.inference.predictor", "Predictor", "score")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A feed, and the uninterrupted run `whole`."""
    folder = tmp_path_factory.mktemp("stop")
    write_feed(folder / "feed")
    train(load_config(write_config(folder, "whole")), Recorder())
    return folder


def write_config(folder: Path, run: str, grace: float = 2.0, **train_data: Any) -> Path:
    values = feed_values(folder / "feed", folder / run)
    values["training"] |= {"preemption_grace_seconds": grace}
    values["train_data"] |= train_data
    values["validation_data"]["again"] = values["validation_data"]["validation"]
    file = folder / f"{run}.yaml"
    file.write_text(yaml.safe_dump(values))
    return file


def stopped(method: tuple[str, str, str], left: int, *command: str | Path, by: list[int]) -> tuple[int, str]:
    """The exit code and standard error of a command that receives these signals while it hangs."""
    started = Command(*command, prepare=hang, prepared=(*method, left))
    started.wait_for("hanging")
    for number in by:
        started.send_signal(number)
        if len(by) > 1:
            time.sleep(0.3)  # two equal signals in quick succession are delivered as one
    done = started.wait()
    return done.returncode, done.stderr.removeprefix("loading PyTorch and listing the data files …\n")


@pytest.mark.slow
@pytest.mark.parametrize(("method", "number"), [(START, signal.SIGTERM), (OPEN, signal.SIGTERM), (READ, signal.SIGINT)])
def test_a_signal_before_the_first_step_saves_nothing(
    folder: Path, method: tuple[str, str, str], number: signal.Signals
) -> None:
    config = write_config(folder, f"first{number}", grace=3600.0)
    code, errors = stopped(method, 0, "train", config, by=[number])
    message = "before the first step finished; nothing was saved. To start over, run the same command again\n"
    assert (code, errors) == (128 + number, f"stopped by {number.name} {message}")
    assert list(Run(folder / f"first{number}").checkpoints) == []


@pytest.mark.slow
@pytest.mark.parametrize("windows", [1, 4])
def test_a_wait_for_data_is_interrupted_and_the_run_resumes_bit_for_bit(folder: Path, windows: int) -> None:
    run = f"data{windows}"
    config = write_config(folder, run, grace=3600.0, readers={"kind": "threads", "count": 1})
    code, errors = stopped(READ, windows, "train", config, by=[signal.SIGTERM])
    assert code == 143
    assert errors.startswith("stopped by SIGTERM ")
    train(load_config(config), Recorder())
    assert_same_run(folder / "whole", folder / run, 12)


@pytest.mark.slow
def test_a_slow_step_is_interrupted_and_undone(folder: Path) -> None:
    config = write_config(folder, "step")
    code, errors = stopped(STEP, 5, "train", config, by=[signal.SIGTERM])
    message = "stopped by SIGTERM after step 5, which is saved. To resume, run the same command again\n"
    assert (code, errors) == (143, message)
    code, errors = stopped(STEP, 0, "train", config, by=[signal.SIGINT])
    message = (
        "before another step finished; the checkpoint of step 5 is unchanged. To resume, run the same command again\n"
    )
    assert (code, errors) == (130, f"stopped by SIGINT {message}")
    train(load_config(config), Recorder())
    assert_same_run(folder / "whole", folder / "step", 12)


@pytest.mark.slow
@pytest.mark.parametrize("batches", [0, 5])
def test_an_interrupted_evaluation_is_repeated(folder: Path, batches: int) -> None:
    """In the first split, and in the second after the first was evaluated completely."""
    config = write_config(folder, f"evaluation{batches}", grace=3600.0)
    code, errors = stopped(EVALUATE, batches, "train", config, by=[signal.SIGTERM])
    assert (code, "after step 6, which is saved" in errors) == (143, True), errors
    train(load_config(config), Recorder())
    assert_same_run(folder / "whole", folder / f"evaluation{batches}", 12)


@pytest.mark.slow
def test_a_second_ctrl_c_stops_immediately(folder: Path) -> None:
    config = write_config(folder, "twice", grace=3600.0)
    code, errors = stopped(STEP, 2, "train", config, by=[signal.SIGINT, signal.SIGINT])
    assert (code, errors) == (130, "stopped by SIGINT; no partial files are left\n")
    assert list(Run(folder / "twice").checkpoints) == []


def test_a_signal_while_a_checkpoint_is_written_waits_for_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save = Checkpoints.save

    def interrupted(self: Checkpoints, *arguments: Any) -> None:
        interrupt()
        save(self, *arguments)

    config = load_config(write_config(folder, "saving"))
    with monkeypatch.context() as patched:
        patched.setattr(Checkpoints, "save", interrupted)
        with pytest.raises(Interrupted, match="stopped by SIGTERM after step 4, which is saved"):
            train(config, Recorder())
    assert list(Run(folder / "saving").checkpoints) == [4]
    train(config, Recorder())
    assert_same_run(folder / "whole", folder / "saving", 12)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_other_commands_end_with_one_line_and_leave_no_partial_files(folder: Path, number: signal.Signals) -> None:
    before = {path for path in (folder / "whole").rglob("*") if path.is_file()}
    message = (128 + number, f"stopped by {number.name}; no partial files are left\n")
    assert stopped(EVALUATE, 1, "evaluate", folder / "whole", by=[number]) == message
    assert {path for path in (folder / "whole").rglob("*") if path.is_file()} == before
    inputs, output = str(folder / "feed" / "train" / "*.parquet"), folder / "predictions"
    assert stopped(PREDICT, 1, "predict", folder / "whole", inputs, "--output", output, by=[number]) == message
    assert [path.name for path in output.rglob("*") if path.is_file()] == ["_predictions.jsonl"]
