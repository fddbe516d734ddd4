"""Where the numbers of a run go: files and TensorBoard (trackers), and the person watching (reporter).

A record is one flat mapping: `step`, `split`, `task` for metrics of one, and named values.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from torch.utils.tensorboard import SummaryWriter

from recap.config.recap import RecapConfig

Record = Mapping[str, float | int | str | None]


class Tracker(Protocol):
    """Receives the records of a run, in order of steps."""

    def log(self, record: Record) -> None:
        """Take one record."""

    def close(self) -> None:
        """Write what is still held back."""


class Reporter(Protocol):
    """Tells a person how a run goes while it goes."""

    def start(self, config: RecapConfig, step: int, steps: int, train_rows: int) -> None:
        """The run begins, or goes on, after `step`; there will be so many `steps` in all."""

    def advance(self, step: int, loss: float, examples: int) -> None:
        """An optimizer step over `examples` rows is done."""

    def logged(self, record: Record) -> None:
        """Training losses were logged."""

    def evaluated(self, step: int, split: str, evaluation: Mapping[str, Mapping[str, float]]) -> None:
        """A validation set was evaluated: task → metric → value."""

    def say(self, text: str) -> None:
        """Something a person should know."""

    def stop(self) -> None:
        """The run ends, well or not."""


class Silent:
    """A reporter that tells nothing: that of all ranks but the first."""

    def start(self, config: RecapConfig, step: int, steps: int, train_rows: int) -> None:
        """Nothing."""

    def advance(self, step: int, loss: float, examples: int) -> None:
        """Nothing."""

    def logged(self, record: Record) -> None:
        """Nothing."""

    def evaluated(self, step: int, split: str, evaluation: Mapping[str, Mapping[str, float]]) -> None:
        """Nothing."""

    def say(self, text: str) -> None:
        """Nothing."""

    def stop(self) -> None:
        """Nothing."""


class JsonLines:
    """`metrics.jsonl`: a JSON object a line, written through at once."""

    def __init__(self, path: Path, step: int) -> None:
        """Continue after `step`: lines of later steps, left by a killed run, are dropped."""
        kept = [line for line in _lines(path) if json.loads(line)["step"] <= step]
        temporary = path.with_name(path.name + ".tmp")
        temporary.write_text("".join(f"{line}\n" for line in kept))
        temporary.replace(path)
        self._file = path.open("a", buffering=1)

    def log(self, record: Record) -> None:
        """Append one line."""
        self._file.write(json.dumps(record) + "\n")

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class TensorBoard:
    """TensorBoard events: a scalar for each value, named `split/value` or `split/task/value`."""

    def __init__(self, folder: Path, step: int) -> None:
        """Continue after `step`: what a killed run wrote for later steps is purged from view."""
        self._writer = SummaryWriter(str(folder), purge_step=step + 1)

    def log(self, record: Record) -> None:
        """Write the numbers of the record."""
        for name, value in record.items():
            if isinstance(value, int | float) and name != "step":
                task = f"{record['task']}/" if "task" in record else ""
                self._writer.add_scalar(f"{record['split']}/{task}{name}", value, int(record["step"] or 0))

    def close(self) -> None:
        """Flush and close."""
        self._writer.close()


def open_trackers(save_dir: Path, step: int) -> "Trackers":
    """The trackers every run has, continued after `step`."""
    return Trackers([JsonLines(save_dir / "metrics.jsonl", step), TensorBoard(save_dir / "tensorboard", step)])


class Trackers:
    """Several trackers as one."""

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self._trackers = trackers

    def log(self, record: Record) -> None:
        """Hand the record to each."""
        for tracker in self._trackers:
            tracker.log(record)

    def close(self) -> None:
        """Close each."""
        for tracker in self._trackers:
            tracker.close()


def _lines(path: Path) -> list[str]:
    """The whole lines of a file; a last line without its end, cut by a kill, does not count."""
    if not path.exists():
        return []
    text = path.read_text()
    return text[: text.rfind("\n") + 1].splitlines()
