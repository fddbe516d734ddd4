"""Rivals: other programs that learn from the data of a row. Each writes a file of predictions, which is evaluated."""

import json
from collections.abc import Sequence
from typing import Any, assert_never

from recap.boards.plan import Job
from recap.boards.record import Record
from recap.boards.rivals.command import run_command
from recap.boards.rivals.predictions import PREDICTIONS_FILE
from recap.boards.rivals.trees import fit_trees
from recap.config.evaluation.board import CommandConfig, LightgbmConfig, RivalConfig
from recap.config.file.load import stored_values
from recap.errors import InputError
from recap.reporting import Say
from recap.storage import replace_text, writing

_STARTED = "rival.json"
"""What the predictions in a folder depend on."""


def predict(job: Job, split: str, tasks: Sequence[str], metric: str, say: Say) -> Record | None:
    """Let the rival of `job` predict `split`, into `PREDICTIONS_FILE` of its folder; None if that is there already.

    `tasks`: those of the board. `metric`: what the rival should be good at. Raises InputError for predictions of other
    data or settings, RunError if the rival fails.
    """
    assert job.rival is not None
    started = job.folder / _STARTED
    asked = json.dumps(_asked(job, job.rival, split, tasks, metric), indent=1, sort_keys=True) + "\n"
    if (job.folder / PREDICTIONS_FILE).exists():
        if not started.exists() or started.read_text(encoding="utf-8") != asked:
            raise InputError(
                f"{job.folder}: holds predictions of other data or settings; rename the row, or delete its folder(s)"
            )
        say(f"{job.folder} is already finished: it has its predictions; nothing to do")
        return None
    with writing(job.folder):
        job.folder.mkdir(parents=True, exist_ok=True)
    replace_text(started, asked)
    match job.rival:
        case LightgbmConfig():
            return fit_trees(job, job.rival, split, tasks, metric, say)
        case CommandConfig():
            return run_command(job, job.rival, split, tasks, say)
        case _:
            assert_never(job.rival)


def _asked(job: Job, rival: RivalConfig, split: str, tasks: Sequence[str], metric: str) -> dict[str, Any]:
    """All that the predictions of a rival depend on. A program may read the whole configuration."""
    values: dict[str, Any] = stored_values(job.config)
    del values["training"]["save_dir"]
    if isinstance(rival, LightgbmConfig):
        data = {split: values["validation_data"][split]}
        values = {name: values[name] for name in ("features", "train_data")} | {"validation_data": data}
        values |= {"seed": job.seed, "metric": metric}
    return {"rival": rival.model_dump(mode="json"), "tasks": list(tasks), "split": split, "config": values}
