"""Merges a file, the files it builds on, and overrides into one tree of values with their origins.

Later layers override earlier ones: `base`, the file, `--set-file` files, `section.key=value` overrides.
"""

import os
import re
import shlex
from collections.abc import Sequence
from contextlib import suppress
from copy import deepcopy
from itertools import islice
from pathlib import Path

from pydantic import BaseModel

from recap.config.base import KeyPath, dotted
from recap.config.data import DataConfig
from recap.config.discrete import SharedCodes, stated_kinds
from recap.config.evaluation.strata import ValueStratum, stated_kind
from recap.config.file.environment import KnownSecrets, keep_text, substitute
from recap.config.file.keys import is_table, models_at
from recap.config.file.node import Node, node_at, scalars
from recap.config.file.yaml import MAX_STORED_VALUES, MAX_VALUES, parse
from recap.config.recap import RecapConfig
from recap.errors import ConfigError, Origin, Problem
from recap.storage import read_regular
from recap.text import shorten, suggest

BASE = "base"
"""The key of the file to build on."""
MAX_FILE_BYTES = 2 << 20
"""Maximum size of a configuration file; a larger one is data."""
_MAX_STORED_BYTES = 16 << 20
"""As `MAX_FILE_BYTES`, of a stored configuration, which states every default."""
_MAX_SHOWN = 60
"""Maximum characters of a value in a message."""
_TABLES = (".parquet", ".arrow", ".feather", ".ipc", ".csv", ".tsv")
DATA_EXTENSIONS = (*_TABLES, ".jsonl", ".ndjson", ".tfrecord", ".tfrecords")
"""Extensions of files of data, without a final `.gz`."""
_MAX_BASES = 20
"""Maximum files that build on each other."""
_MAX_STEPS = 50
"""Maximum steps in the path of an override; no configuration is half as deep."""


def assemble(
    file: str | Path,
    overrides: Sequence[str],
    set_files: Sequence[str],
    problems: list[Problem],
    known: KnownSecrets | None = None,
) -> Node:
    """All layers of `file` as one tree, with what validation sets inherit; see `merge_layers`.

    Raises ConfigError for too many values too.
    """
    root = merge_layers(file, overrides, set_files, problems, known)
    inherit_train_data(root)
    if known is None and len(list(islice(scalars(root), MAX_VALUES + 1))) > MAX_VALUES:
        problems.append(
            Problem(root.origin, "", f"more than {MAX_VALUES:,} values, including those that validation sets inherit")
        )
        raise ConfigError(problems)
    return root


def merge_layers(
    file: str | Path,
    overrides: Sequence[str],
    set_files: Sequence[str],
    problems: list[Problem],
    known: KnownSecrets | None = None,
) -> Node:
    """All layers of `file` as one tree, before validation sets inherit; mistakes are added to `problems`.

    With `known`, `file` is a stored configuration: it has no `base`, and its values are text (see `keep_text`). Raises
    ConfigError if a file cannot be read.
    """
    if known is None:
        root = _read(str(file), [], problems)
    else:
        root = read_mapping(str(file), problems, stored=True)
        keep_text(root, known)
    for argument in set_files:
        root = _merge_file(root, argument, problems)
    for text in overrides:
        override(root, text, Origin(f"override {shorten(repr(text), 100)}"), problems)
    substitute(root, problems)
    return root


def merge(base: Node, top: Node, path: KeyPath = ()) -> Node:
    """`top` merged over `base`, both at `path`. Mappings merge key by key; lists, scalars and choices of another kind
    replace."""
    if not isinstance(base.value, dict) or not isinstance(top.value, dict):
        return top
    kinds = _kind_of(base.value, path), _kind_of(top.value, path)
    if None not in kinds and kinds[0] != kinds[1]:
        return top
    merged = {
        key: merge(base.value[key], item, (*path, key)) if key in base.value else item
        for key, item in top.value.items()
    }
    return Node({**base.value, **merged}, top.origin, top.key)


def _kind_of(mapping: dict[str, Node], path: KeyPath) -> str | None:
    """The kind of a choice: its `kind`, or the key that distinguishes it (`size`, `vocabulary`, …) for discrete
    columns."""
    if is_table(RecapConfig, path):
        return None
    kind = mapping.get("kind")
    if kind is not None and isinstance(kind.value, str):
        return kind.value
    if any(issubclass(model, SharedCodes) for model in models_at(RecapConfig, path)):
        kinds = stated_kinds(mapping)
        return kinds[0] if len(kinds) == 1 else None
    return stated_kind(mapping) if ValueStratum in models_at(RecapConfig, path) else None


