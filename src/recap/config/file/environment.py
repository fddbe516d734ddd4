"""`${NAME}` in scalars, replaced from the environment after parsing, so that a value cannot add structure.

`${NAME:-default}` has a default, `$${` is a literal `${`, and `${secret:NAME}` is a secret: its reference is printed
and stored instead of its value.
"""

import getpass
import json
import os
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from recap.config.base import KeyPath, dotted
from recap.config.file.node import Node, scalars
from recap.config.file.yaml import scalar
from recap.errors import Problem

_REFERENCE = re.compile(
    r"\$\$\{|\$\{(?P<secret>secret:)?(?P<name>[A-Za-z_]\w*)(:-(?P<default>(?:(?!\$\{)[^}])*))?\}|\$\{", re.ASCII
)

_MIN_SECRET_PATH = 16
"""Characters from which on the path of a secret URL is hidden on its own; shorter ones, such as /api, say nothing."""
_SECRETS: dict[str, str] = {}
"""Every printed form of each secret that this process has read → its reference."""


KnownSecrets = Mapping[KeyPath, tuple[str, Any]]
"""Path of a value that contains a secret → (its reference, its value)."""


def keep_text(root: Node, known: KnownSecrets) -> None:
    """Read the scalars of a stored configuration as text: it may come from elsewhere, so it reads no environment.

    A secret stays a reference, except where `known` has the same reference at its path.
    """
    for path, node in scalars(root):
        if isinstance(node.value, str) and "${" in node.value and node.reference is None:
            node.reference = node.value
            node.secret = any(match["secret"] for match in _REFERENCE.finditer(node.value))
            node.value = node.value.replace("$${", "${")
            if node.secret and path in known and known[path][0] == node.reference:
                node.value = known[path][1]


def substitute(root: Node, problems: list[Problem]) -> None:
    """Replace the references in every scalar below `root`, and add unset and malformed ones to `problems`."""
    for path, node in scalars(root):
        if not isinstance(node.value, str) or "${" not in node.value or node.reference is not None:
            continue
        wrong: list[str] = []
        raw, references = node.value, list(_REFERENCE.finditer(node.value))
        values = [_value(reference, wrong) for reference in references]
        node.value = _replaced(raw, references, values)
        names = [(reference["name"], reference["secret"]) for reference in references if reference["name"]]
        if names:
            storable = [
                reference[0] if reference["secret"] else escape(value)
                for reference, value in zip(references, values, strict=True)
            ]
            node.reference = _replaced(raw, references, storable)
            node.variables = tuple(dict.fromkeys(name for name, _ in names if _variable(name) is not None))
            node.secret = any(secret for _, secret in names)
            if node.secret:
                _remember(node.value, node.reference)
        node.unresolved = bool(wrong)
        problems += [Problem(node.origin, dotted(path), text) for text in wrong]


def _value(match: re.Match[str], wrong: list[str]) -> str:
    """The value of a reference; messages about it are added to `wrong`."""
    name, reference = match["name"], match[0]
    if name is None:
        if reference == "${":
            start = match.string[match.start() : match.start() + 20]
            wrong.append(
                f"{start!r} is not a reference; write ${{NAME}}, ${{NAME:-default}}, or $${{ for a literal ${{"
            )
        return "${"
    value = _variable(name)
    if value is None:
        value = match["default"]
    if value is None:
        hint = f"set it, or write a default: ${{{match['secret'] or ''}{name}:-…}}"
        wrong.append(f"the environment variable {name!r} is not set; {hint}")
    elif match["secret"]:
        _remember(value, reference)
    return value or ""


def _replaced(raw: str, references: list[re.Match[str]], values: list[str]) -> str:
    """`raw` with its references replaced by `values`."""
    text, end = "", 0
    for reference, value in zip(references, values, strict=True):
        text += raw[end : reference.start()] + value
        end = reference.end()
    return text + raw[end:]


def _remember(value: str, reference: str) -> None:
    for form in (value, repr(value)[1:-1], json.dumps(value)[1:-1], str(scalar(value)), *_url_parts(value)):
        if form:
            _SECRETS[form] = reference


def _url_parts(value: str) -> list[str]:
    """The parts of a URL that errors of clients show alone: its password, its query, and a long path."""
    try:
        url = urlsplit(value)
        path = url.path if url.netloc and len(url.path) >= _MIN_SECRET_PATH else ""
        return [url.password or "", url.query if url.netloc else "", path]
    except ValueError:
        return []


def hide(text: str) -> str:
    """`text` with every secret replaced by its reference."""
    if not _SECRETS:
        return text
    longest_first = sorted(_SECRETS, key=len, reverse=True)
    return re.sub("|".join(map(re.escape, longest_first)), lambda match: _SECRETS[match[0]], text)


def secrets(root: Node) -> dict[KeyPath, str]:
    """Path of each scalar that contains a secret → the reference to store instead."""
    return {path: node.reference for path, node in scalars(root) if node.secret and node.reference is not None}


def escape(text: str) -> str:
    """Escape references, so that `substitute` returns `text`."""
    return text.replace("${", "$${")


def _variable(name: str) -> str | None:
    """The value of an environment variable; None if it is not set. USER defaults to the login name."""
    value = os.environ.get(name)
    if value is None and name == "USER":
        try:
            return getpass.getuser()
        except (KeyError, OSError, ImportError):
            return None
    return value
