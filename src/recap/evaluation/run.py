"""The job mode `evaluate`: a run's checkpoint over its validation sets, into `evaluation.json`."""

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from recap.config.recap import JobMode, RecapConfig
from recap.data.open import open_stream, refuse_caches_that_do_not_fit
from recap.errors import ConfigError, InputError
from recap.evaluation.evaluate import Evaluation, evaluate, evaluated_tasks
from recap.evaluation.observers.conflicts import Conflicts, conflicts, measures_conflicts
from recap.evaluation.observers.gates import GateMeans, Gates
from recap.evaluation.observers.strata import Strata
from recap.model.directory import open_model
from recap.model.scorer import Scorer
from recap.reporting import Say, say_to_stderr
from recap.runs import Run, Step, find_model_directory
from recap.runtime import start_runtime
from recap.text import suggest


@dataclass(frozen=True)
class EvaluationReport:
    """What `evaluate_run` found and wrote."""

    model: Path
    splits: Mapping[str, Evaluation]
    gates: Mapping[str, Gates]
    """Of each split; empty for a model without gates."""
    file: Path
    strata: Mapping[str, Mapping[str, Evaluation]]
    """Split → stratum → what was found of its rows."""
    conflicts: Mapping[str, Conflicts]
    """By split, for a run that balances gradients."""


def check_splits(config: RecapConfig, split: str | None) -> None:
    """Raise ConfigError unless `config` has validation sets, and `split`, if it is given, is one of them."""
    if split is not None and split not in config.validation_data:
        raise ConfigError(f"--split: {split!r} is no validation set. {suggest(split, list(config.validation_data))}")
    if not config.validation_data:
        raise ConfigError("validation_data: is empty; name at least one data set to evaluate on")


def evaluation_config(asked: RecapConfig, trained: RecapConfig, folder: Path) -> RecapConfig:
    """Features and model as they were `trained` in `folder`; data, metrics and how many batches as `asked`.

    Raises ConfigError where the two do not fit.
    """
    reports = asked.model_dump(include={"training", "validation_data", "which_metrics", "metrics", "strata"})
    try:
        return RecapConfig.model_validate(trained.model_dump() | reports)
    except ValidationError as error:
        problems = "; ".join(str(item["msg"]) for item in error.errors())
        raise ConfigError(f"{folder}: the configuration does not fit the model trained there: {problems}") from None


def evaluate_run(
    config: RecapConfig, run: Path, split: str | None = None, step: Step | None = None, say: Say = say_to_stderr
) -> EvaluationReport:
    """Evaluate a checkpoint of `run` on the validation sets of `config`, or on one; write `evaluation.json` there.

    Features and model are those of the checkpoint; `config` says which data, metrics and how many batches. Raises
    ConfigError for a split it does not have, CheckpointError for a step that is not there.
    """
    check_splits(config, split)
    folder = find_model_directory(run, step)
    model = open_model(folder)
    combined = evaluation_config(config, model.config, folder)
    runtime = start_runtime()
    scorer = Scorer.of(combined, model.ranker.to(runtime.device))
    ranker = scorer.ranker
    splits: dict[str, Evaluation] = {}
    strata: dict[str, dict[str, Evaluation]] = {}
    gates: dict[str, Gates] = {}
    pulls: dict[str, Conflicts] = {}
    for name in config.validation_data if split is None else [split]:
        stream = open_stream(combined, model.assets, JobMode.EVALUATE, name, say)
        refuse_caches_that_do_not_fit({name: stream})
        means, by_stratum = GateMeans(ranker), Strata(combined, model.assets)
        splits[name] = evaluate(scorer, stream, combined, name, runtime, gates=means, strata=by_stratum)
        computed = by_stratum.compute().items()
        strata[name] = {stratum: evaluated_tasks(found, combined, name) for stratum, found in computed}
        if ranker.sharing.gates:
            gates[name] = means.compute()
        if measures_conflicts(combined):
            pulls[name] = conflicts(ranker, stream.restarted(), combined, name, runtime)
    file = Run(run).evaluation_file
    written: dict[str, Any] = {"model": folder.name, "splits": {name: _finite(found) for name, found in splits.items()}}
    if combined.strata:
        written["strata"] = {
            name: {stratum: _finite(of_stratum) for stratum, of_stratum in found.items()}
            for name, found in strata.items()
        }
    if gates:
        written["gates"] = {name: _finite(found) for name, found in gates.items()}
    if pulls:
        written["conflicts"] = {name: _finite(found) for name, found in pulls.items()}
    temporary = file.with_name(file.name + ".unfinished")
    try:
        temporary.write_text(json.dumps(written, indent=1) + "\n")
        temporary.replace(file)
    except OSError as error:
        raise InputError(f"{file}: cannot be written ({error.strerror})") from None
    finally:
        with suppress(OSError):
            temporary.unlink()
    return EvaluationReport(folder, splits, gates, file, strata, pulls)


def _finite(found: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float | None]]:
    """JSON has no NaN: what is undefined becomes null."""
    return {
        task: {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        for task, metrics in found.items()
    }
