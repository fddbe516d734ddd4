"""A file, the files it builds on, what is laid over it and the overrides → one tree of values with their origins.

From the bottom: `base`, the file itself, `--set-file` files, `section.key=value` overrides; the later wins.
"""

import re
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

from pydantic import BaseModel

from recap.config.base import KeyPath, dotted
from recap.config.data import DataConfig
from recap.config.file.environment import substitute
from recap.config.file.keys import is_table
from recap.config.file.node import Node, lay_over, node_at
from recap.config.file.yaml import parse
from recap.config.recap import RecapConfig
from recap.errors import ConfigError, Origin, Problem
from recap.text import suggest

BASE = "base"
"""The key that names the file to build on."""
_LONGEST_PATH = 50
"""Steps of an override; no configuration is half as deep."""


def assemble(
    file: str | Path, overrides: Sequence[str], set_files: Sequence[str], problems: list[Problem], *, stored: bool
) -> Node:
    """All layers of `file` as one tree; what is wrong with them is added to `problems`.

    Raises ConfigError where a file cannot be read at all.
    """
    root = _read(str(file), [], problems)
    for given in set_files:
        root = _lay_file(root, given, problems)
    for text in overrides:
        _override(root, text, Origin(f"override {text!r}"), problems)
    substitute(root, problems, stored=stored)
    inherit_train_data(root)
    return root


def inherit_train_data(root: Node) -> None:
    """Lay every validation set over what `train_data` says of any data set."""
    train, validation = node_at(root, ("train_data",)), node_at(root, ("validation_data",))
    if train is None or validation is None:
        return
    if not isinstance(train.value, dict) or not isinstance(validation.value, dict):
        return
    inherited = {key: item for key, item in train.value.items() if key in DataConfig.model_fields}
    for name, stated in validation.value.items():
        if isinstance(stated.value, dict):
            validation.value[name] = lay_over(Node(inherited, stated.origin, stated.key), stated)


def read_mapping(file: str, problems: list[Problem], model: type[BaseModel] = RecapConfig) -> Node:
    """The mapping of `model`'s sections that a YAML file holds.

    Raises ConfigError, with what is in `problems` already, if it holds none.
    """
    node = _read_yaml(file, problems)
    if not isinstance(node.value, dict):
        sections = ", ".join(model.model_fields)
        problems.append(Problem(node.origin, "", f"expected a mapping of sections ({sections}), found {_kind(node)}"))
        raise ConfigError(problems)
    return node


def _read_yaml(file: str, problems: list[Problem]) -> Node:
    """The values a file holds; nothing is null. Raises ConfigError where it cannot be read."""
    try:
        text = Path(file).read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        why = f"not UTF-8 text (byte {error.start})" if isinstance(error, UnicodeDecodeError) else _why(error)
        problems.append(Problem(Origin(file), "", f"cannot be read ({why}); give the path of a YAML file"))
        raise ConfigError(problems) from None
    begun = len(problems)
    node = parse(text, file, problems)
    if node is None and len(problems) > begun:
        raise ConfigError(problems)
    return node or Node(None, Origin(file, 1, 1))


def _read(file: str, above: list[str], problems: list[Problem]) -> Node:
    """The file laid over its `base`; `above` are the files that build on it."""
    node = read_mapping(file, problems)
    named = node.value.pop(BASE, None)
    if named is None:
        return node
    substitute(Node({BASE: named}, named.origin), problems)
    chain = [*above, file]
    base = str(Path(file).parent / named.value) if isinstance(named.value, str) and named.value else ""
    if not base:
        problems.append(Problem(named.origin, BASE, f"expected the path of a YAML file, found {_kind(named)}"))
    elif any(_same(base, each) for each in chain):
        problems.append(Problem(named.origin, BASE, f"builds on itself: {' → '.join([*chain, base])}"))
    elif not _is_file(base):
        text = f"{base}: no such file (the path is relative to the file it is written in)"
        problems.append(Problem(named.origin, BASE, text))
    else:
        return lay_over(_read(base, chain, problems), node)
    raise ConfigError(problems)  # without what it builds on, a file says too little to be checked


def _lay_file(root: Node, given: str, problems: list[Problem]) -> Node:
    """`FILE`: a mapping of sections laid over; `section.key=FILE`: a file that holds the value of one key."""
    named, equals, file = given.partition("=")
    origin = Origin(f"--set-file {given!r}")
    if given and (not equals or _is_file(given)):
        return lay_over(root, _read(given, [], problems))
    if not named or not file:
        problems.append(Problem(origin, "", "expected FILE, or section.key=FILE such as model.tasks=tasks.yaml"))
        return root
    _set(root, named, _read_yaml(file, problems), origin, problems)
    return root


