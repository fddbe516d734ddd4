"""The code and the docs speak plain English: the field's words, and one word per idea (docs/glossary.md)."""

import ast
import re
from pathlib import Path

import pytest
from architecture.test_imports import MODULES

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("recipes/*/README.md")]
DIALECT = {"said", "told", "found", "there", "place", "places", "kept", "gives_up"}
"""Vague names. Better: config, message, the noun itself, mask or on_device, index or location, retained."""
PHRASES = {
    r"\bnone given\b": "Optional; off by default",
    r"(?<![Tt]here )\bis no [a-z]": "not a …, or: unknown …",
    r"\bso many\b": "the number",
}


def bound_names(tree: ast.AST) -> set[str]:
    """Every name that is assigned, or is a parameter, function, class or attribute."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            names.add(node.attr)
    return names


def strings(tree: ast.AST) -> str:
    """All text of a file: docstrings, help and messages."""
    parts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return "\n".join(parts)


@pytest.mark.parametrize("module", MODULES)
def test_names_are_words_of_the_field(module: str) -> None:
    tree = ast.parse(MODULES[module].read_text())
    assert bound_names(tree) & DIALECT == set()
    assert not [name for name in bound_names(tree) if re.match(r"_?(MOST|SMALLEST|LARGEST|LONGEST)_", name)]


@pytest.mark.parametrize("module", MODULES)
def test_messages_and_docstrings_are_plain_english(module: str) -> None:
    text = strings(ast.parse(MODULES[module].read_text()))
    for phrase, better in PHRASES.items():
        assert re.findall(phrase, text) == [], better


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_are_plain_english(page: Path) -> None:
    for phrase, better in PHRASES.items():
        assert re.findall(phrase, page.read_text()) == [], better
