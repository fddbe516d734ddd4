"""Repeatedly runs `recap train CONFIG` in processes that are killed; a script, so that it imports recap only once.

    python killing.py CONFIG KILL...

KILL is a number N: SIGKILL before the N-th change to the run's checkpoints (a file opened for writing or syncing, a
folder made, anything renamed or deleted); `half`: death in the middle of writing a file; or `after:STEP`: SIGKILL at a
random moment after the checkpoint of STEP. Prints a line per kill: the signal and the change that was about to happen.
Processes are forked before torch starts a thread.
"""

import importlib
import os
import random
import resource
import signal
import sys
import time
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

from recap.cli.main import app
from recap.config.file.load import load_config
from recap.runs import Run

IMPORTED = ("recap.training.trainer", "torch._dynamo")
"""Modules that a run imports late, which takes longer than the training."""
CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "open"}


def kill_before(change: int, pipe_end: int) -> None:
    """Kill this process before its change number `change`, and write that change to `pipe_end`."""
    left = change

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        # Files are read with a mode and synced by their descriptor, without one.
        if (
            event in CHANGES
            and "/checkpoints" in str(arguments[0])
            and (event != "open" or arguments[1] in (None, "w"))
        ):
            left -= 1
            if left == 0:
                what = f"sync {arguments[0]}" if event == "open" and arguments[1] is None else f"{event} {arguments[0]}"
                os.write(pipe_end, what.encode())
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def train(config: str, kill: str, pipe_end: int) -> None:
    """Train in a forked child, which kills itself."""
    if kill == "half":  # Python ignores the signal of a file that grows too large
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, -1))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    elif kill.isdigit():
        kill_before(int(kill), pipe_end)
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), suppress(SystemExit):
        app(["train", config])


def main(config: str, *kills: str) -> None:
    """Kill one process after another."""
    for module in IMPORTED:
        importlib.import_module(module)
    run, chance = Path(load_config(Path(config)).training.save_dir), random.Random(0)
    for kill in kills:
        reader, pipe_end = os.pipe()
        child = os.fork()
        if child == 0:
            train(config, kill, pipe_end)
            os._exit(0)
        os.close(pipe_end)
        if kill.startswith("after:"):
            while max(list(Run(run).checkpoints), default=0) < int(kill.removeprefix("after:")):
                time.sleep(0.001)
            time.sleep(chance.random() * 0.05)
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        with os.fdopen(reader) as pipe:
            what = pipe.read()
        assert os.WIFSIGNALED(status), f"{kill}: ended by itself"
        print(f"{signal.Signals(os.WTERMSIG(status)).name} {what or kill}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
