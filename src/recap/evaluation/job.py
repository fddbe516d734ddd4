"""The job mode `evaluate`: a run's checkpoint over its validation sets, into `evaluation.json`."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from recap.config.keys import suggest
from recap.config.recap import JobMode, RecapConfig
from recap.data.stream import Say, open_stream, refuse_caches_that_do_not_fit, say_to_stderr
from recap.errors import ConfigError, InputError
from recap.evaluation.conflicts import Conflicts, conflicts, measures_conflicts
from recap.evaluation.evaluate import Evaluation, evaluate
from recap.model.saved import find_model_dir, open_model
from recap.runtime import start_runtime


@dataclass(frozen=True)
class EvaluationReport:
    """What `evaluate_run` found and wrote."""

    model: Path
    splits: Mapping[str, Evaluation]
    file: Path
    conflicts: Mapping[str, Conflicts]
    """By split, for a run that balances gradients."""


def evaluate_run(
    config: RecapConfig, run: Path, split: str | None = None, step: int | None = None, say: Say = say_to_stderr
) -> EvaluationReport:
    """Evaluate a checkpoint of `run` on the validation sets of `config`, or on one; write `evaluation.json` there.

    Features and model are those of the checkpoint; `config` says which data, metrics and how many batches. Raises
    ConfigError for a split it does not have, CheckpointError for a step that is not there.
    """
    if split is not None and split not in config.validation_data:
        raise ConfigError(f"--split: {split!r} is no validation set. {suggest(split, list(config.validation_data))}")
    if not config.validation_data:
        raise ConfigError("validation_data: is empty; name at least one data set to evaluate on")
    folder = find_model_dir(run, step)
    model = open_model(folder)
    asked = config.model_dump(include={"training", "validation_data", "which_metrics"})
    try:
        combined = RecapConfig.model_validate(model.config.model_dump() | asked)
    except ValidationError as error:
        problems = "; ".join(str(item["msg"]) for item in error.errors())
        raise ConfigError(f"{folder}: the configuration does not fit the model trained there: {problems}") from None
    runtime = start_runtime()
    ranker = model.ranker.to(runtime.device)
    splits: dict[str, Evaluation] = {}
    pulls: dict[str, Conflicts] = {}
    for name in config.validation_data if split is None else [split]:
        stream = open_stream(combined, model.assets, JobMode.EVALUATE, name, say)
        refuse_caches_that_do_not_fit({name: stream})
        splits[name] = evaluate(ranker, stream, combined, name, runtime)
        if measures_conflicts(combined):
            pulls[name] = conflicts(ranker, stream.restarted(), combined, name, runtime)
    file = run / "evaluation.json"
    written = {"model": folder.name, "splits": {name: _finite(found) for name, found in splits.items()}}
    if pulls:
        written["conflicts"] = {name: _finite(found) for name, found in pulls.items()}
    temporary = file.with_name(file.name + ".unfinished")
    try:
        temporary.write_text(json.dumps(written, indent=1) + "\n")
        temporary.replace(file)
    except OSError as error:
        raise InputError(f"{file}: cannot be written ({error.strerror})") from None
    return EvaluationReport(folder, splits, file, pulls)


def _finite(evaluation: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float | None]]:
    """JSON has no NaN: what is undefined becomes null."""
    return {
        task: {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        for task, metrics in evaluation.items()
    }
