"""`recap data aggregate`: the log with its aggregates, the state from which a server looks them up, or both."""

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from recap.config.aggregates.spec import AggregatesConfig
from recap.data.aggregate.events import KeyRows
from recap.data.aggregate.log import Integers, Log, LogRows
from recap.data.aggregate.shuffle import Shuffle
from recap.data.aggregate.state_writer import StateWriter, check_state
from recap.data.aggregate.value_writer import ValueWriter, value_files
from recap.data.formats.tables import TableFiles
from recap.storage import locked, writing


class Writer(Protocol):
    """What is made of a log: it sees all rows first, in their order, and then the rows of each key together."""

    def add(self, rows: LogRows) -> None: ...

    def take(self, key: str, numbers: Integers, rows: KeyRows) -> None: ...

    def finish(self) -> None: ...


@dataclass(frozen=True)
class Written:
    """What was written of a log."""

    files: list[Path]
    """With aggregates."""
    at: int | None
    """The time of the state, in microseconds since 1970; None without one."""
    rows: Mapping[str, int]
    """Key → its rows in the state."""


def aggregate_files(
    spec: AggregatesConfig,
    inputs: Sequence[str],
    output: Path | None = None,
    schema_path: str | None = None,
    *,
    state: Path | None = None,
    at: int | None = None,
    overwrite: bool = False,
    after_rows: Callable[[int], None] = lambda rows: None,
) -> Written:
    """Write each file of the log below `output` with the columns of `spec`, the state into the folder `state`, or both.

    Rows keep their order, and files their path below their common folder. The state is that of the log at `at`
    (microseconds; default: after its last row), without rows at or after it. All files appear together, when they are
    complete. Raises DataError for a log that cannot be read, lacks columns, or has no row before `at`; InputError for
    outputs that exist, would replace their input, or that another process writes; RunError if a file cannot be written.
    """
    files = TableFiles.open(inputs, schema_path)
    log = Log(files, spec)
    outputs = {} if output is None else value_files(files, spec, output, overwrite=overwrite)
    if state is not None:
        check_state(state, output, overwrite=overwrite)
    target = state if output is None else output
    assert target is not None, "something is to be written"
    folders = [*(file.parent for file in outputs.values()), *([] if state is None else [state.parent])]
    with _tidied(folders), scratch_folder(target) as scratch, ExitStack() as together:
        values = None if output is None else ValueWriter(spec, files, outputs, scratch, together)
        states = None if state is None else StateWriter(spec, state, at, together)
        _feed([writer for writer in (values, states) if writer is not None], spec, log, scratch, after_rows)
    return Written([*outputs.values()], *((None, {}) if states is None else (states.at, states.rows)))


def _feed(
    writers: Sequence[Writer], spec: AggregatesConfig, log: Log, scratch: Path, after_rows: Callable[[int], None]
) -> None:
    """Read the log once, for all writers."""
    shuffle = Shuffle(log, spec, scratch)

    def add(rows: LogRows) -> None:
        for writer in writers:
            writer.add(rows)

    shuffle.fill(log, add, after_rows)
    for key in spec.keys:
        for part in range(shuffle.parts[key]):
            numbers, rows = shuffle.take(key, part)
            for writer in writers:
                writer.take(key, numbers, rows)
    for writer in writers:
        writer.finish()


@contextmanager
def _tidied(folders: Iterable[Path]) -> Iterator[None]:
    """If the block fails, delete what it made of `folders` and the folders that they are in, where it is empty."""
    around = {each for folder in folders for each in (folder, *folder.parents)}
    missing = sorted((each for each in around if not each.exists()), key=lambda each: len(each.parts), reverse=True)
    try:
        yield
    except BaseException:
        for each in missing:
            with suppress(OSError):  # not made, or another process writes there
                each.rmdir()
        raise


@contextmanager
def scratch_folder(target: Path) -> Iterator[Path]:
    """A folder beside `target`, on the same disk, which is deleted at the end; that of a killed command is emptied.

    Raises InputError while another process has it, RunError if it cannot be written.
    """
    folder = target.absolute().parent / f".{target.absolute().name}.shuffle"
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder, f"another process writes {target}; wait for it, or choose another folder"):
            for file in folder.iterdir():
                file.unlink()
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)
