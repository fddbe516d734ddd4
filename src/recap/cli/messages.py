"""How errors and remarks look: plain lines for tools; on a terminal, with colour and the line each is about."""

import sys
from collections.abc import Sequence
from pathlib import Path

from recap.config.file.environment import hide
from recap.errors import ConfigError, Problem, RecapError


def print_error(error: RecapError) -> None:
    """Print an error to standard error, secrets hidden."""
    if isinstance(error, ConfigError) and error.problems:
        _print(error.problems, "problem", "nothing was done", "red")
    else:
        print(hide(str(error)), file=sys.stderr)


def print_remarks(remarks: Sequence[Problem]) -> None:
    """Print to standard error what a person should know of work that was done."""
    _print(remarks, "remark", "please read them", "yellow")


def _print(problems: Sequence[Problem], what: str, end: str, colour: str) -> None:
    if not sys.stderr.isatty():
        print(hide("\n".join(map(str, problems))), file=sys.stderr)
        return
    import rich.console

    console = rich.console.Console(stderr=True, highlight=False, soft_wrap=True)
    for problem in problems:
        for text, style in _parts(problem, colour):
            console.print(hide(text), style=style, markup=False, end="")
    console.print(f"{len(problems)} {what}{'s' if len(problems) > 1 else ''}; {end}", style=f"bold {colour}")


def _parts(problem: Problem, colour: str) -> list[tuple[str, str]]:
    """The pieces of a problem with their styles."""
    parts = [(f"{problem.origin}: ", "bold"), (f"{problem.path}: " if problem.path else "", "bold cyan")]
    parts.append((f"{problem.text}\n", ""))
    written = _line(problem)
    if written:
        from rich.cells import cell_len

        column = problem.origin.column - 1
        number = f"{problem.origin.line:>5} │ "
        parts += [(number, "dim"), (f"{written}\n", ""), (" " * 5 + " │ " + " " * cell_len(written[:column]), "dim")]
        parts.append(("^" * _width(written[column:]) + "\n\n", f"bold {colour}"))
    return parts


def _line(problem: Problem) -> str:
    """The line of the file it is about, if it can still be read."""
    if not problem.origin.line:
        return ""
    try:
        lines = Path(problem.origin.source).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return ""
    line = lines[problem.origin.line - 1] if problem.origin.line <= len(lines) else ""
    return line.replace("\t", " ") if problem.origin.column - 1 < len(line) else ""


def _width(written: str) -> int:
    """How much of the line the value or key takes that begins it."""
    ends = [written.find(end) for end in (": ", ",", "}", "]", " #") if written.find(end) > 0]
    return max(1, len(written.rstrip()) if not ends or written[0] in "{[\"'" else min(ends))
