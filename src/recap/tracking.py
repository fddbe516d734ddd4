"""Where the numbers of a run go: files, TensorBoard and MLflow (trackers), and the person watching (reporter).

A record is one flat mapping: `step`, `split`, `task` for metrics of one, and named values.
"""

import errno
import json
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

import yaml
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.summary.writer.record_writer import RecordWriter

from recap.config.load import dump_config
from recap.config.recap import RecapConfig
from recap.config.tracking import MlflowConfig
from recap.errors import InputError

Record = Mapping[str, float | int | str | None]


class Tracker(Protocol):
    """Receives the records of a run, in order of steps. It may fail at any call; `Guarded` sees to that."""

    def log(self, record: Record) -> None:
        """Take one record, whole or not at all."""

    def close(self, *, finished: bool) -> None:
        """Write what is still held back; `finished`: no step of the run is left."""


class Reporter(Protocol):
    """Tells a person how a run goes while it goes."""

    def start(self, config: RecapConfig, step: int, steps: int, train_rows: int, on: str) -> None:
        """The run begins, or goes on, after `step`; there will be so many `steps` in all. `on`: what it runs on."""

    def advance(self, step: int, loss: float, examples: int, losses: Mapping[str, float], waited: float) -> None:
        """An optimizer step over `examples` rows is done: its loss, that of each task, seconds it waited for data."""

    def logged(self, record: Record) -> None:
        """Training losses were logged."""

    def evaluated(self, step: int, split: str, evaluation: Mapping[str, Mapping[str, float]]) -> None:
        """A validation set was evaluated: task → metric → value."""

    def say(self, text: str) -> None:
        """Something a person should know."""

    def stop(self) -> None:
        """The run ends, well or not."""


class Silent:
    """A reporter that tells nothing: that of all ranks but the first."""

    def start(self, config: RecapConfig, step: int, steps: int, train_rows: int, on: str) -> None:
        """Nothing."""

    def advance(self, step: int, loss: float, examples: int, losses: Mapping[str, float], waited: float) -> None:
        """Nothing."""

    def logged(self, record: Record) -> None:
        """Nothing."""

    def evaluated(self, step: int, split: str, evaluation: Mapping[str, Mapping[str, float]]) -> None:
        """Nothing."""

    def say(self, text: str) -> None:
        """Nothing."""

    def stop(self) -> None:
        """Nothing."""


class JsonLines:
    """`metrics.jsonl`: a JSON object a line, written through at once."""

    def __init__(self, path: Path, step: int) -> None:
        """Continue after `step`: lines of later steps, left by a killed run, are dropped."""
        kept = [line for line in _lines(path) if _has_step_until(line, step)]
        temporary = path.with_name(path.name + ".tmp")
        temporary.write_text("".join(f"{line}\n" for line in kept))
        temporary.replace(path)
        self._file = _Appended(path)

    def log(self, record: Record) -> None:
        """Append one line."""
        self._file.append((json.dumps(record) + "\n").encode())

    def close(self, *, finished: bool) -> None:
        """Close the file."""
        self._file.close()


class TensorBoard:
    """TensorBoard events: a scalar for each value, named as in `named_values`; written through at once.

    Its own writer works in a thread, which tells of a full disk by a traceback.
    """

    def __init__(self, folder: Path, step: int) -> None:
        """Continue after `step`: what a killed run wrote for later steps is purged from view."""
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}.{os.getpid()}"
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        head = _event(step + 1, file_version="brain.Event:2") + _event(step + 1, session_log=start)
        self._file = _Appended(folder / name, head)

    def log(self, record: Record) -> None:
        """Write the numbers of the record."""
        values = [summary_pb2.Summary.Value(tag=name, simple_value=value) for name, value in named_values(record)]
        self._file.append(_event(int(record["step"] or 0), summary=summary_pb2.Summary(value=values)))

    def close(self, *, finished: bool) -> None:
        """Close the file."""
        self._file.close()


def _event(step: int, **content: Any) -> bytes:
    """An event as a record of an event file."""
    written = BytesIO()
    RecordWriter(written).write(event_pb2.Event(wall_time=time.time(), step=step, **content).SerializeToString())
    return written.getvalue()


