"""Errors, warnings and remarks on standard error: in colour, with the line of the file, on a terminal; else plain."""

import shutil
import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from recap.config.file.environment import hide
from recap.errors import ConfigError, Problem, RecapError
from recap.text import plural, wrapped


def print_error(error: RecapError) -> None:
    """Print an error, with secrets hidden."""
    if isinstance(error, ConfigError) and error.problems:
        _print(error.problems, "problem", "red")
    else:
        text = hide(str(error))
        print(wrapped(text, _width_of_terminal()) if sys.stderr.isatty() else text, file=sys.stderr)


def print_warnings(warnings: Sequence[Problem]) -> None:
    """Print warnings, each marked as one; nothing if there are none."""
    if warnings:
        _print(warnings, "warning", "yellow", mark="warning: ")


def print_remarks(remarks: Sequence[Problem]) -> None:
    """Print remarks, such as those of an import."""
    _print(remarks, "remark", "yellow")


def _print(problems: Sequence[Problem], noun: str, colour: str, mark: str = "") -> None:
    """Print problems, each after `mark`."""
    if not sys.stderr.isatty():
        print(hide("\n".join(f"{mark}{problem}" for problem in problems)), file=sys.stderr)
        return
    import rich.console

    console = rich.console.Console(stderr=True, highlight=False, soft_wrap=True)
    for problem in problems:
        for text, style in _parts(problem, colour, mark, console.width):
            console.print(hide(text), style=style, markup=False, end="")
    console.print(plural(len(problems), noun), style=f"bold {colour}")


def _parts(problem: Problem, colour: str, mark: str, width: int) -> list[tuple[str, str]]:
    """The parts of a problem, each with its style, in lines of `width` columns."""
    parts = [(mark, f"bold {colour}"), (f"{problem.origin}: ", "bold")]
    parts += [(f"{problem.path}: " if problem.path else "", "bold cyan"), (f"{problem.text}\n", "")]
    shown = iter(wrapped("".join(text for text, _ in parts), width))
    parts = [("".join(islice(shown, len(text))), style) for text, style in parts[:-1]] + [("".join(shown), "")]
    line = _line(problem)
    if line:
        from rich.cells import cell_len

        column = problem.origin.column - 1
        number = f"{problem.origin.line:>5} │ "
        parts += [(number, "dim"), (f"{line}\n", ""), (" " * 5 + " │ " + " " * cell_len(line[:column]), "dim")]
        parts.append(("^" * _width(line[column:]) + "\n\n", f"bold {colour}"))
    return parts


def _line(problem: Problem) -> str:
    """The line of the file that has the problem; empty if it cannot be read."""
    if not problem.origin.line:
        return ""
    try:
        lines = Path(problem.origin.source).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return ""
    line = lines[problem.origin.line - 1] if problem.origin.line <= len(lines) else ""
    return line.replace("\t", " ") if problem.origin.column - 1 < len(line) else ""


def _width_of_terminal() -> int:
    return shutil.get_terminal_size().columns


def _width(text: str) -> int:
    """The length of the key or value at the start of `text`."""
    ends = [index for end in (": ", ",", "}", "]", " #") if (index := text.find(end)) > 0]
    if not ends or text[0] in "{[\"'":
        return max(1, len(text.rstrip()))
    return min(ends)
