"""Validates values; reports all problems with their origins."""

import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from difflib import get_close_matches
from functools import partial
from itertools import islice
from typing import Annotated, Any, NoReturn, TypeVar, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError

from recap.config.base import KeyPath, MissingValue, ProblemError, all_problems, dotted
from recap.config.file.keys import is_model, keys_at, kinds, members, models_at
from recap.config.file.node import Node, node_at, nodes_along, plain
from recap.config.file.wording import message
from recap.config.file.yaml import scalar
from recap.errors import MAX_PROBLEMS, ConfigError, Origin, Problem

M = TypeVar("M", bound=BaseModel)


def validate(model: type[M], root: Node, known: Sequence[Problem] = ()) -> M:
    """`root` as a `model`. Raises ConfigError with the `known` problems and those that validation finds."""
    values = plain(root)
    validated, errors = _attempt(model, values)
    while errors and _retype(errors, root, values):
        validated, errors = _attempt(model, values)
    if validated is not None and not known:
        return validated
    problems = [*known, *_problems(model, errors[: MAX_PROBLEMS + 1], root, values)]
    if errors and len(errors) <= MAX_PROBLEMS:  # pydantic runs the checks only when every field is valid
        problems += located(root, islice(all_problems(_partial(model, values)), MAX_PROBLEMS + 1))
    raise ConfigError(in_order(problems))


def retyped(model: type[BaseModel], root: Node) -> dict[KeyPath, Any]:
    """Path of each value that fits its field only after an implicit conversion → the converted value.

    Text becomes the number or boolean it spells, a whole float an integer, 0 or 1 a boolean.
    """
    values, converted = plain(root), dict[KeyPath, Any]()
    while True:
        _, errors = _attempt(model, values)
        new = {path: value for path, value in map(partial(_converted, values), errors) if path not in converted}
        new.pop((), None)
        if not new:
            return converted
        for path, value in new.items():
            _parent(values, path)[path[-1]] = value
        converted |= new


def _converted(values: Any, error: Any) -> tuple[KeyPath, Any]:
    """The path of a value of the wrong type and the value converted to the right one; () if it has none."""
    path = _path(error["loc"], values, keep_last=False)
    if not path or not error["type"].endswith("_type"):
        return (), None
    value = _parent(values, path)[path[-1]]
    if error["type"] == "int_type" and isinstance(value, float) and value.is_integer():
        return path, int(value)
    if error["type"] == "bool_type" and value in (0, 1) and not isinstance(value, bool):
        return path, bool(value)
    if isinstance(value, str) and not isinstance(scalar(value), str | None):
        return path, scalar(value)
    return (), None


def _parent(values: Any, path: KeyPath) -> Any:
    """The mapping or list that holds the value at `path`."""
    for step in path[:-1]:
        values = values[step]
    return values


def _attempt(model: type[M], values: Any) -> tuple[M | None, Sequence[Any]]:
    try:
        return model.model_validate(values), ()
    except ValidationError as error:
        return None, error.errors(include_url=False)


def _retype(errors: Sequence[Any], root: Node, values: Any) -> bool:
    """Convert text from the environment in `values` to the type that its field expects; True if any was converted."""
    changed = False
    for item in errors[:MAX_PROBLEMS]:
        path = _path(item["loc"], values, keep_last=False)
        node = node_at(root, path)
        if node is None or node.reference is None or not path or not item["type"].endswith("_type"):
            continue
        parent = _parent(values, path)
        text = parent[path[-1]]
        if isinstance(text, str) and not isinstance(scalar(text), str):
            parent[path[-1]] = scalar(text)
            changed = True
    return changed


class _Invalid:
    """Replaces an invalid value in a list or mapping; any use of it ends the check, as reading a missing field does."""

    def _use(self, *_: object) -> NoReturn:
        raise MissingValue

    def __getattr__(self, name: str) -> NoReturn:
        """Special names are missing, so that `isinstance` works."""
        raise AttributeError(name) if name.startswith("__") else MissingValue(name)

    __getitem__ = __iter__ = __len__ = __contains__ = __bool__ = __repr__ = __str__ = __format__ = _use
    __lt__ = __le__ = __gt__ = __ge__ = __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = _use
    __floordiv__ = __rfloordiv__ = __truediv__ = __rtruediv__ = __mod__ = __rmod__ = __neg__ = __int__ = _use
    __eq__ = __ne__ = __hash__ = _use


_INVALID = _Invalid()


def _partial(annotation: Any, value: Any) -> Any:
    """`value` as validated, with misspelt keys corrected and without invalid fields; `_INVALID` if it is not usable."""
    with suppress(ValidationError):
        return TypeAdapter(annotation).validate_python(value, strict=True)
    for member in members(annotation):
        if isinstance(value, dict) and is_model(member) and value.get("kind") in (None, *kinds(member)):
            return _partial_section(member, value)
        if isinstance(value, dict) and value and get_origin(member) is dict:
            return {key: _partial(get_args(member)[1], item) for key, item in value.items()}
        if isinstance(value, list) and value and get_origin(member) is list:
            return [_partial(get_args(member)[0], item) for item in value]
    return _INVALID


