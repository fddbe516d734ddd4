"""YAML text ↔ plain values. Scalars follow the YAML 1.2 core schema.

PyYAML reads YAML 1.1, where `1e-4` is a string, `no` is false and `22:30` is a number; here `1e-4` is a number
and only `true` and `false` are booleans. Files in the published form are read as YAML 1.1, except that `1e-4` is a
number. Tags construct only plain values.
"""

import json
import math
import re
from collections.abc import Mapping
from typing import Any

import yaml

from recap.config.base import KeyPath, dotted
from recap.config.file.node import Node
from recap.errors import Origin, Problem

MAX_VALUES = 50_000
"""Maximum number of keys and values in a file, and of values after expanding aliases, which may multiply them."""
MAX_STORED_VALUES = 8 * MAX_VALUES
"""As `MAX_VALUES`, in a stored configuration, which states every default."""


class _Composer(yaml.SafeLoader):
    """The safe loader, which stops at a file of too many keys and values."""

    nodes, max_nodes = 0, MAX_VALUES

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.nodes += 1
        if self.nodes > self.max_nodes:
            problem = f"more than {self.max_nodes:,} keys and values; long lists of values belong in files of data"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=self.get_mark())
        return super().compose_node(parent, index)


class _Loader(_Composer):
    """The safe loader with the scalars of YAML 1.2."""

    yaml_implicit_resolvers: dict[str, Any] = {}


_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_PREFIX = "tag:yaml.org,2002:"
for _tag, _pattern, _first in (
    ("null", re.compile(r"~|null|Null|NULL|"), ["~", "n", "N", ""]),
    ("bool", re.compile(r"true|True|TRUE|false|False|FALSE"), list("tTfF")),
    ("int", _INTEGER, list("-+0123456789")),
    ("float", _FLOAT, list("-+.0123456789")),
    ("merge", re.compile("<<"), ["<"]),
):
    _Loader.add_implicit_resolver(f"{_PREFIX}{_tag}", re.compile(f"(?:{_pattern.pattern})$"), _first)