def _override(root: Node, text: str, origin: Origin, problems: list[Problem]) -> None:
    """Set one `path.to.key=value` below `root`."""
    named, equals, written = text.partition("=")
    if not equals or not named:
        problems.append(Problem(origin, "", "expected section.key=value, such as training.seed=1"))
        return
    begun = len(problems)
    value = parse(written, origin.source, problems, located=False) or Node(None, origin)
    if len(problems) == begun:
        _set(root, named, value, origin, problems)


def _set(root: Node, named: str, value: Node, origin: Origin, problems: list[Problem]) -> None:
    """Put `value` at the path that is named; what keeps it from being there is added to `problems`."""
    keys = _steps(named)
    if not keys or len(keys) > _LONGEST_PATH:
        what = "is too deep" if keys else "has a step without a name"
        problems.append(Problem(origin, "", f"the path {named[:60]!r} {what}; write section.key=value"))
        return
    where = root
    path: KeyPath = ()
    value.key = origin
    while True:
        key, keys = _next_key(where, keys)
        if isinstance(where.value, list) and _is_index(key) and int(key) < len(where.value):
            if not keys:
                where.value[int(key)] = value
                return
            where, path = where.value[int(key)], (*path, int(key))
        elif isinstance(where.value, dict) and not keys:
            where.value[key] = value
            return
        elif isinstance(where.value, dict) and (key in where.value or _opened(root, path, key, keys, origin)):
            where, path = where.value[key], (*path, key)
        else:
            problems.append(Problem(origin, "", _no_way(where, path, key)))
            return


def _steps(named: str) -> list[str]:
    """The steps of a path, those in quotes whole; none if one has no name."""
    steps = re.findall(r'(?:"([^"]*)"|([^."]+))(?:\.(?!$)|$)', named)
    found = [quoted or word for quoted, word in steps]
    rebuilt = ".".join(f'"{quoted}"' if quoted else word for quoted, word in steps)
    return found if rebuilt == named else []


def _next_key(where: Node, keys: list[str]) -> tuple[str, list[str]]:
    """The next step and the rest; names that hold dots themselves are known by what is there."""
    for length in range(len(keys), 1, -1):
        name = ".".join(keys[:length])
        if isinstance(where.value, dict) and name in where.value:
            return name, keys[length:]
    return keys[0], keys[1:]


def _opened(root: Node, path: KeyPath, key: str, keys: list[str], origin: Origin) -> bool:
    """Make a mapping, or a copy of the inherited list, for what is said below `key`; whether there is a way to."""
    parent = node_at(root, path)
    assert parent is not None
    inherited = node_at(root, ("train_data", *path[2:], key)) if path[:1] == ("validation_data",) and path[1:] else None
    if inherited is not None and isinstance(inherited.value, dict | list):
        # What a validation set inherits is merged with what is said of it; lists are replaced.
        copied = deepcopy(inherited) if isinstance(inherited.value, list) else Node({}, origin, origin)
        parent.value[key] = copied
        return True
    if is_table(RecapConfig, path) or _is_index(keys[0]):
        return False
    parent.value[key] = Node({}, origin, origin)
    return True


def _no_way(where: Node, path: KeyPath, key: str) -> str:
    here = dotted(path)
    if isinstance(where.value, dict):
        whole = dotted((*path, key))
        return f"{here} has no {key!r}. {suggest(key, list(where.value))} To add it, set it whole: {whole}=…"
    if isinstance(where.value, list):
        return f"{here} is a list of {len(where.value)} items, so it has no key {key!r}"
    return f"{here} is {_kind(where)}, so it has no key {key!r}"


def _is_index(key: str) -> bool:
    return key.isascii() and key.isdigit() and len(key) < 10


def _is_file(path: str) -> bool:
    try:
        return Path(path).is_file()
    except (OSError, ValueError):  # a name too long, or with a NUL
        return False


def _same(one: str, other: str) -> bool:
    try:
        return Path(one).resolve() == Path(other).resolve()
    except (OSError, ValueError):
        return False


def _why(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)


def _kind(node: Node) -> str:
    if isinstance(node.value, dict | list):
        return "a mapping" if isinstance(node.value, dict) else "a list"
    return "null" if node.value is None else f"the value {node.value!r}"
