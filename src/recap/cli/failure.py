"""How an error looks: plain lines for tools; on a terminal, with colour and the line it is about."""

import sys
from pathlib import Path

from recap.config.environment import hide
from recap.errors import ConfigError, Problem, RecapError


def print_error(error: RecapError) -> None:
    """Print an error to standard error, secrets hidden."""
    problems = error.problems if isinstance(error, ConfigError) else ()
    if not problems or not sys.stderr.isatty():
        print(hide(str(error)), file=sys.stderr)
        return
    import rich.console

    console = rich.console.Console(stderr=True, highlight=False, soft_wrap=True)
    for problem in problems:
        for text, style in _parts(problem):
            console.print(hide(text), style=style, markup=False, end="")
    plural = "s" if len(problems) > 1 else ""
    console.print(f"{len(problems)} problem{plural}; nothing was done", style="bold red")


def _parts(problem: Problem) -> list[tuple[str, str]]:
    """The pieces of a problem with their styles."""
    parts = [(f"{problem.origin}: ", "bold"), (f"{problem.path}: " if problem.path else "", "bold cyan")]
    parts.append((f"{problem.text}\n", ""))
    written = _line(problem)
    if written:
        column = problem.origin.column - 1
        number = f"{problem.origin.line:>5} │ "
        parts += [(number, "dim"), (f"{written}\n", ""), (" " * 5 + " │ " + " " * column, "dim")]
        parts.append(("^" * _width(written[column:]) + "\n\n", "bold red"))
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
