"""Imports run one way through the house."""

import ast
from pathlib import Path

import recap

ROOMS = (
    "errors",
    "config",
    "ranks",
    "runtime",
    "data",
    "model",
    "evaluation",
    "tracking",
    "training",
    "inference",
    "export",
    "serving",
    "cli",
)
SOURCE = Path(recap.__file__).parent
FILES = [path for path in SOURCE.rglob("*.py") if path.parent != SOURCE or path.stem in ROOMS]


def imported(path: Path) -> set[str]:
    """The rooms of recap that a file imports, at its top or inside a function."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        found |= {module.split(".")[1] for module in modules if module.startswith("recap.")}
    return found


def room(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def test_every_room_imports_only_what_stands_before_it() -> None:
    for path in FILES:
        allowed = ROOMS[: ROOMS.index(room(path)) + 1]
        assert imported(path) <= set(allowed), path


def test_the_configuration_imports_no_torch() -> None:
    for path in (SOURCE / "config").glob("*.py"):
        text = path.read_text()
        assert "import torch" not in text
        assert "import pyarrow" not in text


def test_nothing_read_is_executed() -> None:
    for path in FILES:
        text = path.read_text()
        for word in ("pickle", "torch.load", "eval(", "exec(", "yaml.load("):
            assert word not in text.replace(".eval(", ""), f"{path}: {word}"


def test_files_stay_short_enough_to_hold_one_noun() -> None:
    for path in FILES:
        assert len(path.read_text().splitlines()) <= 400, path
