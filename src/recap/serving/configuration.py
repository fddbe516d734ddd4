"""The arguments of `recap serve` and its file → `ServerConfig`, with the origin of every value."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from recap.config.base import dotted
from recap.config.file.environment import substitute
from recap.config.file.layers import override, read_mapping, set_value
from recap.config.file.node import Node, node_of
from recap.config.file.validate import validate
from recap.config.serving.server import MODEL_NAME, ServerConfig
from recap.errors import ConfigError, Origin, Problem
from recap.text import shorten

_NAME = re.compile(MODEL_NAME)


def load_server_config(
    file: str | None,
    models: Sequence[str] = (),
    options: Mapping[str, tuple[str, object]] | None = None,
    overrides: Sequence[str] = (),
) -> ServerConfig:
    """The configuration in `file` with those arguments of the command that were given.

    `models`: `PATH` or `NAME=PATH`. `options`: key path → (name of the option, value). `overrides`:
    `section.key=value`; they take precedence. Raises ConfigError, which lists every problem with its origin.
    """
    problems: list[Problem] = []
    root = Node({}, Origin("command line"))
    if file is not None:
        root = read_mapping(file, problems, ServerConfig)
    _add_models(root, models, problems)
    for key, (option, value) in (options or {}).items():
        set_value(root, key, node_of(value, Origin(option)), Origin(option), problems)
    for text in overrides:
        override(root, text, Origin(f"--set {shorten(repr(text), 100)}"), problems)
    substitute(root, problems)
    try:
        config = validate(ServerConfig, root, problems)
    except ConfigError as error:  # an option is the name of its key
        names = {option for option, _ in (options or {}).values()}
        raise ConfigError(
            [replace(each, path="") if each.origin.source in names else each for each in error.problems]
        ) from None
    if not config.models:
        text = "no models to serve; give model directories as arguments, or add models to the file"
        problems.append(Problem(root.origin, "models", text))
        validate(ServerConfig, root, problems)
    return config


def is_server_file(file: str) -> bool:
    """Whether `file` has sections, and all of them are those of a server."""
    try:
        sections = set(read_mapping(file, [], ServerConfig).value)
    except ConfigError:
        return False
    return bool(sections) and sections <= ServerConfig.model_fields.keys()


def _add_models(root: Node, models: Sequence[str], problems: list[Problem]) -> None:
    """Add the models of arguments to those of the file."""
    known = root.value.setdefault("models", Node({}, root.origin))
    if not isinstance(known.value, dict):
        return  # reported by validation
    for text in models:
        name, path, origin = *_named(text), Origin(f"argument {shorten(text, 100)!r}")
        if not _NAME.fullmatch(name):
            problems.append(
                Problem(
                    origin,
                    "",
                    f"the model would be named {shorten(repr(name))}; names have letters, digits, '.', '_' and '-' "
                    f"only. Choose one: NAME={shorten(path, 200)}",
                )
            )
        elif name in known.value:
            other = known.value[name].origin
            text = f"is a second model {dotted((name,))}, besides {other}; name this one: NAME={shorten(path, 200)}"
            problems.append(Problem(origin, "", text))
        else:
            known.value[name] = node_of({"path": path}, origin)


def _named(text: str) -> tuple[str, str]:
    """The name and the path of an argument `PATH` or `NAME=PATH`; by default it is named after the folder."""
    name, equals, path = text.partition("=")
    if equals and path and "/" not in name and not os.path.exists(text):
        return name, path
    return Path(os.path.abspath(text)).name, text
