"""`recap evaluate`: evaluates a checkpoint of a run on its validation sets and writes `evaluation.json`."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from recap.config.base import dotted
from recap.config.file.load import stored_values, unread_secrets
from recap.config.recap import RecapConfig
from recap.data.coverage import check_known, describe, too_unknown
from recap.data.encoding.assets import Assets
from recap.data.open import open_split
from recap.data.sample import sampled_coverage
from recap.data.stream.batch_stream import BatchStream
from recap.errors import ConfigError
from recap.evaluation.asked import FREE_FEATURES, PLAIN, Asked, validated, with_other_data
from recap.evaluation.drift import drift, read_sample
from recap.evaluation.evaluate import evaluate
from recap.evaluation.metrics.estimate import Estimates
from recap.evaluation.observers.by_column import ByColumn
from recap.evaluation.observers.conflicts import conflicts, measures_conflicts
from recap.evaluation.observers.coverage import UnknownValues
from recap.evaluation.observers.gates import GateMeans
from recap.evaluation.observers.metrics import Metrics, intervals_of
from recap.evaluation.observers.observer import Observer
from recap.evaluation.observers.score import ScoreMetrics
from recap.evaluation.observers.strata import Strata
from recap.evaluation.observers.uncalibrated import Uncalibrated
from recap.evaluation.remarks import remarks, training_files
from recap.evaluation.result import SCORE, EvaluationReport, SplitResult
from recap.model.calibration import FittedCalibration
from recap.model.directory import open_model
from recap.model.scorer import Scorer
from recap.reporting import Say, say_to_stderr
from recap.runs import Run, Step, find_model_directory
from recap.runtime import Runtime, start_runtime
from recap.storage import MANIFEST
from recap.text import suggest

T = TypeVar("T")


def check_splits(config: RecapConfig, split: str | None) -> None:
    """Raise ConfigError if `config` has no validation sets, none named `split`, or ones with secrets of a run."""
    if split is not None and split not in list(config.validation_data):
        raise ConfigError(f"split: unknown split {split!r}. {suggest(str(split), list(config.validation_data))}")
    if not config.validation_data:
        raise ConfigError("validation_data: is empty; add a data set to evaluate on")
    for path in unread_secrets(config):
        if path[0] == "validation_data" and split in (None, path[1]):
            raise ConfigError(
                f"{dotted(path)}: is a secret of the run, whose stored configuration reads no environment; evaluate "
                "with the configuration file that it was trained with"
            )


def chosen_split(config: RecapConfig, split: str | None) -> str:
    """`split`, by default the first validation set. Raises ConfigError as `check_splits`."""
    check_splits(config, split)
    return split if split is not None else next(iter(config.validation_data))


def evaluation_config(asked: RecapConfig, trained: RecapConfig, folder: Path) -> RecapConfig:
    """Features and model of `trained`, in `folder`; data, metrics and number of batches of `asked`.

    Raises ConfigError if they do not fit together.
    """
    reports = asked.model_dump(include={"training", "validation_data", "which_metrics", "metrics", "strata", "slices"})
    values = trained.model_dump() | reports
    values["features"] |= {name: getattr(asked.features, name) for name in FREE_FEATURES}
    return validated(values, folder)


def max_batches(config: RecapConfig) -> int | None:
    """The maximum number of batches of an evaluation; None for all."""
    steps = config.training.num_eval_steps
    return steps if steps >= 0 else None


def evaluate_run(
    config: RecapConfig,
    run: Path,
    split: str | None = None,
    step: Step | None = None,
    say: Say = say_to_stderr,
    *,
    asked: Asked = PLAIN,
    output: Path | None = None,
    with_drift: bool = False,
) -> EvaluationReport:
    """Evaluate a checkpoint of `run` on the validation sets of `config`, or on one, or on other data.

    Features and model are those of the checkpoint; `config` gives data, metrics and number of batches. Writes
    `output`, by default the `evaluation.json` of the run if there is one, see `result_file`. `with_drift`: compare the
    rows with those of the training data. Raises ConfigError for an unknown split, CheckpointError for a missing step.
    """
    if split is not None or not asked.data:
        check_splits(config, split)
    if asked.data:
        config, split = with_other_data(config, asked, split), None
    folder = find_model_directory(run, step)
    model = open_model(folder)
    combined = evaluation_config(config, model.config, folder)
    runtime = start_runtime()
    scorer = model.scorer(combined, runtime.device)
    splits: dict[str, SplitResult] = {}
    inputs = stored_values(config)["validation_data"]
    for name in config.validation_data if split is None else [split]:
        stream = open_split(combined, model.assets, name, say)
        for text in training_files(combined, name, "this model"):
            say(text)
        result = evaluate_split(scorer, stream, combined, name, model.assets, runtime)
        if with_drift:
            samples = read_sample(combined, model.assets), read_sample(combined, model.assets, name)
            result = replace(result, drift=drift(combined, model.assets, scorer, *samples))
        splits[name] = replace(result, data=inputs[name]["source"]["inputs"])
    report = EvaluationReport(folder.name, splits, asked.overrides)
    file = result_file(run, asked, output)
    if file is not None:
        report.write(file, keep_others=split is not None and output is None)
    return report


def result_file(run: Path, asked: Asked, output: Path | None) -> Path | None:
    """The file of a result: `output`, or the `evaluation.json` of the run for an evaluation as its configuration says.

    None for other data or overrides, and for a model directory, whose files must not change.
    """
    if output is not None:
        return output
    return Run(run).evaluation_file if asked == PLAIN and not (run / MANIFEST).exists() else None


def _is_of(fitted: FittedCalibration, config: RecapConfig, split: str) -> bool:
    """Whether a calibration was fitted on the rows of `split`."""
    inputs = config.validation_data[split].model_dump(mode="json")["source"]["inputs"]
    return fitted.split == split and bool(fitted.data == inputs)


def evaluate_split(
    scorer: Scorer,
    stream: BatchStream,
    config: RecapConfig,
    split: str,
    assets: Assets,
    runtime: Runtime,
    others: Sequence[Observer] = (),
) -> SplitResult:
    """Everything that `recap evaluate` measures on one split. `others`: observers that see the same rows.

    Raises DataError for features with more unknown values than `features.max_unknown`.
    """
    metrics = Metrics(config, split, runtime.ranks)
    strata = Strata(config, split, assets, runtime.ranks, stream.source) if config.strata else None
    gates = GateMeans(scorer.ranker, runtime.ranks) if scorer.ranker.sharing.gates else None
    unknown = UnknownValues(stream.source.encoder, runtime.ranks)
    score = ScoreMetrics(config, runtime.ranks)
    uncalibrated = Uncalibrated(config, split, scorer, runtime.ranks)
    by_column = ByColumn(config, split, assets, stream.source, scorer, runtime.ranks)
    parts = (metrics, strata, gates, unknown, score, uncalibrated, by_column, *others)
    observers: list[Observer] = [observer for observer in parts if observer is not None]
    evaluate(scorer, stream, observers, max_batches(config))
    shares = _unknown_shares(unknown, stream, config.features.max_unknown, split)
    task_metrics, estimates, users, rows = metrics.computed
    of_columns = by_column.result()
    task_metrics = _merged(task_metrics, _values(of_columns.fields))
    estimates = _merged(estimates, of_columns.fields)
    of_score = score.result()
    of_all = {**estimates, SCORE: of_score.estimates} if of_score.estimates else estimates
    fitted_here = scorer.fitted is not None and _is_of(scorer.fitted.fitted, config, split)
    for _, text in remarks(split, task_metrics, estimates=estimates, fitted_here=fitted_here):
        stream.say(text)
    before = uncalibrated.result()
    fields_before = _values(of_columns.uncalibrated_fields)
    before = _merged(before, {task: fields_before.get(task, {}) for task in before})
    return SplitResult(
        task_metrics,
        strata.result() if strata is not None else {},
        gates.result() if gates is not None else {},
        conflicts(scorer.ranker, stream.restarted(), config, split, runtime) if measures_conflicts(config) else {},
        shares,
        intervals=intervals_of(of_all),
        users=users,
        rows=metrics.fingerprint,
        rows_by_task=rows,
        estimates=of_all,
        score=of_score.metrics,
        uncalibrated=before,
        slices=of_columns.slices,
    )


def _merged(first: Mapping[str, Mapping[str, T]], second: Mapping[str, Mapping[str, T]]) -> dict[str, dict[str, T]]:
    """The metrics of both, by task."""
    tasks = list(dict.fromkeys([*first, *second]))
    return {task: {**first.get(task, {}), **second.get(task, {})} for task in tasks}


def _values(estimates: Estimates) -> dict[str, dict[str, float]]:
    return {task: {name: item.value for name, item in items.items()} for task, items in estimates.items()}


def _unknown_shares(unknown: UnknownValues, stream: BatchStream, limit: float | None, split: str) -> dict[str, float]:
    """The shares of unknown values, largest first; the most striking ones are shown. Raises DataError above `limit`."""
    counts = unknown.result()
    text = describe(counts, unknown.coverage.rows)
    if text is not None:
        stream.say(f"{split}: {text}")
    if too_unknown(counts, limit):
        check_known(sampled_coverage(stream.source).result() if limit is None else counts, limit, split)
    shares = {count.feature: count.share for count in counts if count.blank}
    return dict(sorted(shares.items(), key=lambda item: -item[1]))
