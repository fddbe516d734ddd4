"""Imports go one way through the rooms of the package."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import recap

ROOMS = (
    "errors",
    "text",
    "storage",
    "reporting",
    "signals",
    "config",
    "published",
    "distributed",
    "rendezvous",
    "runtime",
    "native",
    "data",
    "model",
    "runs",
    "evaluation",
    "tracking",
    "training",
    "planning",
    "inference",
    "backtest",
    "export",
    "serving",
    "tuning",
    "boards",
    "cli",
)
"""The order of the rooms: each imports only those to its left."""
TORCH_STARTS_AT = "distributed"
"""The rooms before it do not import torch, so that checking a configuration is fast."""
MAX_FILES = 16
SOURCE = Path(recap.__file__).parent
FACE = {"__init__.py", "__main__.py"}
"""The public API of the package, which may import any room."""
FILES = [path for path in SOURCE.rglob("*.py") if not (path.parent == SOURCE and path.name in FACE)]
FOLDERS = sorted({path.parent for path in FILES})


def module_of(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in FILES}


@cache
def imports_of(path: Path) -> frozenset[str]:
    """Every module that a file imports: at the top, inside functions, and for type checking."""
    return frozenset(_imports(ast.parse(path.read_text())))


def _imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None, "relative import"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            yield from names & MODULES.keys() or {node.module}


def room_of(module: str) -> str:
    return module.split(".")[1]


def test_every_room_is_in_the_order() -> None:
    assert {room_of(module) for module in MODULES} <= set(ROOMS)


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_a_file_imports_only_rooms_to_its_left(path: Path) -> None:
    rooms = {room_of(module) for module in imports_of(path) if module.startswith("recap.")}
    allowed = ROOMS[: ROOMS.index(room_of(module_of(path))) + 1]
    assert rooms - set(allowed) == set()


def test_no_files_import_each_other_in_a_circle() -> None:
    graph = {module: imports_of(path) & MODULES.keys() for module, path in MODULES.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError(" → ".join(error.args[1])) from None


def test_parts_of_config_and_data_import_only_lower_parts() -> None:
    """In `config` the schema does not import file formats; in `data` the stream does not import tools."""
    orders = {
        "config": ("", "checks", "file"),
        "data": (
            "batch",
            "formats",
            "encoding",
            "coverage",
            "statistics",
            "stream",
            "remote",
            "open",
            "sample",
            "tools",
            "aggregate",
            "simulate",
        ),
    }
    for name, order in orders.items():
        for module, path in MODULES.items():
            if not module.startswith(f"recap.{name}."):
                continue
            inside = {_part(imported, order) for imported in imports_of(path) if imported.startswith(f"recap.{name}.")}
            allowed = set(order[: order.index(_part(module, order)) + 1])
            if module == "recap.config.recap":  # the root of the schema runs the checks
                allowed.add("checks")
            assert inside <= allowed, module


def _part(module: str, order: tuple[str, ...]) -> str:
    name = module.split(".")[2]
    return name if name in order else ""


def test_torch_stays_out_of_the_lower_rooms() -> None:
    lower = ROOMS[: ROOMS.index(TORCH_STARTS_AT)]
    heavy = {"torch", "pyarrow", "numpy"}
    for module, path in MODULES.items():
        if room_of(module) in lower and room_of(module) != "published":
            assert {name.split(".")[0] for name in imports_of(path)} & heavy == set(), module


EXECUTES = (
    *("pickle", "marshal", "shelve", "joblib", "dill", "torch.load"),
    *("eval(", "exec(", "__import__(", "yaml.load(", "unsafe_load", "full_load", "UnsafeLoader", "FullLoader"),
)


@pytest.mark.parametrize("folder", ["src", "recipes", "benchmarks"])
def test_no_file_that_is_read_can_execute_code(folder: str) -> None:
    for path in sorted((SOURCE.parents[1] / folder).rglob("*.py")):
        text = re.sub(r"torch\.load\([^()]*, weights_only=True\)", "", path.read_text())  # tensors alone
        for word in EXECUTES:
            assert word not in text.replace(".eval(", ""), f"{path}: {word}"


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_files_are_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(SOURCE.parent)))
def test_folders_have_few_files(folder: Path) -> None:
    assert len([path for path in folder.glob("*.py") if path.name != "__init__.py"]) <= MAX_FILES
