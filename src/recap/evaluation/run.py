"""`recap evaluate`: evaluates a checkpoint of a run on its validation sets and writes `evaluation.json`."""

from pathlib import Path

from pydantic import ValidationError

from recap.config.recap import JobMode, RecapConfig
from recap.data.encoding.assets import Assets
from recap.data.open import check_caches_fit, open_stream
from recap.data.stream.batch_stream import BatchStream
from recap.errors import ConfigError
from recap.evaluation.evaluate import evaluate
from recap.evaluation.observers.conflicts import conflicts, measures_conflicts
from recap.evaluation.observers.gates import GateMeans
from recap.evaluation.observers.metrics import Metrics
from recap.evaluation.observers.observer import Observer
from recap.evaluation.observers.strata import Strata
from recap.evaluation.result import EvaluationReport, SplitResult
from recap.model.directory import open_model
from recap.model.scorer import Scorer
from recap.reporting import Say, say_to_stderr
from recap.runs import Run, Step, find_model_directory
from recap.runtime import Runtime, start_runtime
from recap.text import suggest


def check_splits(config: RecapConfig, split: str | None) -> None:
    """Raise ConfigError if `config` has no validation sets, or none named `split`."""
    if split is not None and split not in config.validation_data:
        raise ConfigError(f"split: unknown split {split!r}. {suggest(split, list(config.validation_data))}")
    if not config.validation_data:
        raise ConfigError("validation_data: is empty; add a data set to evaluate on")


def evaluation_config(asked: RecapConfig, trained: RecapConfig, folder: Path) -> RecapConfig:
    """Features and model of `trained`, in `folder`; data, metrics and number of batches of `asked`.

    Raises ConfigError if they do not fit together.
    """
    reports = asked.model_dump(include={"training", "validation_data", "which_metrics", "metrics", "strata"})
    try:
        return RecapConfig.model_validate(trained.model_dump() | reports)
    except ValidationError as error:
        problems = "; ".join(str(item["msg"]) for item in error.errors())
        raise ConfigError(f"{folder}: the configuration does not fit the model trained there: {problems}") from None


def max_batches(config: RecapConfig) -> int | None:
    """The maximum number of batches of an evaluation; None for all."""
    steps = config.training.num_eval_steps
    return steps if steps >= 0 else None


def evaluate_run(
    config: RecapConfig, run: Path, split: str | None = None, step: Step | None = None, say: Say = say_to_stderr
) -> EvaluationReport:
    """Evaluate a checkpoint of `run` on the validation sets of `config`, or on one; write `evaluation.json`.

    Features and model are those of the checkpoint; `config` gives data, metrics and number of batches. Raises
    ConfigError for an unknown split, CheckpointError for a missing step.
    """
    check_splits(config, split)
    folder = find_model_directory(run, step)
    model = open_model(folder)
    combined = evaluation_config(config, model.config, folder)
    runtime = start_runtime()
    scorer = Scorer.of(combined, model.ranker.to(runtime.device))
    splits: dict[str, SplitResult] = {}
    for name in config.validation_data if split is None else [split]:
        stream = open_stream(combined, model.assets, JobMode.EVALUATE, name, say)
        check_caches_fit({name: stream})
        splits[name] = evaluate_split(scorer, stream, combined, name, model.assets, runtime)
    report = EvaluationReport(folder.name, splits)
    report.write(Run(run))
    return report


def evaluate_split(
    scorer: Scorer, stream: BatchStream, config: RecapConfig, split: str, assets: Assets, runtime: Runtime
) -> SplitResult:
    """Everything that `recap evaluate` measures on one split."""
    metrics = Metrics(config, split, runtime.ranks)
    strata = Strata(config, split, assets, runtime.ranks) if config.strata else None
    gates = GateMeans(scorer.ranker, runtime.ranks) if scorer.ranker.sharing.gates else None
    observers: list[Observer] = [observer for observer in (metrics, strata, gates) if observer is not None]
    evaluate(scorer, stream, observers, max_batches(config))
    return SplitResult(
        metrics.result(),
        strata.result() if strata is not None else {},
        gates.result() if gates is not None else {},
        conflicts(scorer.ranker, stream.restarted(), config, split, runtime) if measures_conflicts(config) else {},
    )
