"""YAML text → plain values, and where each stands. Scalars follow the YAML 1.2 core schema.

PyYAML reads YAML 1.1, where `1e-4` is a string, `no` is false and `22:30` is a number; here `1e-4` is a number
and only `true` and `false` are booleans. No tag constructs anything but plain values.
"""

import re
from dataclasses import dataclass
from typing import Any

import yaml

from recap.config.recap import Path
from recap.errors import ConfigError


class _Loader(yaml.SafeLoader):
    """The safe loader with the scalars of YAML 1.2."""

    yaml_implicit_resolvers: dict[str, Any] = {}


_INTEGER = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
for _tag, _pattern, _first in (
    ("null", re.compile(r"~|null|Null|NULL|"), ["~", "n", "N", ""]),
    ("bool", re.compile(r"true|True|TRUE|false|False|FALSE"), list("tTfF")),
    ("int", _INTEGER, list("-+0123456789")),
    ("float", _FLOAT, list("-+.0123456789")),
    ("merge", re.compile("<<"), ["<"]),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern.pattern})$"), _first)


def _number(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int | float:
    text = str(loader.construct_scalar(node))
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text.replace(".inf", "inf").replace(".nan", "nan").lower().replace(".inf", "inf"))


_Loader.add_constructor("tag:yaml.org,2002:int", _number)
_Loader.add_constructor("tag:yaml.org,2002:float", _number)


@dataclass(frozen=True)
class Mark:
    """A place in a file, both counted from 1."""

    line: int
    column: int


@dataclass(frozen=True)
class Document:
    """The values of a YAML text, and where every key and every value begins."""

    value: Any
    keys: dict[Path, Mark]
    values: dict[Path, Mark]


def parse(text: str, name: str) -> Document:
    """Parse one YAML document; `name` is how errors call it. Raises ConfigError for syntax and duplicate keys."""
    loader = _Loader(text)
    keys: dict[Path, Mark] = {}
    values: dict[Path, Mark] = {}
    try:
        node = loader.get_single_node()
        if node is None:
            return Document(None, keys, values)
        problems = list(_walk(node, (), keys, values, name, set()))
        if problems:
            raise ConfigError("\n".join(problems))
        return Document(_unshared(loader.construct_document(node)), keys, values)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
        hint = "; indent with spaces, never with tabs" if "\\t" in str(error.problem) else ""
        context = f" {error.context}" if error.context else ""
        raise ConfigError(f"{place}: not valid YAML: {error.problem}{context}{hint}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: not valid YAML: {error}") from None
    except RecursionError:
        raise ConfigError(f"{name}: not valid YAML: nested too deeply") from None
    finally:
        loader.dispose()


def _unshared(value: Any) -> Any:
    """A copy in which aliases are values of their own: changing one place later changes no other."""
    if isinstance(value, dict):
        return {key: _unshared(item) for key, item in value.items()}
    return [_unshared(item) for item in value] if isinstance(value, list) else value


def _walk(
    node: yaml.Node,
    path: Path,
    keys: dict[Path, Mark],
    values: dict[Path, Mark],
    name: str,
    open_nodes: set[int],
) -> Any:
    """Record the marks below `node`; yield a message for each duplicate key and each key that is no string."""
    values[path] = Mark(node.start_mark.line + 1, node.start_mark.column + 1)
    if id(node) in open_nodes:
        yield f"{name}:{values[path].line}:{values[path].column}: an alias stands inside its own anchor"
        return
    open_nodes.add(id(node))
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key_node, value_node in node.value:
            mark = Mark(key_node.start_mark.line + 1, key_node.start_mark.column + 1)
            place = f"{name}:{mark.line}:{mark.column}"
            if key_node.tag == "tag:yaml.org,2002:merge":
                merged = value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
                for each in merged:
                    yield from _walk(each, path, keys, values, name, open_nodes)
                continue
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != "tag:yaml.org,2002:str":
                yield f"{place}: {'.'.join(map(str, path))}: a key must be a string; quote it if it looks like a number"
                continue
            key = key_node.value
            if key in seen:
                yield f"{place}: {'.'.join(map(str, (*path, key)))}: duplicate key; keep one of them"
            seen.add(key)
            keys[(*path, key)] = mark
            yield from _walk(value_node, (*path, key), keys, values, name, open_nodes)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _walk(item, (*path, index), keys, values, name, open_nodes)
    open_nodes.discard(id(node))
