"""Which keys a place of the configuration accepts, read from the models themselves."""

from difflib import get_close_matches
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

from recap.config.base import KeyPath


def keys_at(root: type[BaseModel], path: KeyPath, raw: Any) -> list[str]:
    """Keys accepted at `path` of values `raw` of a `root`; several kinds: those of the kind that is written there."""
    where = raw
    for key in path:
        is_there = isinstance(where, dict) or (isinstance(where, list) and isinstance(key, int) and key < len(where))
        where = (where.get(key) if isinstance(where, dict) else where[key]) if is_there else None
    models = [each for each in _annotations_at(root, path) if is_model(each)]
    stated = where if isinstance(where, dict) else {}
    chosen = [model for model in models if stated.get("kind") is not None and stated["kind"] in kinds(model)]
    chosen = chosen or (_nearest(models, list(map(str, stated))) if len(models) > 1 else models) or models
    return list(dict.fromkeys(name for model in chosen for name in model.model_fields))


def _nearest(models: list[type[BaseModel]], stated: list[str]) -> list[type[BaseModel]]:
    """The models whose required keys are stated, misspelt or not; of these, those that require the most."""
    fitting = [model for model in models if all(get_close_matches(key, stated) for key in _required(model))]
    most = max((len(_required(model)) for model in fitting), default=0)
    return [model for model in fitting if len(_required(model)) == most]


def is_table(root: type[BaseModel], path: KeyPath) -> bool:
    """Whether the mapping at `path` has keys of the user's choice, such as the names of tasks."""
    return any(get_origin(each) is dict for each in _annotations_at(root, path))


def _annotations_at(root: type[BaseModel], path: KeyPath) -> list[Any]:
    found: list[Any] = [root]
    for key in path:
        found = [below for each in found for below in _below(each, key)]
    return found


def _below(annotation: Any, key: str | int) -> list[Any]:
    """The types a value under `key` of `annotation` may have."""
    if is_model(annotation):
        field = annotation.model_fields.get(str(key))
        return members(field.annotation) if field is not None else []
    arguments = get_args(annotation)
    return members(arguments[-1]) if get_origin(annotation) in (dict, list) else []


def members(annotation: Any) -> list[Any]:
    """The types a value of `annotation` may have, without what is said about them."""
    if get_origin(annotation) is Annotated:
        return members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [member for each in get_args(annotation) for member in members(each)]
    return [annotation]


def _required(model: type[BaseModel]) -> set[str]:
    return {name for name, field in model.model_fields.items() if field.is_required()}


def is_model(annotation: Any) -> bool:
    """Whether a type is a section of the configuration."""
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def kinds(model: type[BaseModel]) -> tuple[Any, ...]:
    """The values of `kind` that mean `model`; none if it has no kind."""
    field = model.model_fields.get("kind")
    return get_args(field.annotation) if field is not None else ()