class _OldLoader(_Composer):
    """The safe loader, with the scalars of YAML 1.1; dates stay text, and `1e-4` is a number."""

    yaml_implicit_resolvers: dict[str, Any] = {
        first: [entry for entry in resolvers if entry[0] != f"{_PREFIX}timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_EXPONENT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$")
_OldLoader.add_implicit_resolver(f"{_PREFIX}float", _EXPONENT, list("-+.0123456789"))


def parse(
    text: str,
    source: str,
    problems: list[Problem],
    *,
    located: bool = True,
    yaml_1_1: bool = False,
    max_values: int = MAX_VALUES,
) -> Node | None:
    """The values of a YAML document; None if it is empty or invalid. Mistakes are added to `problems`.

    `source`: the name of the text in origins. `located`: whether origins have a line and column.
    """
    loader: _Loader | _OldLoader | None = None
    try:
        loader = _OldLoader(text) if yaml_1_1 else _Loader(text)
        loader.max_nodes = max_values
        node = loader.get_single_node()
        return _Builder(loader, source, problems, located=located).node(node, ()) if node is not None else None
    except yaml.MarkedYAMLError as error:
        problems.append(_syntax_problem(error, text, source, located=located))
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        origin = Origin(source, line, column) if located else Origin(source)
        problems.append(Problem(origin, "", f"not valid YAML: the character {chr(error.character)!r} is not allowed"))
    except yaml.YAMLError as error:
        problems.append(Problem(Origin(source), "", f"not valid YAML: {str(error).splitlines()[0]}"))
    except (ValueError, OverflowError):  # such as "\\U00110000", which is no character
        mark = loader.get_mark() if loader is not None else None
        origin = Origin(source, mark.line + 1, mark.column + 1) if mark is not None and located else Origin(source)
        problems.append(Problem(origin, "", "not valid YAML: the escape in this text is not a character of Unicode"))
    except RecursionError:
        problems.append(Problem(Origin(source), "", "not valid YAML: nested too deeply"))
    finally:
        if loader is not None:
            loader.dispose()
    return None


def _syntax_problem(error: yaml.MarkedYAMLError, text: str, source: str, *, located: bool) -> Problem:
    mark, opened = error.problem_mark or error.context_mark, error.context_mark
    what = f"{error.context}, {error.problem}" if error.context and error.problem else error.problem or error.context
    if mark is None or not located:
        return Problem(Origin(source), "", f"not valid YAML: {what}")
    never_closed = opened is not None and opened.line < mark.line and re.search("flow|quoted", error.context or "")
    if opened is not None and never_closed:
        mark, what = opened, "this bracket or quote is not closed"
    lines = text.splitlines()
    hint = _hint(lines[mark.line] if mark.line < len(lines) else "", what or "")
    return Problem(Origin(source, mark.line + 1, mark.column + 1), "", f"not valid YAML: {what}{hint}")


def _hint(line: str, problem: str) -> str:
    if "'\\t'" in problem:
        return "; indent with spaces, not tabs"
    if "undefined alias" in problem or "scanning an alias" in problem:
        return "; quote values that begin with *"
    if "found another document" in problem:
        return "; a file must be a single document, without ---"
    return "; inside { } and [ ] write ${…} in quotes" if "${" in line else ""


_SURROGATE = re.compile("[\ud800-\udfff]")
_UNKNOWN_TAG = "unknown tag {!r}; write plain values"


class _Builder:
    """Builds a `Node` from PyYAML's graph: resolves merges and aliases, and gives each value its origin."""

    def __init__(self, loader: "_Loader | _OldLoader", source: str, problems: list[Problem], *, located: bool) -> None:
        self.loader, self.source, self.problems, self.located = loader, source, problems, located
        self.open: set[int] = set()
        self.count = 0

    def node(self, node: yaml.Node, path: KeyPath, key: Origin | None = None) -> Node:
        """The node at `path`."""
        self.count += 1
        if self.count > self.loader.max_nodes:
            raise yaml.YAMLError(f"more than {self.loader.max_nodes:,} values once aliases are expanded")
        origin = self._origin(node)
        if id(node) in self.open:
            raise yaml.MarkedYAMLError(problem="the anchor contains an alias of itself", problem_mark=node.start_mark)
        self.open.add(id(node))
        if not isinstance(node, yaml.ScalarNode) and node.tag not in (f"{_PREFIX}map", f"{_PREFIX}seq"):
            self._add_problem(origin, path, _UNKNOWN_TAG.format(node.tag.replace(_PREFIX, "!!")))
        if isinstance(node, yaml.MappingNode):
            built = Node(self._mapping(node, path), origin, key)
        elif isinstance(node, yaml.SequenceNode):
            built = Node([self.node(item, (*path, index)) for index, item in enumerate(node.value)], origin, key)
        else:
            built = Node(self._scalar(node, path), origin, key)
        self.open.discard(id(node))
        return built

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Node]:
        merged: dict[str, Node] = {}
        stated: dict[str, Node] = {}
        for key_node, value_node in node.value:
            origin = self._origin(key_node)
            if key_node.tag == f"{_PREFIX}merge":
                for source in value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]:
                    below = self.node(source, path).value
                    if isinstance(below, dict):
                        merged = {**below, **merged}
                    else:
                        self._add_problem(origin, path, "<< needs a mapping; write an alias of one")
            elif not isinstance(key_node, yaml.ScalarNode) or key_node.tag != f"{_PREFIX}str":
                self._add_problem(origin, path, "a key must be a string; quote it if it looks like a number")
            else:
                name = self._text(key_node, path)
                if "${" in name:
                    self._add_problem(
                        origin, path, f"the key {name!r} contains a reference; use references in values only"
                    )
                if name in stated:
                    self._add_problem(origin, (*path, name), "duplicate key; remove one")
                stated[name] = self.node(value_node, (*path, name), origin)
        return {**merged, **stated}

    def _scalar(self, node: yaml.Node, path: KeyPath) -> Any:
        text = self._text(node, path)
        match node.tag.removeprefix(_PREFIX):
            case "str":
                return text
            case "int" | "float" | "bool" | "null" if not isinstance(value := self._plain(node, text), str):
                return value
            case _:
                self._add_problem(self._origin(node), path, _UNKNOWN_TAG.format(node.tag.replace(_PREFIX, "!!")))
                return scalar(text)

    def _text(self, node: yaml.Node, path: KeyPath) -> str:
        """The text of a scalar. Escapes of two surrogates, as JSON writes them, are one character."""
        text = str(node.value)
        if not _SURROGATE.search(text):
            return text
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        if "\ufffd" in text:
            self._add_problem(self._origin(node), path, "contains half of a surrogate pair, which is not a character")
        return text

    def _plain(self, node: yaml.Node, text: str) -> Any:
        """The number, boolean or null of a scalar; a string if it is none of these."""
        value = scalar(text)
        if isinstance(self.loader, _Loader) or isinstance(value, float):
            return value
        try:
            return self.loader.construct_object(node)
        except ValueError:  # a tag that does not fit, or a number with too many digits
            return value

    def _origin(self, node: yaml.Node) -> Origin:
        if not self.located:
            return Origin(self.source)
        return Origin(self.source, node.start_mark.line + 1, node.start_mark.column + 1)

    def _add_problem(self, origin: Origin, path: KeyPath, text: str) -> None:
        self.problems.append(Problem(origin, dotted(path), text))


