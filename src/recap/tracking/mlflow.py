"""Tracking with MLflow."""

import json
import os
import time
from collections.abc import Iterator
from typing import Any

import yaml

from recap.config.file.load import dump_config
from recap.config.recap import RecapConfig
from recap.config.training import MlflowConfig
from recap.reporting import Record
from recap.runs import Run
from recap.storage import atomic_write
from recap.tracking.record import named_values


class Mlflow:
    """A run of an MLflow server, through its client; its id is stored in `mlflow.json` of the recap run."""

    ENVIRONMENT = {
        # A missing server must not delay training; `Guarded` retries, so the client does not.
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",  # seconds
        "MLFLOW_ALLOW_FILE_STORE": "true",  # for a tracking_uri that is a folder
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # it would bypass the reporter, which hides secrets
    }
    """Environment variables of the client, unless they are set."""
    MAX_PARAMETERS = 100
    """The server's limit for one request."""

    def __init__(self, mlflow: MlflowConfig, config: RecapConfig, run: Run) -> None:
        """Continue the MLflow run of `run`, or create one."""
        for name, value in self.ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        from mlflow.entities import Metric, Param
        from mlflow.tracking import MlflowClient

        self._metric = Metric
        self._client = MlflowClient(mlflow.tracking_uri)
        existing = self._client.get_experiment_by_name(mlflow.experiment)
        experiment = existing.experiment_id if existing else self._client.create_experiment(mlflow.experiment)
        file = run.mlflow_file
        known = json.loads(file.read_text())["run_id"] if file.exists() else None
        if known is not None and self._is_run_of(known, experiment):
            self._run = known
            self._client.update_run(known, status="RUNNING")
            return
        self._run = self._client.create_run(experiment, run_name=mlflow.run_name or run.path.name).info.run_id
        # These contain no secrets: a dumped configuration has only references to them.
        parameters = [Param(_allowed(name), text) for name, text in _flat(yaml.safe_load(dump_config(config)))]
        for start in range(0, len(parameters), self.MAX_PARAMETERS):
            self._client.log_batch(self._run, params=parameters[start : start + self.MAX_PARAMETERS])
        with atomic_write(file) as temporary:
            temporary.write_text(json.dumps({"run_id": self._run}) + "\n")

    def _is_run_of(self, run: str, experiment: str) -> bool:
        """Whether the server has this run in this experiment, not deleted."""
        from mlflow.exceptions import MlflowException

        try:
            info = self._client.get_run(run).info
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise
        return bool(info.experiment_id == experiment and info.lifecycle_stage == "active")

    def log(self, record: Record) -> None:
        # Dots within a value's name, because a file store uses names as paths.
        now, step = int(time.time() * 1000), int(record["step"] or 0)
        metrics = [self._metric(_allowed(name), float(value), now, step) for name, value in named_values(record, ".")]
        self._client.log_batch(self._run, metrics=metrics)

    def close(self, *, finished: bool) -> None:
        self._client.set_terminated(self._run, "FINISHED" if finished else "KILLED")


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """The values of a configuration by key path, as text; a list is one value."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _flat(item, f"{path}.{key}" if path else str(key))
    else:
        yield path, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _allowed(name: str) -> str:
    """The name, with `_` for characters that MLflow does not allow."""
    return "".join(letter if letter.isalnum() or letter in "_-. /" else "_" for letter in name)
