"""A run of an MLflow server."""

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
from recap.tracking.record import named_values


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
    MAX_PARAMETERS = 100
    """In one request, of the server."""

    def __init__(self, mlflow: MlflowConfig, config: RecapConfig, run: Run) -> None:
        """Go on with the run that `run` knows of, or begin one."""
        for name, value in self.LIMITS.items():
            os.environ.setdefault(name, value)
        from mlflow.entities import Metric, Param
        from mlflow.tracking import MlflowClient

        self._metric = Metric
        self._client = MlflowClient(mlflow.tracking_uri)
        found = self._client.get_experiment_by_name(mlflow.experiment)
        experiment = found.experiment_id if found else self._client.create_experiment(mlflow.experiment)
        file = run.mlflow_file
        known = json.loads(file.read_text())["run_id"] if file.exists() else None
        if known is not None and self._is_run_of(known, experiment):
            self._run = known
            self._client.update_run(known, status="RUNNING")
            return
        self._run = self._client.create_run(experiment, run_name=mlflow.run_name or run.path.name).info.run_id
        # No secrets: a dumped configuration holds their references.
        parameters = [Param(_allowed(name), text) for name, text in _flat(yaml.safe_load(dump_config(config)))]
        for start in range(0, len(parameters), self.MAX_PARAMETERS):
            self._client.log_batch(self._run, params=parameters[start : start + self.MAX_PARAMETERS])
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
