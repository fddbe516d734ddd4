"""The configuration as JSON Schema (draft 2020-12), generated from the models and the help texts of their fields."""

import ast
import importlib
import inspect
import json
from functools import cache
from typing import Any

from pydantic import BaseModel

from recap.config.file.layers import BASE
from recap.config.recap import RecapConfig

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_PART = "Part"
"""Suffix of definitions in which nothing is required, because another section or file completes them."""


def schema() -> dict[str, Any]:
    """The JSON Schema of a configuration file.

    Numbers may be references (`${NAME}`), a file with `base` may omit anything, and a validation set whatever it
    inherits.
    """
    made = RecapConfig.model_json_schema(ref_template="#/$defs/{model}")
    definitions: dict[str, Any] = made.pop("$defs")
    definitions["RecapConfig"] = made
    for name, definition in definitions.items():
        _describe(name, definition)
    definitions = {name: _finished(definition) for name, definition in definitions.items()}
    parts = {f"{name}{_PART}": _part(definition) for name, definition in definitions.items()}
    for whole in (definitions, parts):
        root = "RecapConfig" + (_PART if whole is parts else "")
        sets = whole[root]["properties"]["validation_data"]["additionalProperties"]
        sets["$ref"] = f"#/$defs/ValidationDataConfig{_PART}"
        whole[root]["properties"] = {
            BASE: {"type": "string", "description": "The file to build on, relative to this one; mappings are merged."},
            **whole[root]["properties"],
        }
    del definitions["ValidationDataConfig"]
    reference = {
        "type": "string",
        "pattern": r"\$\{",
        "description": "A value from the environment: ${NAME} or ${NAME:-default}.",
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


def schema_text() -> str:
    """`schema()` as the file that ships with the package."""
    return json.dumps(schema(), indent=1, ensure_ascii=False) + "\n"


def field_text(model: type[BaseModel], field: str) -> str:
    """The help text of a field: the string under it, in the class that declares it."""
    declaring = [base for base in model.__mro__ if field in inspect.get_annotations(base)]
    return _texts(declaring[0].__module__)[declaring[0].__name__].get(field, "")


@cache
def _texts(module: str) -> dict[str, dict[str, str]]:
    """Class → field → the string that follows the field in the source of `module`."""
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
def models() -> dict[str, type[BaseModel]]:
    """Every section of the configuration by the name of its class."""
    models: dict[str, type[BaseModel]] = {}

    def walk(annotation: Any) -> None:
        is_model = isinstance(annotation, type) and issubclass(annotation, BaseModel)
        if is_model and annotation.__name__ not in models:
            models[annotation.__name__] = annotation
            for field in annotation.model_fields.values():
                walk(field.annotation)
        for argument in getattr(annotation, "__args__", ()):
            walk(argument)

    walk(RecapConfig)
    return models


def _finished(definition: Any) -> Any:
    """Drops titles, allows references for numbers and words, and requires the `kind` of a choice."""
    if isinstance(definition, list):
        return [_finished(item) for item in definition]
    if not isinstance(definition, dict):
        return definition
    made = {
        key: {name: _finished(item) for name, item in value.items()} if key == "properties" else _finished(value)
        for key, value in definition.items()
        if not (key == "title" and isinstance(value, str)) and key not in ("discriminator", "default")
    }
    if "oneOf" in made and "discriminator" in definition and "propertyName" in definition["discriminator"]:
        made["required"] = [definition["discriminator"]["propertyName"]]
    if "default" in definition:
        made["default"] = definition["default"]
    if made.get("type") in ("integer", "number", "boolean") or "enum" in made:
        outside = {key: made.pop(key) for key in ("description", "default") if key in made}
        return {"anyOf": [made, {"$ref": "#/$defs/Reference"}], **outside}
    return made


def _part(definition: Any) -> Any:
    """`definition` with nothing required, at any depth."""
    if isinstance(definition, list):
        return [_part(item) for item in definition]
    if not isinstance(definition, dict):
        return definition
    made: dict[str, Any] = {}
    for key, value in definition.items():
        if (key == "required" and isinstance(value, list)) or key == "minProperties":
            continue
        if key == "items":  # a list replaces the one in the base, so its items must be complete
            made[key] = value
            continue
        if key == "$ref" and value != "#/$defs/Reference":
            made[key] = f"{value}{_PART}"
        else:
            # a part without its kind may match several kinds
            made["anyOf" if key == "oneOf" else key] = _part(value)
    return made


def _reachable(parts: dict[str, Any], wholes: dict[str, Any]) -> dict[str, Any]:
    """The parts that some definition refers to."""
    text = json.dumps([parts, wholes])
    return {name: part for name, part in parts.items() if f'"#/$defs/{name}"' in text or name.startswith("RecapConfig")}
