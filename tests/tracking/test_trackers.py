"""Trackers that fail for real (folders in the way, full disks, missing servers) do not stop a run."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from support import Recorder, feed_config
from training.runs import TIMED, assert_same_run, interrupt, records

from recap.config.file.environment import _SECRETS
from recap.config.recap import RecapConfig
from recap.errors import ConfigError, InputError, Interrupted
from recap.tracking.guarded import Guarded
from recap.tracking.jsonl import JsonLines
from recap.training.trainer import train

REFUSING = "http://127.0.0.1:9"
"""The discard port, on which no server listens."""


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restore the environment, which a tracker changes."""
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(os, "environ", os.environ.copy())


def with_mlflow(feed: Path, run: Path, uri: str, **training: Any) -> RecapConfig:
    return feed_config(feed, run, training={"mlflow": {"experiment": "tests", "tracking_uri": uri}, **training})


def full_disk(file: Path) -> int:
    """Make writes to an open file of this process fail as on a full disk; return the argument of `no_full_disk`."""
    for link in Path("/proc/self/fd").iterdir():
        if link.exists() and link.resolve() == file.resolve():
            number = int(link.name)
            kept = os.dup(number)
            with open("/dev/full", "wb") as full:
                os.dup2(full.fileno(), number)
            WHERE[kept] = number
            return kept
    raise AssertionError(f"{file} is not open")


WHERE: dict[int, int] = {}


def no_full_disk(kept: int) -> None:
    os.dup2(kept, WHERE.pop(kept))
    os.close(kept)


def test_the_share_of_time_spent_waiting_for_data_is_logged(feed: Path, tmp_path: Path) -> None:
    train(feed_config(feed, tmp_path / "run"), Recorder())
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    shares = [line["data_wait"] for line in lines if line["split"] == "train"]
    assert len(shares) == 4
    assert all(0 < share < 1 for share in shares)
    assert "data_wait" in TIMED


def test_a_folder_named_metrics_jsonl_is_reported_and_training_continues(feed: Path, tmp_path: Path) -> None:
    (tmp_path / "run" / "metrics.jsonl").mkdir(parents=True)
    recorder = Recorder()
    assert train(feed_config(feed, tmp_path / "run"), recorder).trained
    assert recorder.steps[-1] == 12
    failure, lost = (text for text in recorder.messages if "metrics.jsonl" in text)
    assert failure.startswith("metrics.jsonl: cannot be written (Is a directory). The run continues")
    assert lost == "metrics.jsonl: 8 records could not be written"


def test_records_wait_until_the_disk_has_room_again(feed: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    kept: list[int] = []
    after = {
        4: lambda: kept.append(full_disk(run / "metrics.jsonl")),
        11: lambda: no_full_disk(kept[0]),
    }
    recorder = Recorder(after)
    train(feed_config(feed, run), recorder)
    said = [text for text in recorder.messages if "metrics.jsonl" in text]
    assert said[0].startswith("metrics.jsonl: cannot be written (No space left on device). The run continues")
    assert said[1:] == ["metrics.jsonl: can be written again"]
    train(feed_config(feed, tmp_path / "whole"), Recorder())
    assert_same_run(run, tmp_path / "whole", 12)


def test_a_line_that_does_not_fit_the_disk_is_not_written_at_all(tmp_path: Path) -> None:
    import resource

    tracker = JsonLines(tmp_path / "metrics.jsonl", 0)
    tracker.log({"step": 1, "split": "train"})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40, before[1]))
    try:
        with pytest.raises(OSError, match="No space left"):
            tracker.log({"step": 2, "split": "train"})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    tracker.log({"step": 2, "split": "train"})
    tracker.close(finished=True)
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [1, 2]


def test_garbled_lines_are_dropped(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(b'{"step": 1}\n\0\0\0\n\xff\n[]\n{"step": 2}\n{"step": 9}\n{"st')
    JsonLines(file, 5).close(finished=True)
    assert file.read_text() == '{"step": 1}\n{"step": 2}\n'


def test_a_file_named_tensorboard_is_reported_and_training_continues(feed: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "tensorboard").write_text("in the way")
    recorder = Recorder()
    assert train(feed_config(feed, tmp_path / "run"), recorder).trained
    assert any(text.startswith("TensorBoard: cannot be written (") for text in recorder.messages)
    assert len(records(tmp_path / "run")) == 8


def test_deleted_files_are_created_again(feed: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def delete() -> None:
        shutil.rmtree(tmp_path / "run" / "tensorboard")
        (tmp_path / "run" / "metrics.jsonl").unlink()

    train(feed_config(feed, tmp_path / "run"), Recorder({4: delete}))
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [6, 9, 12]
    assert [record["step"] for record in records(tmp_path / "run") if record["split"] == "train"] == [6, 9, 12]


def test_events_wait_until_the_disk_has_room_again(feed: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder, kept = tmp_path / "run" / "tensorboard", []
    after = {4: lambda: kept.append(full_disk(next(folder.iterdir()))), 11: lambda: no_full_disk(kept[0])}
    recorder = Recorder(after)
    train(feed_config(feed, tmp_path / "run"), recorder)
    assert [text.split(" (")[0] for text in recorder.messages if "TensorBoard" in text] == [
        "TensorBoard: cannot be written",
        "TensorBoard: can be written again",
    ]
    events = EventAccumulator(str(folder)).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [3, 6, 9, 12]


def test_tensorboard_shows_each_step_of_a_resumed_run_once(feed: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train(feed_config(feed, tmp_path / "run"), Recorder({7: fail}))
    train(feed_config(feed, tmp_path / "run"), Recorder())
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [3, 6, 9, 12]


def test_the_oldest_of_too_many_buffered_records_are_lost_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Guarded, "MAX_BUFFERED", 3)
    monkeypatch.setattr(Guarded, "RETRY_S", 0.0)
    said: list[str] = []
    taken: list[int] = []

    class Down:
        down = True

        def log(self, record: Any) -> None:
            if Down.down:
                raise ConnectionError("gone")
            taken.append(record["step"])

        def close(self, *, finished: bool) -> None:
            raise ConnectionError("gone for good")

    guarded = Guarded.open("it", Down, said.append)
    for step in range(1, 6):
        guarded.log({"step": step})
    Down.down = False
    guarded.log({"step": 6})
    guarded.close(finished=True)
    assert taken == [4, 5, 6]
    assert said[0].startswith("it: cannot be written (gone)")
    assert said[1:] == [
        "it: can be written again",
        "it: cannot be closed (gone for good); its last records may be missing",
        "it: 3 records could not be written",
    ]


def test_a_secret_is_hidden_before_an_error_is_shortened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_SECRETS, "tunafish", "${secret:IT}")

    def fail() -> Any:
        raise ConnectionError(f"{'x' * 195} tunafish")

    said: list[str] = []
    Guarded.open("it", fail, said.append)
    assert "tuna" not in said[0]


def runs_of(uri: str) -> list[Any]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("tests")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id]))


