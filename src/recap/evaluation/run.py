"""`recap evaluate`: evaluates a checkpoint of a run on its validation sets and writes `evaluation.json`."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from recap.config.base import dotted
from recap.config.file.load import dump_config, stored_values, unread_secrets
from recap.config.recap import RecapConfig
from recap.data.coverage import check_known, describe, too_unknown
from recap.data.encoding.assets import Assets
from recap.data.open import open_split
from recap.data.sample import sampled_coverage
from recap.data.stream.batch_stream import BatchStream
from recap.distributed import ONE_RANK, Ranks
from recap.errors import ConfigError
from recap.evaluation.asked import FREE_FEATURES, PLAIN, Asked, validated, with_other_data
from recap.evaluation.drift import drift, read_sample
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
from recap.evaluation.over_ranks import evaluate_over_ranks
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
    ranks: Ranks = ONE_RANK,
) -> EvaluationReport:
    """Evaluate a checkpoint of `run` on the validation sets of `config`, or on one, or on other data.

    Features and model are those of the checkpoint; `config` gives data, metrics and number of batches. Writes
    `output`, by default the `evaluation.json` of the run if there is one, see `result_file`. `with_drift`: compare the
    rows with those of the training data. Under torchrun every rank calls it and scores a share of the rows; rank 0
    writes and has the report, which is empty on the others. Raises ConfigError for an unknown split, CheckpointError
    for a missing step.
    """
    if split is not None or not asked.data:
        check_splits(config, split)
    if asked.data:
        config, split = with_other_data(config, asked, split), None
    folder = chosen_model(run, step, ranks)
    model = open_model(folder)
    combined = evaluation_config(config, model.config, folder)
    ranks.check_equal({"the configuration": dump_config(combined), "the model": (folder / MANIFEST).read_text()})
    runtime = start_runtime(ranks)
    scorer = model.scorer(combined, runtime.device)
    splits: dict[str, SplitResult] = {}
    inputs = stored_values(config)["validation_data"]
    for name in config.validation_data if split is None else [split]:
        stream = open_split(combined, model.assets, name, say if ranks.is_first else quiet)
        ranks.check_equal({f"the files of {name}": str(stream.source.contents)})
        if not ranks.is_first:
            _score_share(scorer, stream, combined, ranks)
        else:
            for text in training_files(combined, name, "this model"):
                say(text)
            result = evaluate_split(scorer, stream, combined, name, model.assets, runtime)
            splits[name] = replace(result, data=inputs[name]["source"]["inputs"])
        if with_drift:
            samples = read_sample(combined, model.assets), read_sample(combined, model.assets, name)
            shift = drift(combined, model.assets, scorer, *samples, ranks=ranks)
            if ranks.is_first:
                splits[name] = replace(splits[name], drift=shift)
    report = EvaluationReport(folder.name, splits, asked.overrides)
    file = result_file(run, asked, output)
    if file is not None and ranks.is_first:
        report.write(file, keep_others=split is not None and output is None)
    ranks.gather("evaluated", None)  # rank 0 may compute for a while after the last rows
    return report


def quiet(text: str) -> None:
    """`Say` of ranks that do not report."""


def chosen_model(run: Path, step: Step | None, ranks: Ranks) -> Path:
    """As `find_model_directory`, the same on all ranks, even if a training writes checkpoints meanwhile."""
    return Path(ranks.broadcast_object(str(find_model_directory(run, step)) if ranks.is_first else None))


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

    On rank 0, for all ranks of `runtime`; the other ranks call `_score_share` instead, and then there are no `others`.
    Raises DataError for features with more unknown values than `features.max_unknown`.
    """
    unknown, gates, own = _own_observers(scorer, stream, runtime.ranks)
    metrics = Metrics(config, split, ONE_RANK)
    strata = Strata(config, split, assets, ONE_RANK, stream.source) if config.strata else None
    score = ScoreMetrics(config, ONE_RANK)
    uncalibrated = Uncalibrated(config, split, scorer, ONE_RANK)
    by_column = ByColumn(config, split, assets, stream.source, scorer, ONE_RANK)
    parts = (metrics, strata, score, uncalibrated, by_column, *others)
    first: list[Observer] = [observer for observer in parts if observer is not None]
    features = _reads_features(config)
    evaluate_over_ranks(scorer, stream, runtime.ranks, own, first, max_batches(config), features=features)
    shares = _unknown_shares(unknown, stream, config.features.max_unknown, split)
    gate_means = gates.result() if gates is not None else {}
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
        gate_means,
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


def _score_share(scorer: Scorer, stream: BatchStream, config: RecapConfig, ranks: Ranks) -> None:
    """The part of a rank above 0 in `evaluate_split`."""
    unknown, gates, own = _own_observers(scorer, stream, ranks)
    evaluate_over_ranks(scorer, stream, ranks, own, [], max_batches(config), features=_reads_features(config))
    unknown.result()
    if gates is not None:
        gates.result()


def _own_observers(
    scorer: Scorer, stream: BatchStream, ranks: Ranks
) -> tuple[UnknownValues, GateMeans | None, list[Observer]]:
    """What each rank counts of its rows, and both as a list. They read all features, which are not sent to rank 0."""
    unknown = UnknownValues(stream.source.encoder, ranks)
    gates = GateMeans(scorer.ranker, ranks) if scorer.ranker.sharing.gates else None
    return unknown, gates, [unknown] if gates is None else [unknown, gates]


def _reads_features(config: RecapConfig) -> bool:
    """Whether an observer of `evaluate_split` selects rows by their features."""
    return bool(config.strata or config.metrics.fields) or config.slices is not None


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