def _partial_section(model: type[BaseModel], values: dict[str, Any]) -> BaseModel:
    """A section without its invalid fields, which must not get their defaults, since the file sets them."""
    fields = model.model_fields
    section = model.model_construct()
    for key, value in values.items():
        name = key if key in fields else next(iter(get_close_matches(key, fields.keys() - values.keys(), n=1)), None)
        if name is not None:
            section.__dict__[name] = _partial(Annotated[fields[name].annotation, fields[name]], value)
            if section.__dict__[name] is _INVALID:
                del section.__dict__[name]
    return section


def _problems(model: type[BaseModel], errors: Sequence[Any], root: Node, values: Any) -> list[Problem]:
    problems: list[Problem] = []
    for item in errors:
        cause = item.get("ctx", {}).get("error")
        here = _path(item["loc"], values, keep_last=item["type"] in ("extra_forbidden", "missing"))
        if isinstance(cause, ProblemError):
            problems += located(root, cause.problems)
            continue
        if (item["type"] == "missing" and _is_misspelt(model, here, values)) or _is_not_inherited(here, errors):
            continue
        if item["type"] == "union_tag_invalid":
            here = (*here, "kind")
        node = node_at(root, here)
        if node is not None and node.unresolved:
            continue  # the unset variable is already reported
        key = item["type"] == "extra_forbidden"
        if item["type"] == "union_tag_not_found":
            known = list(dict.fromkeys(kind for choice in models_at(model, here) for kind in kinds(choice)))
        else:
            known = keys_at(model, here[:-1], values)
        text = message(item, known, node)
        problems.append(Problem(origin_at(root, here, key=key), dotted(here), text))
    return problems


def _is_misspelt(model: type[BaseModel], path: KeyPath, values: Any) -> bool:
    """Whether a missing key is present with a typo, which is already reported."""
    parent = _parent(values, path)
    known = keys_at(model, path[:-1], values)
    unknown = [key for key in parent if key not in known] if isinstance(parent, dict) else []
    return any(get_close_matches(key, known, n=1) == [path[-1]] for key in unknown[:MAX_PROBLEMS])


def _is_not_inherited(path: KeyPath, errors: Sequence[Any]) -> bool:
    """Whether a validation split lacks a key only because `train_data` does."""
    inherited = ("train_data", *path[2:])
    is_set = path[:1] == ("validation_data",) and len(path) > 2
    return is_set and any(item["type"] == "missing" and item["loc"] == inherited for item in errors)


_UNKNOWN = re.compile(r"^unknown [\w ]+ ")
"""Precedes the name in messages; a message that begins with a key is about the key, not about its value."""


def located(root: Node, problems: Iterable[tuple[KeyPath, str]]) -> list[Problem]:
    """`problems` with origins, except those of unset environment variables, which are already reported."""
    result: list[Problem] = []
    for path, text in problems:
        node = node_at(root, path)
        if node is None or not node.unresolved:
            key = bool(path) and _UNKNOWN.sub("", text, count=1).startswith(repr(path[-1]))
            origin = origin_at(root, _as_written(root, path), key=key)
            result.append(Problem(origin, dotted(path), text))
    return result


def _as_written(node: Node, path: KeyPath) -> KeyPath:
    """`path` with its keys as spelled in the file."""
    written: list[str | int] = []
    for step in path:
        below = node.value if isinstance(node.value, dict | list) else {}
        if isinstance(below, dict) and step not in below:
            step = next(iter(get_close_matches(str(step), list(below), n=1)), step)
        written.append(step)
        child = node_at(node, (step,))
        if child is None:
            break
        node = child
    return tuple(written)


def _path(location: Sequence[str | int], values: Any, *, keep_last: bool) -> KeyPath:
    """The key path of a pydantic location, which also contains the tags of unions.

    `keep_last`: the last step is a key even if the file does not have it.
    """
    path: list[str | int] = []
    value: Any = values
    entered = True
    for index, key in enumerate(location):
        is_tag = entered and isinstance(value, dict) and value.get("kind") == key
        is_item = isinstance(value, list) and isinstance(key, int) and key < len(value)
        entered = False
        if is_tag:
            continue
        if is_item or (isinstance(value, dict) and key in value):
            value, entered = value[key], True
        elif keep_last and index == len(location) - 1 and isinstance(value, dict):
            value = None
        else:
            continue
        path.append(key)
    return tuple(path)


def origin_at(root: Node, path: KeyPath, *, key: bool = False) -> Origin:
    """The origin of the value at `path`, or of its `key`; if it is missing, of the nearest key above."""
    along = list(nodes_along(root, path))
    node, reached = along[-1], len(along) == len(path) + 1
    missing = not reached and isinstance(node.value, dict | list)
    below = node.key is not None and node.origin.line > node.key.line
    if node.key is not None and (key or missing or below):
        return node.key
    return node.origin


def in_order(problems: Sequence[Problem]) -> list[Problem]:
    """`problems` without duplicates, in the order of files and lines, then those of overrides.

    Aliases and inherited values repeat a problem at the same position; it is reported once.
    """
    sources = list(dict.fromkeys(problem.origin.source for problem in problems))
    once: dict[tuple[Origin, str, str], Problem] = {}
    for problem in problems:
        key = problem.path.rpartition(".")[2] if problem.origin.line else problem.path
        once.setdefault((problem.origin, key, problem.text), problem)

    def position(problem: Problem) -> tuple[bool, int, int, int]:
        origin = problem.origin
        return origin.line == 0, sources.index(origin.source), origin.line, origin.column

    return sorted(once.values(), key=position)