def scalar(text: str) -> str | int | float | bool | None:
    """The value of a plain YAML scalar."""
    if text in ("", "~", "null", "Null", "NULL"):
        return None
    if text in ("true", "True", "TRUE", "false", "False", "FALSE"):
        return text.lower() == "true"
    if _INTEGER.fullmatch(text):
        base = {"0o": 8, "0x": 16}.get(text[:2], 10)
        return int(text[2:] if base != 10 else text, base) if len(text) < 300 else float("inf")
    if _FLOAT.fullmatch(text):
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    return text


_UNPRINTABLE = re.compile("[^ -~\u00a0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
_PLAIN = re.compile(r"[A-Za-z0-9_/.][A-Za-z0-9_/.*+%=~-]*( [A-Za-z0-9_/.*+%=~-]+)*")
_WIDTH = 100


def render(value: Any, comments: Mapping[KeyPath, str] | None = None) -> str:
    """Plain values as YAML, with short lists and mappings on one line.

    `comments`: path of a scalar, or of a list of scalars → comment at the end of its line.
    """
    lines = list(_lines(value, (), 0, comments or {}))
    aligned = min(max((len(text) for text, comment in lines if comment), default=0), 72)
    return "".join(f"{text:<{aligned}}  # {comment}\n" if comment else f"{text}\n" for text, comment in lines)


def _lines(value: Any, path: KeyPath, indent: int, comments: Mapping[KeyPath, str]) -> Any:
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        start = " " * indent + (f"{_text(key)}:" if isinstance(value, dict) else "-")
        below = {comment for at, comment in comments.items() if at[: len(path) + 1] == (*path, key)}
        one_line = f"{start} {render_inline(item)}"
        nested = isinstance(item, dict) and not path  # a section always spans several lines
        fits = len(one_line) <= _WIDTH and len(below) <= 1 and _depth(item) <= 3 and not nested
        if not item or not isinstance(item, dict | list) or fits:
            yield one_line, "; ".join(below)
            continue
        inner = list(_lines(item, (*path, key), indent + 2, comments))
        if isinstance(value, dict):
            yield start, ""
            yield from inner
        else:
            yield start + inner[0][0][indent + 1 :], inner[0][1]
            yield from inner[1:]


def _depth(value: Any) -> int:
    below = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(_depth, below), default=0) if isinstance(value, dict | list) else 0


def render_inline(value: Any) -> str:
    """Plain values as YAML on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_text(key)}: {render_inline(item)}" for key, item in value.items()) + "}"
    return "[" + ", ".join(map(render_inline, value)) + "]" if isinstance(value, list) else _text(value)


def _text(value: Any) -> str:
    if isinstance(value, str):
        plain = _PLAIN.fullmatch(value) and isinstance(scalar(value), str) and value != "<<"
        quoted = json.dumps(value, ensure_ascii=False)
        return value if plain else _UNPRINTABLE.sub(lambda match: f"\\U{ord(match[0]):08x}", quoted)
    if isinstance(value, float) and not math.isfinite(value):
        return ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
    return "null" if value is None else json.dumps(value)
