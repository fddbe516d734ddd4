"""A file, the files it builds on, what is laid over it and the overrides → one tree of values with their origins.

From the bottom: `base`, the file itself, `--set-file` files, `section.key=value` overrides; the later wins.
"""

import re
from collections.abc import Sequence
from pathlib import Path as FilePath

from pydantic import BaseModel

from recap.config.data import DataConfig
from recap.config.environment import substitute
from recap.config.keys import is_table, suggest
from recap.config.node import Node, Path, dotted, lay_over, node_at
from recap.config.recap import RecapConfig
from recap.config.yaml_file import parse
from recap.errors import ConfigError, Origin, Problem

BASE = "base"
"""The key that names the file to build on."""


def assemble(
    file: str | FilePath, overrides: Sequence[str], set_files: Sequence[str], problems: list[Problem], *, stored: bool
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
    """The mapping of `model`'s sections that a YAML file holds. Raises ConfigError if it holds none."""
    try:
        text = FilePath(file).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror}); give the path of a YAML file") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: not UTF-8 text (byte {error.start}); give a YAML file") from None
    begun = len(problems)
    node = parse(text, file, problems)
    if node is None and len(problems) > begun:
        raise ConfigError(problems)
    if node is None or not isinstance(node.value, dict):
        found = "nothing" if node is None or node.value is None else _kind(node)
        raise ConfigError(
            f"{file}:1:1: expected a mapping of sections ({', '.join(model.model_fields)}), found {found}"
        )
    return node


def _read(file: str, above: list[str], problems: list[Problem]) -> Node:
    """The file laid over its `base`; `above` are the files that build on it."""
    node = read_mapping(file, problems)
    named = node.value.pop(BASE, None)
    if named is None:
        return node
    substitute(Node({BASE: named}, named.origin), problems)
    if not isinstance(named.value, str) or not named.value:
        problems.append(Problem(named.origin, BASE, f"expected the path of a YAML file, found {_kind(named)}"))
        return node
    base = str(FilePath(file).parent / named.value)
    chain = [*above, file]
    if FilePath(base).resolve() in [FilePath(each).resolve() for each in chain]:
        problems.append(Problem(named.origin, BASE, f"builds on itself: {' → '.join([*chain, base])}"))
        return node
    if not FilePath(base).is_file():
        problems.append(Problem(named.origin, BASE, f"{base}: no such file (a path is relative to the file it is in)"))
        return node
    return lay_over(_read(base, chain, problems), node)


def _lay_file(root: Node, given: str, problems: list[Problem]) -> Node:
    """`FILE`: a mapping of sections laid over; `section.key=FILE`: a file that holds the value of one key."""
    named, equals, file = given.partition("=")
    if not equals or FilePath(given).is_file():
        return lay_over(root, _read(given, [], problems))
    origin = Origin(f"--set-file {given!r}")
    try:
        text = FilePath(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        problems.append(Problem(origin, "", f"{file} cannot be read ({getattr(error, 'strerror', 'not UTF-8 text')})"))
        return root
    begun = len(problems)
    value = parse(text, file, problems)
    if len(problems) == begun:
        _set(root, named, value or Node(None, origin), origin, problems)
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
    where = root
    path: Path = ()
    steps = re.findall(r'"([^"]*)"(?:\.|$)|([^.]+)(?:\.|$)|(\.)', named)
    keys = [quoted or word for quoted, word, _ in steps]
    value.key = origin
    while keys:
        key, keys = _next_key(where, keys)
        if isinstance(where.value, list) and key.isdigit() and int(key) < len(where.value):
            index = int(key)
            path = (*path, index)
            if not keys:
                where.value[index] = value
            where = where.value[index]
            continue
        if isinstance(where.value, dict) and not keys:
            where.value[key] = value
            return
        if isinstance(where.value, dict) and key not in where.value and not is_table(RecapConfig, path):
            where.value[key] = Node({}, origin, origin)
        if isinstance(where.value, dict) and key in where.value:
            where, path = where.value[key], (*path, key)
            continue
        if isinstance(where.value, dict):
            what = f"{dotted(path)} has no {key!r}. {suggest(key, list(where.value))}"
        elif isinstance(where.value, list):
            what = f"{dotted(path)} is a list of {len(where.value)} items, so it has no key {key!r}"
        else:
            what = f"{dotted(path)} is {_kind(where)}, so it has no key {key!r}"
        problems.append(Problem(origin, "", what))
        return


def _next_key(where: Node, keys: list[str]) -> tuple[str, list[str]]:
    """The next step and the rest; names that hold dots themselves are known by what is there."""
    for length in range(len(keys), 1, -1):
        name = ".".join(keys[:length])
        if isinstance(where.value, dict) and name in where.value:
            return name, keys[length:]
    return keys[0], keys[1:]


def _kind(node: Node) -> str:
    if isinstance(node.value, dict | list):
        return "a mapping" if isinstance(node.value, dict) else "a list"
    return "null" if node.value is None else f"the value {node.value!r}"