def inherit_train_data(root: Node) -> None:
    """Merge every validation split over the fields of `train_data` that it can have."""
    train, validation = node_at(root, ("train_data",)), node_at(root, ("validation_data",))
    if train is None or validation is None:
        return
    if not isinstance(train.value, dict) or not isinstance(validation.value, dict):
        return
    inherited = {key: item for key, item in train.value.items() if key in DataConfig.model_fields}
    for name, stated in validation.value.items():
        if isinstance(stated.value, dict):
            base = Node(inherited, stated.origin, stated.key)
            validation.value[name] = merge(base, stated, ("validation_data", name))


def read_mapping(
    file: str,
    problems: list[Problem],
    model: type[BaseModel] = RecapConfig,
    *,
    yaml_1_1: bool = False,
    stored: bool = False,
) -> Node:
    """The mapping of `model`'s sections in a YAML file.

    Raises ConfigError, which includes the `problems` so far, if the file cannot be read or contains something else.
    """
    node = _read_yaml(file, problems, yaml_1_1=yaml_1_1, stored=stored)
    if not isinstance(node.value, dict):
        sections = ", ".join(model.model_fields)
        problems.append(Problem(node.origin, "", f"expected a mapping of sections ({sections}), found {_noun(node)}"))
        raise ConfigError(problems)
    return node


def _read_yaml(file: str, problems: list[Problem], *, yaml_1_1: bool = False, stored: bool = False) -> Node:
    """The values in a YAML file; null if it is empty. Raises ConfigError if it cannot be read."""
    try:
        text = read_regular(file, _MAX_STORED_BYTES if stored else MAX_FILE_BYTES).decode("utf-8-sig")
    except (OSError, ValueError) as error:
        reason = f"not UTF-8 text (byte {error.start})" if isinstance(error, UnicodeDecodeError) else _reason(error)
        problems.append(Problem(Origin(file), "", f"cannot be read ({reason}); give the path of a YAML file"))
        raise ConfigError(problems) from None
    count = len(problems)
    max_values = MAX_STORED_VALUES if stored else MAX_VALUES
    node = parse(text, file, problems, yaml_1_1=yaml_1_1, max_values=max_values)
    if node is None and len(problems) > count:
        raise ConfigError(problems)
    return node or Node(None, Origin(file, 1, 1))


def _read(file: str, above: list[str], problems: list[Problem]) -> Node:
    """The file merged over its `base`; `above`: the files that build on it. Raises ConfigError for a bad `base`."""
    _check_is_configuration(file, problems)
    node = read_mapping(file, problems)
    named = node.value.pop(BASE, None)
    if named is None:
        return node
    substitute(Node({BASE: named}, named.origin), problems)
    chain = [*above, file]
    base = str(Path(file).parent / named.value) if isinstance(named.value, str) and named.value else ""
    if not base:
        problems.append(Problem(named.origin, BASE, f"expected the path of a YAML file, found {_noun(named)}"))
    elif any(_same(base, other) for other in chain):
        problems.append(Problem(named.origin, BASE, f"builds on itself: {' → '.join([*chain, base])}"))
    elif not _is_file(base):
        state = "is not a regular file" if os.path.exists(base) else "no such file; the path is relative to this file"
        problems.append(Problem(named.origin, BASE, f"{shorten(base, 300)}: {state}"))
    elif len(chain) > _MAX_BASES:
        text = f"more than {_MAX_BASES} files build on each other; merge some of them"
        problems.append(Problem(named.origin, BASE, text))
    else:
        return merge(_read(base, chain, problems), node)
    raise ConfigError(problems)  # without its base, a file is too incomplete to check


def _check_is_configuration(file: str, problems: list[Problem]) -> None:
    """Raise ConfigError, which says what to do, for a folder and for a file of data."""
    text = None
    if os.path.isdir(file):
        stored = Path(file) / "config.yaml"
        text = "is a folder; give the path of a YAML file"
        if stored.is_file():
            text = f"is the folder of a run or model; its configuration is {stored}"
    elif file.lower().removesuffix(".gz").endswith(DATA_EXTENSIONS) or _starts_as_data(file):
        shown = shlex.quote(file)
        text = f"is data, not a configuration; to write one for it: recap config new --from-data {shown}"
    if text is not None:
        problems.append(Problem(Origin(file), "", text))
        raise ConfigError(problems)


def _starts_as_data(file: str) -> bool:
    """Whether a regular file starts as Parquet, Arrow or gzip."""
    if not _is_file(file):
        return False
    with suppress(OSError), open(file, "rb") as stream:
        return stream.read(6).startswith((b"PAR1", b"ARROW1", b"\x1f\x8b"))
    return False