class _Appended:
    """A file that grows by whole pieces, and is made anew where it was deleted."""

    def __init__(self, path: Path, head: bytes = b"") -> None:
        """`head`: what the file begins with, written with the first piece."""
        self._path, self._head = path, head
        self._file = path.open("ab", buffering=0)

    def append(self, piece: bytes) -> None:
        """Write `piece`, or nothing. Raises OSError."""
        if not os.fstat(self._file.fileno()).st_nlink:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            anew = self._path.open("ab", buffering=0)
            self._file.close()
            self._file = anew
        end = self._file.seek(0, os.SEEK_END)
        if not end:
            piece = self._head + piece
        if self._file.write(piece) < len(piece):  # what fits a full disk is written without an error
            self._file.truncate(end)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def close(self) -> None:
        self._file.close()


class Mlflow:
    """A run of an MLflow server, through its client; the id of the run is kept in `mlflow.json` of ours."""

    LIMITS = {
        # A server that is gone must not hold training up: `Guarded` tries again, so the client need not.
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",  # seconds
        "MLFLOW_ALLOW_FILE_STORE": "true",  # whoever names a folder wants one
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # past the reporter, which hides secrets
    }
    """What the environment does not say otherwise."""
    MOST_PARAMETERS = 100
    """In one request, of the server."""

    def __init__(self, said: MlflowConfig, config: RecapConfig, save_dir: Path) -> None:
        """Go on with the run that `save_dir` knows of, or begin one."""
        for name, value in self.LIMITS.items():
            os.environ.setdefault(name, value)
        from mlflow.entities import Metric, Param
        from mlflow.tracking import MlflowClient

        self._metric = Metric
        self._client = MlflowClient(said.tracking_uri)
        found = self._client.get_experiment_by_name(said.experiment)
        experiment = found.experiment_id if found else self._client.create_experiment(said.experiment)
        file = save_dir / "mlflow.json"
        known = json.loads(file.read_text())["run_id"] if file.exists() else None
        if known is not None and self._is_run_of(known, experiment):
            self._run = known
            self._client.update_run(known, status="RUNNING")
            return
        self._run = self._client.create_run(experiment, run_name=said.run_name or save_dir.name).info.run_id
        # No secrets: a dumped configuration holds their references.
        parameters = [Param(_allowed(name), text) for name, text in _flat(yaml.safe_load(dump_config(config)))]
        for start in range(0, len(parameters), self.MOST_PARAMETERS):
            self._client.log_batch(self._run, params=parameters[start : start + self.MOST_PARAMETERS])
        temporary = file.with_name(file.name + ".tmp")
        temporary.write_text(json.dumps({"run_id": self._run}) + "\n")
        temporary.replace(file)

    def _is_run_of(self, run: str, experiment: str) -> bool:
        """Whether the server has this run, not deleted, in this experiment."""
        from mlflow.exceptions import MlflowException

        try:
            info = self._client.get_run(run).info
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise
        return bool(info.experiment_id == experiment and info.lifecycle_stage == "active")

    def log(self, record: Record) -> None:
        """Send the numbers of the record, named as in `named_values` with dots: a store of files has names as paths."""
        now, step = int(time.time() * 1000), int(record["step"] or 0)
        metrics = [self._metric(_allowed(name), float(value), now, step) for name, value in named_values(record, ".")]
        self._client.log_batch(self._run, metrics=metrics)

    def close(self, *, finished: bool) -> None:
        """Tell the server how the run ended."""
        self._client.set_terminated(self._run, "FINISHED" if finished else "KILLED")


