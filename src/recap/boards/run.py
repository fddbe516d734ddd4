"""`recap board`: trains and evaluates the unfinished runs of a board, and writes its page after each."""

import gc
import json
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

from recap.boards.chart import write_chart
from recap.boards.environment import Environment
from recap.boards.page import content, page
from recap.boards.plan import Job, Plan
from recap.boards.record import PREDICTIONS, Record, training_pace
from recap.boards.results import Finished, Results, RowResults
from recap.boards.rivals import predict
from recap.boards.rivals.predictions import PREDICTIONS_FILE, evaluate_predictions
from recap.config.evaluation.board import BoardConfig
from recap.config.file.environment import hide
from recap.config.file.load import stored_values
from recap.config.recap import RecapConfig
from recap.data.tools.outputs import check_folder
from recap.errors import ChangedRun, CheckpointError, InputError, Interrupted, RecapError
from recap.evaluation.asked import FREE_FEATURES
from recap.evaluation.result import EvaluationReport, SplitResult
from recap.evaluation.run import evaluate_run
from recap.model.directory import open_model
from recap.reporting import Reporter, Say
from recap.runs import BEST, Run, RunResult
from recap.storage import locked, replace_text, writing
from recap.training.trainer import train

PAGE, CONTENT = "board.md", "board.json"


def run_board(plan: Plan, folder: Path, reporter: Reporter, command: str) -> Results:
    """Run what is not finished yet; write the page, its numbers and its chart into `folder` after each run.

    A run that fails is shown as failed, and the others go on. `command`: to be recorded. Raises InputError for a folder
    that cannot be used, or while another process runs the board, Interrupted after a signal.
    """
    check_folder(folder)
    records = plan.runs / "records"
    for path in (records, folder):
        with writing(path):
            path.mkdir(parents=True, exist_ok=True)
    results = Results({name: RowResults() for name in plan.config.rows}, len(plan.jobs))
    environment = Environment.here(plan.file)
    with locked(records, "another process runs a board in this folder; wait for it, or choose other runs"):
        jobs = sorted(plan.jobs, key=lambda job: not job.is_finished)  # what is there first, so no page lacks it
        for number, job in enumerate(jobs, start=1):
            is_new = not job.is_finished
            reporter.say(f"{job.name} ({number} of {len(jobs)})")
            row = results.rows[job.row]
            try:
                row.finished[job.seed] = _finished(plan.config, job, environment, reporter)
            except Interrupted:
                raise
            except Exception as error:  # one run must not end a night of runs
                reason = str(error) if isinstance(error, RecapError) else f"{type(error).__name__}: {error}"
                row.failed[job.seed] = hide(reason)
                reporter.say(f"failed: {row.failed[job.seed]}")
            if is_new or number == len(jobs):
                _write(plan, results, folder, command)
            gc.collect()  # free the model of the run before the next one is built
    return results


def _write(plan: Plan, results: Results, folder: Path, command: str) -> None:
    replace_text(folder / CONTENT, content(plan, results, command))
    replace_text(folder / PAGE, page(plan, results, command))
    write_chart(plan.config, results, folder)


def _finished(board: BoardConfig, job: Job, environment: Environment, reporter: Reporter) -> Finished:
    """Train and evaluate one run, as far as that is not done yet."""
    if not job.folder.exists():
        job.record.unlink(missing_ok=True)  # of a run that was deleted, which must not pass for that of a new one
    before = Record.read(job.record)
    if job.rival is None:
        record, is_new = _trained(board, job, before, environment, reporter)
    else:
        new = predict(job, board.split, board.tasks, board.metrics[0], reporter.say)
        record, is_new = _at(new, environment) if new is not None else before or Record(PREDICTIONS), new is not None
    file = job.record.with_suffix(".evaluation.json")
    record = replace(record, evaluated=_evaluated_by(board, job.config))
    if is_new or before is None or before.evaluated not in (None, record.evaluated):
        file.unlink(missing_ok=True)  # of an earlier run of this name, or of other data
    if record != before:
        record.write(job.record)
    result = _evaluated_before(file, board, record.model)
    if result is None:
        result = _evaluated(board, job, record, file, reporter.say)
    return Finished(record, result)


def _trained(
    board: BoardConfig, job: Job, before: Record | None, environment: Environment, reporter: Reporter
) -> tuple[Record, bool]:
    """The record of a run, which is trained unless it is finished; and whether it was trained now."""
    done = _train(job, reporter)
    folder = done.run.checkpoint(BEST if board.best else None)
    if before is not None and not done.trained:
        return replace(before, model=folder.name), False
    pace = training_pace(done.run.metrics, job.config.train_data.rows_per_step)
    seconds, speed = pace if pace is not None else (None, None)
    parameters = sum(parameter.numel() for parameter in open_model(folder).ranker.parameters())
    record = Record(folder.name, seconds, speed, parameters)
    return (_at(record, environment), True) if done.trained else (record, False)


def _train(job: Job, reporter: Reporter) -> RunResult:
    try:
        return train(job.config, reporter)
    except ChangedRun as error:
        changed = "its configuration changed after it began; undo this, rename the row, or delete its folder(s)"
        lines = "\n".join(f"  {change}" for change in error.changes)
        raise CheckpointError(f"{job.folder}: {changed}:\n{lines}") from None


def _at(record: Record, environment: Environment) -> Record:
    """`record`, finished now and here."""
    at = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return replace(record, finished=at, environment=environment)


def _evaluated_before(file: Path, board: BoardConfig, model: str) -> SplitResult | None:
    """The result in `file`, if it is that of `model` and has what the board shows."""
    try:
        report = EvaluationReport.read_estimates(file)
    except InputError:
        return None
    result = report.splits.get(board.split)
    if result is None or report.model != model or {*result.metrics} != {*board.tasks} or not result.estimates:
        return None
    shown = all(metric in values for values in result.metrics.values() for metric in board.metrics)
    return result if shown else None


def _evaluated(board: BoardConfig, job: Job, record: Record, file: Path, say: Say) -> SplitResult:
    """The metrics of the board on its split; written to `file`, so that they are not computed again."""
    config = _of_board(board, job.config)
    if job.rival is not None:
        result = evaluate_predictions(config, job.folder / PREDICTIONS_FILE, board.split, say)
        EvaluationReport(record.model, {board.split: result}).write(file)
        return result
    step = int(record.model.removeprefix("step_"))
    return evaluate_run(config, Run(job.folder).path, board.split, step, say, output=file).splits[board.split]


def _evaluated_by(board: BoardConfig, config: RecapConfig) -> str:
    """A digest of what an evaluation reads of a configuration."""
    values = stored_values(_of_board(board, config))  # without nulls
    read = [values["validation_data"][board.split], values["which_metrics"], values["metrics"]]
    read += [values["training"]["num_eval_steps"], *(values["features"].get(name) for name in FREE_FEATURES)]
    return sha256(json.dumps(read, sort_keys=True).encode()).hexdigest()


def _of_board(board: BoardConfig, config: RecapConfig) -> RecapConfig:
    """`config` with the tasks and metrics of the board, so that all rows are evaluated alike."""
    split = config.validation_data[board.split].model_copy(update={"evaluation_tasks": list(board.tasks)})
    return config.model_copy(
        update={
            "training": config.training.model_copy(update={"watch": None}),  # which may name other tasks
            "validation_data": {**config.validation_data, board.split: split},
            "which_metrics": list(board.metrics),
            "metrics": config.metrics.model_copy(update={"fields": []}),
            "strata": {},
            "slices": None,
        }
    )
