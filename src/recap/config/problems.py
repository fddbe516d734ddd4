"""Values → a validated model, or every problem in them with its place and what would be accepted there."""

from collections import Counter
from collections.abc import Sequence
from copy import deepcopy
from difflib import get_close_matches
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from recap.config.keys import keys_at, suggest
from recap.config.node import Node, Path, dotted, node_at, nodes_along, plain
from recap.config.recap import CrossCheckError
from recap.config.yaml_file import scalar
from recap.errors import ConfigError, Origin, Problem

M = TypeVar("M", bound=BaseModel)
_NOTHING = object()


def validate(model: type[M], root: Node, known: Sequence[Problem] = ()) -> M:
    """`root` as a `model`. Raises ConfigError with the `known` problems and all that validation finds."""
    values = plain(root)
    found: list[Problem] = []
    validated: M | None = None
    while True:
        try:
            validated = model.model_validate(values)
            break
        except ValidationError as error:
            errors = error.errors(include_url=False)
        if not _retype(errors, root, values):
            found = _problems(model, errors, root, values)
            found += _problems(model, _hidden_errors(model, errors, values), root, values)
            break
    if known:  # what stands where a reference could not be resolved says nothing
        places = {(problem.origin, problem.path) for problem in known}
        found = [problem for problem in found if (problem.origin, problem.path) not in places]
    if validated is None or known:
        raise ConfigError(_in_order([*known, *found]))
    return validated


def _retype(errors: Sequence[Any], root: Node, values: Any) -> bool:
    """Text from the environment takes the type its field asks for: set it in `values`; whether any was."""
    changed = False
    for item in errors:
        path = _path(item["loc"], values, keep_last=False)
        node = node_at(root, path)
        if node is None or not node.variables or not path or not item["type"].endswith("_type"):
            continue
        where = values
        for step in path[:-1]:
            where = where[step]
        if isinstance(where[path[-1]], str) and not isinstance(scalar(where[path[-1]]), str):
            where[path[-1]] = scalar(where[path[-1]])
            changed = True
    return changed


_STAND_INS: tuple[Any, ...] = (_NOTHING, 1024, 0.5, "stands-in")
"""What is tried, one after the other, in the place of a value that is refused: first its default."""


def _hidden_errors(model: type[BaseModel], errors: Sequence[Any], values: Any) -> list[Any]:
    """Disagreements between sections, which are only looked for once each section is good by itself.

    So a copy of the values is mended, as far as that is clear; if it is not, the disagreements show in the next run.
    """
    mended, tries = deepcopy(values), Counter[Path]()
    for _ in range(2 * len(_STAND_INS)):
        if not all(_mend(model, item, mended, tries) for item in errors):
            return []
        try:
            model.model_validate(mended)
        except ValidationError as error:
            errors = error.errors(include_url=False)
        else:
            return []
        if all(isinstance(item.get("ctx", {}).get("error"), CrossCheckError) for item in errors):
            return list(errors)
    return []


def _mend(model: type[BaseModel], item: Any, values: Any, tries: "Counter[Path]") -> bool:
    """Change what one error is about; whether there is a clear way to."""
    kind = item["type"]
    if kind in ("model_type", "dict_type", "list_type", "model_attributes_type", "union_tag_not_found", "value_error"):
        return False
    *parents, last = path = _path(item["loc"], values, keep_last=kind in ("extra_forbidden", "missing"))
    where = values
    for step in parents:
        where = where[step]
    if kind == "union_tag_invalid":
        near = get_close_matches(str(item["ctx"]["tag"]), _tags(item), n=1)
        where[last]["kind"] = near[0] if near else None
        return bool(near)
    if kind == "extra_forbidden":
        known = [key for key in keys_at(model, path[:-1], values) if key not in where]
        near = get_close_matches(str(last), known, n=1)
        refused = where.pop(last)
        where.update({near[0]: refused} if near else {})
        return True
    tries[path] += 1 if tries[path] or (isinstance(where, dict) and kind != "missing") else 2
    if tries[path] > len(_STAND_INS):
        return False
    stand_in = _STAND_INS[tries[path] - 1]
    if stand_in is _NOTHING:
        del where[last]
    else:
        where[last] = stand_in
    return True


