"""Which keys a place of the configuration accepts, read from the models themselves."""

from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

from recap.config.recap import Path, RecapConfig


def keys_at(path: Path, raw: Any) -> list[str]:
    """Keys accepted at `path` of the file with values `raw`; several kinds: those of the kind that is written there."""
    candidates: list[Any] = [RecapConfig]
    where = raw
    for key in path:
        where = where.get(key) if isinstance(where, dict) else _item(where, key)
        candidates = [found for each in candidates for found in _below(each, key)]
    models = [each for each in candidates if isinstance(each, type) and issubclass(each, BaseModel)]
    kind = where.get("kind") if isinstance(where, dict) else None
    chosen = [model for model in models if kind is not None and _kind(model) == kind] or models
    return list(dict.fromkeys(name for model in chosen for name in model.model_fields))


def _item(where: Any, key: str | int) -> Any:
    return where[key] if isinstance(where, list) and isinstance(key, int) and key < len(where) else None


def _kind(model: type[BaseModel]) -> Any:
    field = model.model_fields.get("kind")
    return get_args(field.annotation)[0] if field is not None else None


def _below(annotation: Any, key: str | int) -> list[Any]:
    """The types a value under `key` of `annotation` may have."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        field = annotation.model_fields.get(str(key))
        return _members(field.annotation) if field is not None else []
    arguments = get_args(annotation)
    return _members(arguments[-1]) if get_origin(annotation) in (dict, list) else []


def _members(annotation: Any) -> list[Any]:
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [member for each in get_args(annotation) for member in _members(each)]
    return [annotation]
