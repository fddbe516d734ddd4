"""The keys accepted at a key path, and the markers of its field, read from the models."""

from collections.abc import Iterator
from difflib import get_close_matches
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

from recap.config.base import KeyPath


def keys_at(root: type[BaseModel], path: KeyPath, raw: Any) -> list[str]:
    """The keys accepted at `path` below a `root` with the values `raw`; of a choice, those of the kind in `raw`."""
    value = raw
    for key in path:
        exists = isinstance(value, dict) or (isinstance(value, list) and isinstance(key, int) and key < len(value))
        value = (value.get(key) if isinstance(value, dict) else value[key]) if exists else None
    models = models_at(root, path)
    stated = value if isinstance(value, dict) else {}
    chosen = [model for model in models if stated.get("kind") is not None and stated["kind"] in kinds(model)]
    chosen = chosen or (_nearest(models, list(map(str, stated))) if len(models) > 1 else models) or models
    return list(dict.fromkeys(name for model in chosen for name in model.model_fields))


def _nearest(models: list[type[BaseModel]], stated: list[str]) -> list[type[BaseModel]]:
    """The models whose required keys are all stated, misspelt or not; of these, those that require the most."""
    fitting = [model for model in models if all(get_close_matches(key, stated) for key in _required(model))]
    most = max((len(_required(model)) for model in fitting), default=0)
    return [model for model in fitting if len(_required(model)) == most]


def models_at(root: type[BaseModel], path: KeyPath) -> list[type[BaseModel]]:
    """The sections accepted at `path`: several for a choice, none for a scalar or a list."""
    return [annotation for annotation in _annotations_at(root, path) if is_model(annotation)]


def is_table(root: type[BaseModel], path: KeyPath) -> bool:
    """Whether the keys of the mapping at `path` are chosen by the user, such as names of tasks."""
    return any(get_origin(annotation) is dict for annotation in _annotations_at(root, path))


def has_mark(root: type[BaseModel], path: KeyPath, mark: object) -> bool:
    """Whether the field at `path` itself is annotated with `mark`, such as `OrderMatters()`."""
    if not path:
        return False
    fields = (model.model_fields.get(str(path[-1])) for model in models_at(root, path[:-1]))
    return any(mark in field.metadata for field in fields if field is not None)


def is_below_mark(root: type[BaseModel], path: KeyPath, mark: object) -> bool:
    """Whether the field at `path`, or a section that contains it, is annotated with `mark`."""
    return any(has_mark(root, path[:length], mark) for length in range(1, len(path) + 1))


def _annotations_at(root: type[BaseModel], path: KeyPath) -> list[Any]:
    annotations: list[Any] = [root]
    for key in path:
        annotations = [below for annotation in annotations for below in _below(annotation, key)]
    return annotations


def _below(annotation: Any, key: str | int) -> list[Any]:
    """The possible types of the value under `key` of an `annotation`."""
    if is_model(annotation):
        field = annotation.model_fields.get(str(key))
        return members(field.annotation) if field is not None else []
    arguments = get_args(annotation)
    return members(arguments[-1]) if get_origin(annotation) in (dict, list) else []


def members(annotation: Any) -> list[Any]:
    """The possible types of a value of `annotation`, without metadata."""
    return list(_members(annotation))


def _members(annotation: Any) -> Iterator[Any]:
    if get_origin(annotation) is Annotated:
        yield from _members(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, UnionType):
        for argument in get_args(annotation):
            yield from _members(argument)
    else:
        yield annotation


def _required(model: type[BaseModel]) -> set[str]:
    return {name for name, field in model.model_fields.items() if field.is_required()}


def is_model(annotation: Any) -> bool:
    """Whether a type is a section of the configuration."""
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def kinds(model: type[BaseModel]) -> tuple[Any, ...]:
    """The values of `kind` that select `model`; empty if it has no kind."""
    field = model.model_fields.get("kind")
    return get_args(field.annotation) if field is not None else ()
