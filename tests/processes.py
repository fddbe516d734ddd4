"""`recap` in a process of its own, forked from one that has imported torch and recap, which takes seconds."""

import os
import sys
from multiprocessing import get_context
from pathlib import Path
from subprocess import CompletedProcess
from tempfile import TemporaryDirectory

from recap.cli.main import main

_IMPORTED = (
    "processes",
    "recap.cli.terminal.console",
    "recap.data.tools.convert",
    "recap.inference.files",
    "recap.training.trainer",
)
_CONTEXT = get_context("forkserver")
_CONTEXT.set_forkserver_preload(list(_IMPORTED))


def run_recap(*arguments: str | Path, folder: Path | None = None, **environment: str) -> CompletedProcess[str]:
    """Run a command to its end, in `folder`, with `environment` added to that of this process."""
    line = [*map(str, arguments)]
    with TemporaryDirectory() as written:
        output, errors = (Path(written) / name for name in ("output", "errors"))
        where = (folder or Path.cwd(), os.environ | environment, output, errors)
        process = _CONTEXT.Process(target=_run, args=(line, *where))
        process.start()
        process.join()
        assert process.exitcode is not None
        return CompletedProcess(line, process.exitcode, output.read_text(), errors.read_text())


def _run(arguments: list[str], folder: Path, environment: dict[str, str], output: Path, errors: Path) -> None:
    for number, path in ((1, output), (2, errors)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["recap", *arguments]
    main()