class Guarded:
    """A tracker that cannot stop a run: what fails is told once and held, and tried again later and at the end."""

    RETRY_S = 60.0
    """Seconds before the next try, so that a server that hangs takes little of the time of training."""
    MOST_HELD = 10_000
    """Records; the oldest are lost beyond it."""

    def __init__(self, name: str, opened: Callable[[], Tracker], say: Callable[[str], None]) -> None:
        """`opened` opens the tracker, and is called until it does."""
        self._name, self._opened, self._say = name, opened, say
        self._tracker: Tracker | None = None
        self._held: deque[Record] = deque()
        self._lost, self._failing, self._next_try = 0, False, 0.0
        self._deliver()

    def log(self, record: Record) -> None:
        """Hand the record on, after those that are held."""
        self._held.append(record)
        if len(self._held) > self.MOST_HELD:
            self._held.popleft()
            self._lost += 1
        if time.monotonic() >= self._next_try:
            self._deliver()

    def close(self, *, finished: bool) -> None:
        """Try for the last time, and tell what is lost."""
        if self._held or self._tracker is None:
            self._deliver()
        try:
            if self._tracker is not None:
                self._tracker.close(finished=finished)
        except Exception as error:
            self._say(f"{self._name}: cannot be closed ({_reason(error)}); its last records may be missing")
        lost = self._lost + len(self._held)
        if lost:
            self._say(f"{self._name}: {lost:,} record{'s' if lost > 1 else ''} could not be written")

    def _deliver(self) -> None:
        try:
            if self._tracker is None:
                self._tracker = self._opened()
            while self._held:
                self._tracker.log(self._held[0])
                self._held.popleft()
        except Exception as error:
            self._next_try = time.monotonic() + self.RETRY_S
            if not self._failing:
                self._say(
                    f"{self._name}: cannot be written ({_reason(error)}). Training goes on; what is logged is held, "
                    f"and tried again every {self.RETRY_S:.0f} s and at the end"
                )
            self._failing = True
            return
        if self._failing:
            self._say(f"{self._name}: can be written again")
        self._failing = False


def open_trackers(config: RecapConfig, step: int, say: Callable[[str], None]) -> "Trackers":
    """The trackers of a run, continued after `step`; `say` is told of those that fail.

    Raises InputError where the package of one is not installed.
    """
    save_dir, mlflow = Path(config.training.save_dir), config.training.mlflow
    opened: dict[str, Callable[[], Tracker]] = {
        "metrics.jsonl": lambda: JsonLines(save_dir / "metrics.jsonl", step),
        "TensorBoard": lambda: TensorBoard(save_dir / "tensorboard", step),
    }
    if mlflow is not None:
        if find_spec("mlflow") is None:
            raise InputError(
                "training.mlflow: the package mlflow is not installed; pip install 'recap[mlflow]', or leave it out"
            )
        opened["MLflow"] = lambda: Mlflow(mlflow, config, save_dir)
    return Trackers([Guarded(name, each, say) for name, each in opened.items()])


class Trackers:
    """Several trackers as one; none of them raises."""

    def __init__(self, trackers: Sequence[Guarded]) -> None:
        self._trackers = trackers

    def log(self, record: Record) -> None:
        """Hand the record to each."""
        for tracker in self._trackers:
            tracker.log(record)

    def close(self, *, finished: bool) -> None:
        """Close each; `finished`: no step of the run is left."""
        for tracker in self._trackers:
            tracker.close(finished=finished)


def named_values(record: Record, within: str = "/") -> Iterator[tuple[str, float | int]]:
    """The numbers of a record, named `split/value` or `split/task/value`; `within` parts the words of a value."""
    for name, value in record.items():
        if isinstance(value, int | float) and name != "step":
            task = f"{record['task']}/" if "task" in record else ""
            yield f"{record['split']}/{task}{name.replace('/', within)}", value


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """The values of a configuration by dotted path, as text; a list is one value."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _flat(item, f"{path}.{key}" if path else str(key))
    else:
        yield path, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _allowed(name: str) -> str:
    """A name with the letters that MLflow allows in one."""
    return "".join(letter if letter.isalnum() or letter in "_-. /" else "_" for letter in name)


def _reason(error: Exception) -> str:
    """What went wrong, in a line that is not too long."""
    text = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _LONG else f"{text[:_LONG]}…"


_LONG = 200


def _lines(path: Path) -> list[str]:
    """The whole lines of a file; a last line without its end, cut by a kill, does not count."""
    if not path.exists():
        return []
    text = path.read_text(errors="replace")
    return text[: text.rfind("\n") + 1].splitlines()


def _has_step_until(line: str, step: int) -> bool:
    """Whether a line is a record of `step` or before; a crash of the machine may leave lines that are none."""
    try:
        return bool(json.loads(line)["step"] <= step)
    except (ValueError, KeyError, TypeError):
        return False
