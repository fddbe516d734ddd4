"""A rival that is a program: it trains by itself, and writes its predictions."""

import subprocess
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from recap.boards.plan import Job
from recap.boards.record import PREDICTIONS, Record
from recap.boards.rivals.predictions import PREDICTIONS_FILE, read_predictions
from recap.config.evaluation.board import CommandConfig
from recap.config.file.load import dump_config
from recap.data.encoding.assets import load_assets
from recap.data.open import open_split
from recap.errors import RunError
from recap.reporting import Say
from recap.storage import atomic_write, replace_text, writing

_CONFIG, _LOG = "config.yaml", "log.txt"
_SHOWN_LINES = 5


def run_command(job: Job, rival: CommandConfig, split: str, tasks: Sequence[str], say: Say) -> Record:
    """Run the program of a rival, with its output in `log.txt` of the folder of the run.

    It is given `--config FILE`, the resolved configuration, `--split NAME` and `--output FILE`. Raises RunError if it
    cannot be started, fails, or writes something else than predictions.
    """
    replace_text(job.folder / _CONFIG, dump_config(job.config))
    rows = open_split(job.config, load_assets(job.config.features), split, say).order.rows
    log, started = job.folder / _LOG, time.monotonic()
    with writing(job.folder / PREDICTIONS_FILE) as file, atomic_write(file) as temporary:
        command = [*rival.command, "--config", str(job.folder / _CONFIG), "--split", split, "--output", str(temporary)]
        say(f"running {rival.command[0]}; its output is in {log}")
        code = _run(command, log)
        if code:
            raise RunError(f"{rival.command[0]}: failed with exit code {code}; the end of {log}:\n{_end_of(log)}")
        if not temporary.is_file():
            raise RunError(f"{rival.command[0]}: did not write the file of --output, {temporary}; see {log}")
        read_predictions(temporary, job.config, tasks, split, rows)
    return Record(PREDICTIONS, seconds=time.monotonic() - started)


def _run(command: Sequence[str], log: Path) -> int:
    """The exit code of a program, which does not outlive this process's interest in it."""
    with log.open("wb") as stream:
        try:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise RunError(f"{command[0]}: cannot be started ({reason}); check rival.command") from None
        try:
            return process.wait()
        except BaseException:  # a signal ends this command
            process.terminate()
            process.wait()
            raise


def _end_of(log: Path) -> str:
    lines = deque(log.read_text(encoding="utf-8", errors="replace").splitlines(), _SHOWN_LINES)
    return "\n".join(f"  {line[:300]}" for line in lines)
