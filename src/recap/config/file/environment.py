"""`${NAME}` in scalars: replaced from the environment after parsing, so that a value can never add structure.

`${NAME:-default}` has a default, `$${` is a plain `${`, and `${secret:NAME}` is a value that is never printed or
stored: wherever it would be, its reference stands instead.
"""

import getpass
import json
import os
import re

from recap.config.base import KeyPath, dotted
from recap.config.file.node import Node, scalars
from recap.config.file.yaml import scalar
from recap.errors import Problem

_REFERENCE = re.compile(
    r"\$\$\{|\$\{(?P<secret>secret:)?(?P<name>[A-Za-z_]\w*)(:-(?P<default>(?:(?!\$\{)[^}])*))?\}|\$\{", re.ASCII
)

_SECRETS: dict[str, str] = {}
"""Every form in which a secret that this process has read may be printed → its reference."""


def substitute(root: Node, problems: list[Problem], *, stored: bool = False) -> None:
    """Replace the references in every scalar below `root`; what is unset or malformed is added to `problems`.

    `stored`: the configuration of a run or a model, where only secrets are left; those that are not set stay.
    """
    for path, node in scalars(root):
        if not isinstance(node.value, str) or "${" not in node.value or node.reference is not None:
            continue
        wrong: list[str] = []
        raw, found = node.value, list(_REFERENCE.finditer(node.value))
        values = [_value(reference, wrong, stored=stored) for reference in found]
        node.value = _put(raw, found, values)
        names = [(reference["name"], reference["secret"]) for reference in found if reference["name"]]
        if names:
            kept = [
                reference[0] if reference["secret"] else escape(value)
                for reference, value in zip(found, values, strict=True)
            ]
            node.reference = _put(raw, found, kept)
            node.variables = tuple(dict.fromkeys(name for name, _ in names if _variable(name) is not None))
            node.secret = any(secret for _, secret in names)
            if node.secret:
                _remember(node.value, node.reference)
        node.unresolved = bool(wrong)
        problems += [Problem(node.origin, dotted(path), text) for text in wrong]


def _value(found: re.Match[str], wrong: list[str], *, stored: bool) -> str:
    """What stands for one reference."""
    name, reference = found["name"], found[0]
    if name is None:
        if reference == "${":
            what = found.string[found.start() : found.start() + 20]
            wrong.append(f"{what!r} is no reference; write ${{NAME}}, ${{NAME:-default}}, or $${{ for a plain ${{")
        return "${"
    value = _variable(name)
    if value is None:
        value = found["default"]
    if value is None and stored and found["secret"]:
        return reference
    if value is None:
        hint = f"set it, or give a default: ${{{found['secret'] or ''}{name}:-…}}"
        wrong.append(f"the environment variable {name!r} is not set; {hint}")
    elif found["secret"]:
        _remember(value, reference)
    return value or ""


def _put(raw: str, found: list[re.Match[str]], values: list[str]) -> str:
    """`raw` with `values` in the places that were found."""
    text, end = "", 0
    for reference, value in zip(found, values, strict=True):
        text += raw[end : reference.start()] + value
        end = reference.end()
    return text + raw[end:]


def _remember(value: str, reference: str) -> None:
    for form in (value, repr(value)[1:-1], json.dumps(value)[1:-1], str(scalar(value))):
        if form:
            _SECRETS[form] = reference


def hide(text: str) -> str:
    """`text` with every secret replaced by its reference."""
    if not _SECRETS:
        return text
    longest_first = sorted(_SECRETS, key=len, reverse=True)
    return re.sub("|".join(map(re.escape, longest_first)), lambda found: _SECRETS[found[0]], text)


def secrets(root: Node) -> dict[KeyPath, str]:
    """The scalars that secrets made, as what may be stored of them."""
    return {path: node.reference for path, node in scalars(root) if node.secret and node.reference is not None}


def escape(text: str) -> str:
    """`text` so that `substitute` gives it back."""
    return text.replace("${", "$${")


def _variable(name: str) -> str | None:
    """Its value, or nothing; USER is the login name where it is not set."""
    value = os.environ.get(name)
    if value is None and name == "USER":
        try:
            return getpass.getuser()
        except (KeyError, OSError, ImportError):
            return None
    return value
