"""`${NAME}` in scalars: replaced from the environment after parsing, so that a value can never add structure.

`${NAME:-default}` has a default, `$${` is a plain `${`, and `${secret:NAME}` is a value that is never printed:
wherever it would be, its reference stands instead.
"""

import getpass
import os
import re

from recap.config.node import Node, dotted, scalars
from recap.errors import Problem

_REFERENCE = re.compile(r"\$\$\{|\$\{(?P<secret>secret:)?(?P<name>[A-Za-z_]\w*)(?P<default>:-[^}]*)?\}|\$\{", re.ASCII)

_SECRETS: dict[str, str] = {}
"""The secrets this process has read → their references."""


def substitute(root: Node, problems: list[Problem], *, stored: bool = False) -> None:
    """Replace the references in every scalar below `root`; what is unset or malformed is added to `problems`.

    `stored`: the configuration of a run or a model, where only secrets are left; they stay as they are.
    """
    for path, node in scalars(root):
        if not isinstance(node.value, str) or "${" not in node.value:
            continue
        wrong: list[str] = []
        variables: list[str] = []

        def replaced(found: re.Match[str], wrong: list[str] = wrong, variables: list[str] = variables) -> str:
            name = found["name"]
            if name is None:
                if found[0] == "${":
                    wrong.append("'${' begins no reference; write ${NAME}, ${NAME:-default}, or $${ for a plain ${")
                return "${"
            if stored and found["secret"]:
                _SECRETS[found[0]] = found[0]
                return found[0]
            variables.append(name)
            value = _variable(name)
            if value is None and found["default"] is not None:
                value = found["default"].removeprefix(":-")
            if value is None:
                secret = found["secret"] or ""
                hint = f"set it, or give a default: ${{{secret}{name}:-…}}"
                wrong.append(f"the environment variable {name!r} is not set; {hint}")
                return ""
            if found["secret"] and value:
                _SECRETS[value] = found[0]
            return value

        node.value = _REFERENCE.sub(replaced, node.value)
        node.variables = tuple(dict.fromkeys(variables))
        problems += [Problem(node.origin, dotted(path), text) for text in wrong]


def hide(text: str) -> str:
    """`text` with every secret replaced by its reference."""
    for value, reference in _SECRETS.items():
        text = text.replace(value, reference)
    return text


def stored(text: str) -> str:
    """`text` so that `substitute` gives it back: secrets as references, a plain `${` as `$${`."""
    text = text.replace("${", "$${")
    for value, reference in _SECRETS.items():
        text = text.replace(value.replace("${", "$${"), reference)
    return text


def _variable(name: str) -> str | None:
    """Its value, or nothing; USER is the login name where it is not set."""
    value = os.environ.get(name)
    if value is None and name == "USER":
        try:
            return getpass.getuser()
        except (KeyError, OSError, ImportError):
            return None
    return value
