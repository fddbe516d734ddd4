"""`recap` in a process of its own, forked from one that has imported torch and recap, which takes seconds."""

import os
import sys
import time
from collections.abc import Callable, Mapping
from multiprocessing import get_context
from pathlib import Path
from subprocess import CompletedProcess
from tempfile import mkdtemp
from types import MappingProxyType

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


class Command:
    """A command that has started, in `folder`, with `environment` added to that of this process.

    `prepare` is called in its process first, with its arguments.
    """

    def __init__(
        self,
        *arguments: str | Path,
        folder: Path | None = None,
        prepare: Callable[..., None] | None = None,
        prepared: tuple[object, ...] = (),
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.line = [*map(str, arguments)]
        written = Path(mkdtemp(prefix="recap-command-"))
        self.output, self.errors = written / "output", written / "errors"
        where = (folder or Path.cwd(), os.environ | dict(environment), self.output, self.errors)
        self._process = _CONTEXT.Process(target=_run, args=(self.line, *where, prepare, prepared))
        self._process.start()

    @property
    def is_running(self) -> bool:
        return self._process.is_alive()

    def send_signal(self, number: int) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def wait_for(self, text: str) -> None:
        """Wait until the command prints a text."""
        while not (self.output.exists() and text in self.output.read_text()):
            assert self.is_running, self.errors.read_text()
            time.sleep(0.005)

    def wait(self) -> CompletedProcess[str]:
        """Wait for its end."""
        self._process.join()
        assert self._process.exitcode is not None
        return CompletedProcess(self.line, self._process.exitcode, self.output.read_text(), self.errors.read_text())


def run_recap(*arguments: str | Path, folder: Path | None = None, **environment: str) -> CompletedProcess[str]:
    """Run a command to its end."""
    return Command(*arguments, folder=folder, environment=environment).wait()


def _run(
    arguments: list[str],
    folder: Path,
    environment: dict[str, str],
    output: Path,
    errors: Path,
    prepare: Callable[..., None] | None,
    prepared: tuple[object, ...],
) -> None:
    for number, path in ((2, errors), (1, output)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["recap", *arguments]
    if prepare is not None:
        prepare(*prepared)
    main()