@pytest.mark.usefixtures("environment")
def test_mlflow_has_the_values_of_metrics_jsonl(feed: Path, tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    uri = f"file:{tmp_path}/store"
    train(with_mlflow(feed, tmp_path / "run", uri), Recorder())
    (run,) = runs_of(uri)
    assert (run.info.run_name, run.info.status) == ("run", "FINISHED")
    assert run.data.params["model.backbone.kind"] == "mask_net"
    assert run.data.params["features.continuous"] == '["age", "followers"]'
    history = MlflowClient(uri).get_metric_history(run.info.run_id, "train/loss.like")
    logged = [record for record in records(tmp_path / "run") if record["split"] == "train"]
    assert [(point.step, point.value) for point in history] == [
        (record["step"], record["loss/like"]) for record in logged
    ]
    last = [record for record in records(tmp_path / "run") if record.get("task") == "share"][-1]
    assert run.data.metrics["validation/share/auc"] == last["auc"]


@pytest.mark.usefixtures("environment")
def test_a_resumed_run_continues_its_mlflow_run_unless_the_experiment_changed(feed: Path, tmp_path: Path) -> None:
    uri = f"file:{tmp_path}/store"
    with pytest.raises(Interrupted):
        train(with_mlflow(feed, tmp_path / "run", uri), Recorder({4: interrupt}))
    (before,) = runs_of(uri)
    assert before.info.status == "KILLED"
    recorder = Recorder()
    train(with_mlflow(feed, tmp_path / "run", uri), recorder)
    assert recorder.started_after == 4
    (after,) = runs_of(uri)
    assert (after.info.run_id, after.info.status) == (before.info.run_id, "FINISHED")
    other = {"mlflow": {"experiment": "other", "tracking_uri": uri}, "num_train_steps": 13}
    recorder = Recorder()
    train(feed_config(feed, tmp_path / "run", training=other), recorder)
    assert "changed since step_00000012: training.mlflow.experiment: tests → other" in recorder.messages
    assert len(runs_of(uri)) == 1
    assert json.loads((tmp_path / "run" / "mlflow.json").read_text())["run_id"] != before.info.run_id


@pytest.mark.usefixtures("environment")
def test_no_secret_reaches_mlflow(feed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import yaml
    from support import feed_values

    from recap.config.file.load import load_config

    monkeypatch.setenv("STORE", f"{tmp_path}/hushed")
    values = feed_values(feed, tmp_path / "run")
    values["training"] |= {"num_train_steps": 1}
    values["training"]["mlflow"] = {"experiment": "tests", "tracking_uri": "file:${secret:STORE}"}
    file = tmp_path / "ranker.yaml"
    file.write_text(yaml.safe_dump(values))
    train(load_config(file), Recorder())
    (run,) = runs_of(f"file:{tmp_path}/hushed")
    assert run.data.params["training.mlflow.tracking_uri"] == "file:${secret:STORE}"
    assert not [name for name, text in run.data.params.items() if "hushed" in text]


@pytest.mark.usefixtures("environment")
def test_a_missing_mlflow_server_is_reported_and_skipped(feed: Path, tmp_path: Path) -> None:
    recorder = Recorder()
    assert train(with_mlflow(feed, tmp_path / "run", REFUSING), recorder).trained
    failure, lost = (text for text in recorder.messages if text.startswith("MLflow"))
    assert "cannot be written (API request to http://127.0.0.1:9/" in failure
    assert lost == "MLflow: 8 records could not be written"
    train(feed_config(feed, tmp_path / "without"), Recorder())
    assert records(tmp_path / "run") == records(tmp_path / "without")


def test_an_mlflow_server_without_a_scheme_is_refused(feed: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"training.mlflow.tracking_uri: .* write http://localhost:5000"):
        with_mlflow(feed, tmp_path / "run", "localhost:5000")


def test_mlflow_without_its_package_is_refused_before_the_first_step(
    feed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recap.tracking.open.find_spec", lambda name: None)
    recorder = Recorder()
    with pytest.raises(InputError, match=r"training.mlflow: .* pip install 'recap-ranker\[mlflow\]'"):
        train(with_mlflow(feed, tmp_path / "run", "file:x"), recorder)
    assert recorder.steps == []
