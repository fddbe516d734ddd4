"""The files of a backtest as windows of time, in their order."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from itertools import pairwise

from recap.config.recap import RecapConfig
from recap.data.formats.files import find_files, relative_names, stamp
from recap.data.formats.open import stem
from recap.data.formats.tables import TableFiles
from recap.data.tools.times import DAY, HOUR, name_of, shown, time_range
from recap.errors import DataError, InputError
from recap.text import plural

_DATE = re.compile(r"(?<!\d)(\d{4})([-/_]?)(\d{2})\2(\d{2})(?:[-/_T ]?(?:hour=|hr=|h=)?(\d{2}))?(?!\d)")
"""A date in a path, and the hour that may follow: 2026-01-31, 20260131T18, 2026/01/31/18, date=20260131/hour=18."""
_ADVICE = "split the files by time: recap data split FILES --by COLUMN --days --timezone NAME --output DIR"


@dataclass(frozen=True)
class Window:
    """Files that are evaluated together, and trained on together."""

    name: str
    """Its day or hour, such as `2026-01-31` or `2026-01-31T18`; of a single file, its name."""
    files: tuple[str, ...]
    rows: int
    bytes: int
    """Size of the files."""
    times: tuple[int, int] | None
    """The first and the last time of its rows, in microseconds since 1970; None without `features.timestamp`."""


@dataclass(frozen=True)
class _File:
    name: str
    path: str
    rows: int
    times: tuple[int, int] | None


def find_windows(config: RecapConfig) -> list[Window]:
    """The windows of `backtest.inputs`, in the order of time; files without rows are left out.

    Reads the column `features.timestamp`, if it is set. Raises DataError for files without a date, for files that span
    several windows, and for windows that overlap in time.
    """
    backtest, source = config.backtest, config.train_data.source
    paths = find_files(source.inputs if backtest.inputs is None else backtest.inputs)[: source.num_files_to_keep]
    files = _described(config, paths)
    names = [_plain(file.name) for file in files]
    if backtest.window != "file":
        names = _names_by_time(files, backtest.window)
    groups: dict[str, list[_File]] = {}
    for name, file in zip(names, files, strict=True):
        groups.setdefault(name, []).append(file)
    windows = [_window(name, group) for name, group in sorted(groups.items())]
    if backtest.window == "file":
        dates = {_plain(file.name): _date_of(file.path) or () for file in files}
        windows.sort(key=lambda window: window.times or dates[window.name])
    for one, other in pairwise(windows):
        if one.times is not None and other.times is not None and one.times[1] > other.times[0]:
            raise DataError(
                f"{other.files[0]}: its rows begin at {shown(other.times[0])}, before those of {one.files[-1]} end, at "
                f"{shown(one.times[1])}, so a model trained on {one.name} would know the future of {other.name}; "
                f"{_ADVICE}"
            )
    return windows


def _described(config: RecapConfig, paths: Sequence[str]) -> list[_File]:
    column = config.features.timestamp
    files = TableFiles(dict.fromkeys(paths, config.train_data.source))
    names = dict(zip(paths, relative_names(paths), strict=True))
    described = []
    for path in files.files_with_rows():
        times = None
        if column is not None:
            if column not in files.schema(path).names:
                raise DataError(f"{path}: has no column {column!r}, which features.timestamp names")
            times = time_range(files, path, column)
        described.append(_File(stem(names[path]), path, sum(chunk.rows for chunk in files.chunks_of(path)), times))
    return described


def _names_by_time(files: Sequence[_File], unit: str) -> list[str]:
    """The day or hour of each file. Raises DataError."""
    dates = [_date_of(file.path) for file in files]
    if all(moment is not None and (unit == "day" or moment[1] is not None) for moment in dates):
        return [moment[0] if unit == "day" else f"{moment[0]}T{moment[1]}" for moment in dates if moment is not None]
    step = DAY if unit == "day" else HOUR
    names = []
    for file in files:
        if file.times is None:
            raise DataError(
                f"{file.path}: has no {'date' if unit == 'day' else 'hour'} in its path, and features.timestamp is not "
                f"set, so its place in time is unknown; set features.timestamp, or {_ADVICE}"
            )
        first, last = (time // step for time in file.times)
        if first != last:
            raise DataError(
                f"{file.path}: spans {plural(last - first + 1, unit)}, from {shown(file.times[0])} to "
                f"{shown(file.times[1])}, and has no {'date' if unit == 'day' else 'hour'} in its path; {_ADVICE}, or "
                "make each file a window with window: file"
            )
        names.append(name_of(first * step, unit))
    return names


def _date_of(path: str) -> tuple[str, str | None] | None:
    """The last date in a path, and the hour behind it."""
    for match in reversed(list(_DATE.finditer(path))):
        year, _, month, day, hour = match.groups()
        try:
            text = date(int(year), int(month), int(day)).isoformat()
        except ValueError:
            continue
        if 1900 <= int(year) <= 2200:
            return text, hour if hour is not None and int(hour) < 24 else None
    return None


def _window(name: str, files: Sequence[_File]) -> Window:
    ranges = [file.times for file in files if file.times is not None]
    times = (min(first for first, _ in ranges), max(last for _, last in ranges)) if ranges else None
    size = sum(stamp(file.path)[1] for file in files)
    return Window(name, tuple(file.path for file in files), sum(file.rows for file in files), size, times)


def _plain(name: str) -> str:
    """A name that can be that of a folder."""
    return re.sub(r"[^\w.=+-]", "_", name)


@dataclass(frozen=True)
class FoldPlan:
    """What one fold trains on, and what it evaluates."""

    train: tuple[Window, ...]
    evaluate: Window


def plan_folds(config: RecapConfig, windows: Sequence[Window]) -> list[FoldPlan]:
    """The folds in the order of time. Raises InputError if there are too few windows for one.

    With `mode: continue`, each fold but the first trains on the windows that those before it have not trained on.
    """
    backtest = config.backtest
    read = windows[: len(windows) - backtest.holdout]
    start = backtest.first + backtest.gap
    if len(read) <= start or backtest.holdout >= len(windows):
        raise InputError(
            f"backtest: {plural(len(windows), 'window')} of time ({_span(windows)}) are too few: first "
            f"{backtest.first} + gap {backtest.gap} + holdout {backtest.holdout} leave none to evaluate; lower them, "
            f"use shorter windows, or {_ADVICE}"
        )
    folds = []
    for index in range(start, len(read)):
        end = index - backtest.gap
        begin = end - 1 if backtest.mode == "continue" and index > start else 0
        folds.append(FoldPlan(tuple(read[begin:end]), read[index]))
    return folds


def _span(windows: Sequence[Window]) -> str:
    names = [window.name for window in windows]
    return names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"