def _merge_file(root: Node, argument: str, problems: list[Problem]) -> Node:
    """Merge a `--set-file` argument: FILE contains sections, section.key=FILE the value of one key."""
    name, equals, file = argument.partition("=")
    origin = Origin(f"--set-file {argument!r}")
    if argument and (not equals or _is_file(argument)):
        return merge(root, _read(argument, [], problems))
    if not name or not file:
        problems.append(Problem(origin, "", "expected FILE, or section.key=FILE such as model.tasks=tasks.yaml"))
        return root
    set_value(root, name, _read_yaml(file, problems), origin, problems)
    return root


def override(root: Node, text: str, origin: Origin, problems: list[Problem]) -> None:
    """Set one `path.to.key=value` below `root`."""
    name, equals, written = text.partition("=")
    if not equals or not name:
        problems.append(Problem(origin, "", "expected section.key=value, such as training.seed=1"))
        return
    count = len(problems)
    value = parse(written, origin.source, problems, located=False) or Node(None, origin)
    if len(problems) == count:
        set_value(root, name, value, origin, problems)


def set_value(root: Node, name: str, value: Node, origin: Origin, problems: list[Problem]) -> None:
    """Set the value at the path `name`, or add the reason why there is no such path to `problems`."""
    keys = steps_of(name)
    if not keys or len(keys) > _MAX_STEPS:
        fault = "is too deep" if keys else "has an empty step"
        problems.append(Problem(origin, "", f"the path {name[:60]!r} {fault}; write section.key=value"))
        return
    node = root
    path: KeyPath = ()
    value.key = origin
    while True:
        key, keys = _next_key(node, keys)
        if isinstance(node.value, list) and _is_index(key) and int(key) < len(node.value):
            if not keys:
                node.value[int(key)] = value
                return
            node, path = node.value[int(key)], (*path, int(key))
        elif isinstance(node.value, dict) and not keys:
            node.value[key] = value
            return
        elif isinstance(node.value, dict) and (key in node.value or _add_parent(root, path, key, keys, origin)):
            node, path = node.value[key], (*path, key)
        else:
            problems.append(Problem(origin, "", _no_key(node, path, key)))
            return


def steps_of(name: str) -> list[str]:
    """The steps of a path, without their quotes; empty if one has no name."""
    parts = re.findall(r'(?:"([^"]*)"|([^."]+))(?:\.(?!$)|$)', name)
    steps = [quoted or word for quoted, word in parts]
    rebuilt = ".".join(f'"{quoted}"' if quoted else word for quoted, word in parts)
    return steps if rebuilt == name else []


def _next_key(node: Node, keys: list[str]) -> tuple[str, list[str]]:
    """The next step and those after it. A key of `node` that contains dots is one step, even without quotes."""
    for length in range(len(keys), 1, -1):
        name = ".".join(keys[:length])
        if isinstance(node.value, dict) and name in node.value:
            return name, keys[length:]
    return keys[0], keys[1:]


def _add_parent(root: Node, path: KeyPath, key: str, keys: list[str], origin: Origin) -> bool:
    """Add a mapping, or a copy of an inherited list, under `key`, so that `keys` can be set below it.

    False, and no change, if the user chooses the keys at `path`, or a list would be needed.
    """
    parent = node_at(root, path)
    assert parent is not None
    inherited = node_at(root, ("train_data", *path[2:], key)) if path[:1] == ("validation_data",) and path[1:] else None
    if inherited is not None and isinstance(inherited.value, dict | list):
        # An inherited mapping is merged with this one later; a list would be replaced, so it is copied.
        parent.value[key] = deepcopy(inherited) if isinstance(inherited.value, list) else Node({}, origin, origin)
        return True
    if is_table(RecapConfig, path) or _is_index(keys[0]):
        return False
    parent.value[key] = Node({}, origin, origin)
    return True


def _no_key(node: Node, path: KeyPath, key: str) -> str:
    here = dotted(path)
    if isinstance(node.value, dict):
        full = dotted((*path, key))
        return f"{here} has no {key!r}. {suggest(key, list(node.value))} To add it, set its complete value: {full}=…"
    if isinstance(node.value, list):
        return f"{here} is a list of {len(node.value)} items and has no key {key!r}"
    return f"{here} is {_noun(node)} and has no key {key!r}"


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


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)


def _noun(node: Node) -> str:
    """The value of a node, for messages."""
    if isinstance(node.value, dict | list):
        return "a mapping" if isinstance(node.value, dict) else "a list"
    if node.value is None:
        return "null"
    text = repr(node.value)
    return f"the value {text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 1] + '…'}"
