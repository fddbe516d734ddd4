"""The record of an output folder: what made its predictions, which files are finished, and what was not scored.

`_predictions.jsonl` begins with the settings; then comes a line for each finished file. A killed job leaves it whole,
so that the next one continues. `_errors.jsonl` lists what could not be scored. Readers of folders ignore names that
begin with an underscore. Under torchrun each rank appends to files of its own, which rank 0 joins.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

from recap.errors import DataError, InputError
from recap.storage import AppendOnlyFile, atomic_write, writing

RECORD = "_predictions"
ERRORS = "_errors"
_SHOWN = 20
"""Characters of a setting that a message shows; longer ones, such as checksums, say nothing to a reader."""


class Unscored(NamedTuple):
    """A row, or without `row` a whole file, that was not scored."""

    file: str
    row: int | None
    column: str | None
    reason: str

    @classmethod
    def of(cls, file: str, row: int | None, error: DataError, before: str = "") -> Self:
        """With the reason of `error`, after the text `before`."""
        return cls(file, row, error.column, before + error.reason.removeprefix(f"{file}: "))


@dataclass(frozen=True)
class Finished:
    """A file whose predictions are complete."""

    input: str
    stamp: tuple[int, int]
    """Modification time (ns) and size (bytes) of the input."""
    output: str
    """Relative to the folder."""
    bytes: int
    rows: int
    unscored: int
    """Rows with null predictions."""

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """From a JSON object."""
        time, size = values["stamp"]
        return cls(**{**values, "stamp": (time, size)})

    @classmethod
    def parse(cls, line: str) -> Self | None:
        """From a line; None if it is damaged, as a crash of the machine may leave it."""
        try:
            return cls.of(json.loads(line))
        except (ValueError, TypeError, KeyError):
            return None


class Record:
    """The record in `folder` as one rank reads and appends to it."""

    def __init__(self, folder: Path, rank: int = 0) -> None:
        self.folder = folder
        self.settings: dict[str, str] | None = None
        """None if the folder has no record."""
        self.outputs: set[str] = set()
        """The files that recap wrote or began to write."""
        self.finished: dict[str, Finished] = {}
        """By output."""
        self._own = {name: _rank_file(folder, name, rank) for name in (RECORD, ERRORS)}
        self._streams: dict[str, AppendOnlyFile] = {}

    def read(self) -> None:
        """Read the files of all ranks. Raises InputError if the record is damaged."""
        file = _rank_file(self.folder, RECORD, 0)
        lines = _lines(file)
        first = next(lines, None)
        if first is None:
            return
        try:
            header = json.loads(first)
            self.settings, self.outputs = dict(header["settings"]), set(header["outputs"])
        except (ValueError, TypeError, KeyError):
            raise InputError(
                f"{file}: damaged, or not written by recap predict; remove it, or choose another --output"
            ) from None
        others = (line for other in _other_ranks(self.folder, RECORD) for line in _lines(other))
        for part in (lines, others):
            self.finished |= {done.output: done for done in map(Finished.parse, part) if done is not None}

    def differences(self, settings: Mapping[str, str]) -> list[str]:
        """The settings that differ from those of the predictions in the folder, as text."""
        old = self.settings or {}
        names = [name for name in {**settings, **old} if old.get(name) != settings.get(name)]
        return [_difference(name, old.get(name, "none"), settings.get(name, "none")) for name in names]

    def start(self, settings: Mapping[str, str], outputs: Sequence[str], finished: Sequence[Finished]) -> None:
        """Write the record anew, on rank 0: the `outputs` that belong to recap, and the `finished` ones of them.

        Raises RunError.
        """
        if self.settings is not None and dict(settings) != self.settings:
            self._remove_other_ranks()  # before the new settings are written: these lines are not theirs
        self.settings, self.outputs = dict(settings), self.outputs | set(outputs)
        self.finished = {done.output: done for done in finished}
        inputs = {done.input for done in finished}
        self._write(lambda file: file in inputs)

    def join(self) -> None:
        """Join the files of all ranks, on rank 0, when they have finished. Raises RunError."""
        if any(True for name in (RECORD, ERRORS) for _ in _other_ranks(self.folder, name)):
            self.read()
            self._write(lambda file: True)

    def add(self, done: Finished) -> None:
        """Append a finished file. Raises RunError."""
        self._append(RECORD, asdict(done))

    def add_error(self, error: Unscored) -> None:
        """Append what was not scored. Raises RunError."""
        self._append(ERRORS, error._asdict())

    @property
    def errors_file(self) -> Path:
        """The list of what was not scored."""
        return _rank_file(self.folder, ERRORS, 0)

    def close(self) -> None:
        """Close the files."""
        for stream in self._streams.values():
            stream.close()
        self._streams = {}

    def _append(self, name: str, value: Mapping[str, Any]) -> None:
        file = self._own[name]
        with writing(file):
            if name not in self._streams:
                self._streams[name] = AppendOnlyFile(file)
            self._streams[name].append(_line(value))

    def _write(self, belongs: Callable[[str], bool]) -> None:
        """Write the record, and the errors of the inputs that belong to it; then remove the files of other ranks."""
        self.close()
        lines = [_line({"settings": self.settings, "outputs": sorted(self.outputs)})]
        lines += [_line(asdict(done)) for done in self.finished.values()]
        with writing(_rank_file(self.folder, RECORD, 0)) as file, atomic_write(file) as temporary:
            temporary.write_bytes(b"".join(lines))
        with writing(self.errors_file) as file, atomic_write(file) as temporary, temporary.open("wb") as stream:
            for part in (file, *_other_ranks(self.folder, ERRORS)):
                for line in _lines(part):
                    with suppress(ValueError, TypeError, KeyError):
                        if belongs(json.loads(line)["file"]):
                            stream.write(line.encode() + b"\n")
        if not self.errors_file.stat().st_size:
            self.errors_file.unlink()
        self._remove_other_ranks()

    def _remove_other_ranks(self) -> None:
        for name in (RECORD, ERRORS):
            for file in _other_ranks(self.folder, name):
                with writing(file):
                    file.unlink()


def _rank_file(folder: Path, name: str, rank: int) -> Path:
    return folder / (f"{name}.{rank}.jsonl" if rank else f"{name}.jsonl")


def _other_ranks(folder: Path, name: str) -> list[Path]:
    """The files that ranks above 0 left."""
    ranked = [file for file in folder.glob(f"{name}.*.jsonl") if file.name.split(".")[1].isdigit()]
    return sorted(ranked, key=lambda file: int(file.name.split(".")[1]))


def _lines(file: Path) -> Iterator[str]:
    """The lines of a file; none if it is missing. Raises InputError if it cannot be read."""
    try:
        with file.open(encoding="utf-8", errors="replace") as stream:
            yield from (line.removesuffix("\n") for line in stream)
    except FileNotFoundError:
        return
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})") from None


def _line(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _difference(name: str, old: str, new: str) -> str:
    return f"{name} ({old} → {new})" if max(len(old), len(new)) <= _SHOWN else name
