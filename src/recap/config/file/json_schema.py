"""The JSON Schema (draft 2020-12) of the configuration, generated from the models and the help of their fields."""

import ast
import importlib
import inspect
import json
from functools import cache
from typing import Any

from pydantic import BaseModel

from recap.config.base import RootConfig
from recap.config.file.layers import BASE
from recap.config.recap import RecapConfig
from recap.config.serving.server import ServerConfig

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_PART = "Part"
"""Suffix of definitions without required keys, which another section or file completes."""


def schema() -> dict[str, Any]:
    """The JSON Schema of a configuration file.

    Numbers may be references (`${NAME}`), a file with `base` may omit any key, and a validation split those it
    inherits.
    """
    root = RecapConfig.model_json_schema(ref_template="#/$defs/{model}")
    definitions: dict[str, Any] = root.pop("$defs")
    definitions["RecapConfig"] = root
    for name, definition in definitions.items():
        _describe(name, definition)
    definitions = {name: _finished(definition) for name, definition in definitions.items()}
    parts = {f"{name}{_PART}": _part(definition) for name, definition in definitions.items()}
    for root in (definitions["RecapConfig"], parts[f"RecapConfig{_PART}"]):
        split = root["properties"]["validation_data"]["additionalProperties"]
        split["$ref"] = f"#/$defs/ValidationDataConfig{_PART}"
        root["properties"] = {
            BASE: {"type": "string", "description": "The file to build on, relative to this one; mappings are merged."},
            **root["properties"],
        }
    del definitions["ValidationDataConfig"]
    reference = {
        "type": "string",
        "pattern": r"\$\{",
        "description": "A value from the environment: ${NAME}, or ${NAME:-default}.",
    }
    return {
        "$schema": DIALECT,
        "title": "A configuration of recap",
        "type": "object",
        "if": {"required": [BASE]},
        "then": {"$ref": f"#/$defs/RecapConfig{_PART}"},
        "else": {"$ref": "#/$defs/RecapConfig"},
        "$defs": {**definitions, **_reachable(parts, definitions), "Reference": reference},
    }


def server_definitions() -> dict[str, Any]:
    """The definitions of the JSON Schema of a server's configuration, by the name of the section."""
    root = ServerConfig.model_json_schema(ref_template="#/$defs/{model}")
    definitions: dict[str, Any] = {**root.pop("$defs"), "ServerConfig": root}
    for name, definition in definitions.items():
        _describe(name, definition)
    return {name: _finished(definition) for name, definition in definitions.items()}


def schema_text() -> str:
    """`schema()` as the file that ships with the package."""
    return json.dumps(schema(), indent=1, ensure_ascii=False) + "\n"


def field_text(model: type[BaseModel], field: str) -> str:
    """The help of a field: the string below it in the class that declares it."""
    declaring = [base for base in model.__mro__ if field in inspect.get_annotations(base)]
    return _texts(declaring[0].__module__)[declaring[0].__name__].get(field, "")


@cache
def _texts(module: str) -> dict[str, dict[str, str]]:
    """Class → field → the string below the field in the source of `module`."""
    tree = ast.parse(inspect.getsource(importlib.import_module(module)))
    texts: dict[str, dict[str, str]] = {}
    for node in tree.body:
        if not isinstance(node, ast.ClassDef):
            continue
        fields = texts.setdefault(node.name, {})
        for statement, after in zip(node.body, node.body[1:], strict=False):
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                text = after.value if isinstance(after, ast.Expr) else None
                if isinstance(text, ast.Constant) and isinstance(text.value, str):
                    fields[statement.target.id] = inspect.cleandoc(text.value).replace("\n", " ")
    return texts


def _describe(name: str, definition: dict[str, Any]) -> None:
    """Add the descriptions of a model and of its fields."""
    model = models()[name]
    definition["description"] = inspect.cleandoc(model.__doc__ or "")
    for field, property_ in definition["properties"].items():
        text = field_text(model, field)
        if field == "kind":
            text = text or "Selects this choice."
        property_["description"] = text


@cache
def models(*roots: type[RootConfig]) -> dict[str, type[BaseModel]]:
    """Every section of the configurations `roots`, by default of all, by the name of its class."""
    models: dict[str, type[BaseModel]] = {}

    def walk(annotation: Any) -> None:
        is_model = isinstance(annotation, type) and issubclass(annotation, BaseModel)
        if is_model and annotation.__name__ not in models:
            models[annotation.__name__] = annotation
            for field in annotation.model_fields.values():
                walk(field.annotation)
        for argument in getattr(annotation, "__args__", ()):
            walk(argument)

    for root in roots or (RecapConfig, ServerConfig):
        walk(root)
    return models


def _finished(definition: Any) -> Any:
    """`definition` without titles, with references allowed for numbers and words, and with `kind` required in a
    choice."""
    if isinstance(definition, list):
        return [_finished(item) for item in definition]
    if not isinstance(definition, dict):
        return definition
    result = {
        key: {name: _finished(item) for name, item in value.items()} if key == "properties" else _finished(value)
        for key, value in definition.items()
        if not (key == "title" and isinstance(value, str)) and key not in ("discriminator", "default")
    }
    if "oneOf" in result and "discriminator" in definition and "propertyName" in definition["discriminator"]:
        result["required"] = [definition["discriminator"]["propertyName"]]
    if "default" in definition:
        result["default"] = definition["default"]
    if result.get("type") in ("integer", "number", "boolean") or "enum" in result:
        outside = {key: result.pop(key) for key in ("description", "default") if key in result}
        return {"anyOf": [result, {"$ref": "#/$defs/Reference"}], **outside}
    return result


def _part(definition: Any) -> Any:
    """`definition` without required keys, at any depth."""
    if isinstance(definition, list):
        return [_part(item) for item in definition]
    if not isinstance(definition, dict):
        return definition
    result: dict[str, Any] = {}
    for key, value in definition.items():
        if (key == "required" and isinstance(value, list)) or key == "minProperties":
            continue
        if key == "items":  # a list replaces that of the base, so its items must be complete
            result[key] = value
        elif key == "$ref" and value != "#/$defs/Reference":
            result[key] = f"{value}{_PART}"
        else:
            # a part without its kind may match several kinds
            result["anyOf" if key == "oneOf" else key] = _part(value)
    return result


def _reachable(parts: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """The parts that a definition refers to."""
    text = json.dumps([parts, definitions])
    return {name: part for name, part in parts.items() if f'"#/$defs/{name}"' in text or name.startswith("RecapConfig")}