def _tags(item: Any) -> list[str]:
    return [tag.strip("' ") for tag in str(item["ctx"]["expected_tags"]).split(",")]


def _problems(model: type[BaseModel], errors: Sequence[Any], root: Node, values: Any) -> list[Problem]:
    found: list[Problem] = []
    for item in errors:
        cause = item.get("ctx", {}).get("error")
        here = _path(item["loc"], values, keep_last=item["type"] in ("extra_forbidden", "missing"))
        if isinstance(cause, CrossCheckError):
            for path, text in cause.problems:
                found.append(Problem(origin_at(root, (*here, *path)), dotted((*here, *path)), text))
            continue
        if item["type"] == "union_tag_invalid":
            here = (*here, str(item["ctx"]["discriminator"]).strip("'"))
        key = item["type"] == "extra_forbidden"
        found.append(Problem(origin_at(root, here, key=key), dotted(here), _message(model, item, here, values)))
    return found


def _path(location: Sequence[str | int], values: Any, *, keep_last: bool) -> Path:
    """A pydantic location without the tags of unions, which are no keys of the file."""
    path: list[str | int] = []
    where: Any = values
    entered = True
    for index, key in enumerate(location):
        is_tag = entered and isinstance(where, dict) and where.get("kind") == key
        there = isinstance(where, list) and isinstance(key, int) and key < len(where)
        entered = False
        if is_tag:
            continue
        if there or (isinstance(where, dict) and key in where):
            where, entered = where[key], True
        elif keep_last and index == len(location) - 1 and isinstance(where, dict):
            where = None
        else:
            continue
        path.append(key)
    return tuple(path)


def origin_at(root: Node, path: Path, *, key: bool = False) -> Origin:
    """Of the nearest thing that was written: the value itself if `key` is not asked for, else a key above it."""
    along = list(nodes_along(root, path))
    node, reached = along[-1], len(along) == len(path) + 1
    missing = not reached and isinstance(node.value, dict | list)
    below = node.key is not None and node.origin.line > node.key.line
    if node.key is not None and (key or missing or below):
        return node.key
    return node.origin


def _in_order(problems: Sequence[Problem]) -> list[Problem]:
    """Each once: those of files from top to bottom, file by file, then those of overrides."""
    sources = list(dict.fromkeys(problem.origin.source for problem in problems))
    once: dict[tuple[Origin, str], Problem] = {}
    for problem in problems:
        once.setdefault((problem.origin, problem.text), problem)

    def place(problem: Problem) -> tuple[bool, int, int, int]:
        origin = problem.origin
        return origin.line == 0, sources.index(origin.source), origin.line, origin.column

    return sorted(once.values(), key=place)


def _message(model: type[BaseModel], item: Any, path: Path, values: Any) -> str:
    found, context = item["input"], item.get("ctx", {})
    match item["type"]:
        case "extra_forbidden":
            known = keys_at(model, path[:-1], values)
            return f"{str(path[-1])!r} is unknown. {suggest(str(path[-1]), known)}"
        case "missing":
            return "is required, but missing"
        case "union_tag_invalid":
            return f"{context['tag']!r} is unknown. {suggest(str(context['tag']), _tags(item))}"
        case "union_tag_not_found":
            return f"needs a 'kind' that says which one it is, found {_show(found)}"
        case "literal_error":
            known = [each.strip(" '") for each in str(context["expected"]).replace(" or ", ",").split(",")]
            return f"{_show(found)} is unknown. {suggest(str(found), known)}"
        case "value_error":
            return str(context["error"])
        case "model_type" | "dict_type" | "model_attributes_type":
            return f"expected a mapping, found {_show(found)}"
        case _:
            text = item["msg"].replace("Input should be", "must be").replace("should", "must")
            return f"{text[0].lower()}{text[1:]}, found {_show(found)}"


def _show(value: Any) -> str:
    """What was found, as short as it can be said."""
    if isinstance(value, dict):
        return "a mapping" if value else "an empty mapping"
    if isinstance(value, list):
        return f"a list of {len(value)} items" if value else "an empty list"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
