"""The reference page of every configuration key, made from the models.

`make docs` writes it, and the JSON Schema with it: python -m recap.config.file.reference docs/configuration.md
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from recap.config.base import MAX_INT
from recap.config.file.json_schema import models, schema, schema_text
from recap.config.file.yaml import render_inline
from recap.config.recap import RecapConfig

SCHEMA = Path(__file__).with_name("recap.schema.json")

_INTRODUCTION = """\
# Configuration

<!-- Made by `make docs` from the models in src/recap/config; do not edit. -->

Every key a configuration file may hold. How to write, lay over, check and compare files:
[working with configurations](working-with-configurations.md).

A choice is a mapping with a `kind`. A key without a default is required. Paths are relative to the working directory.
Any number, truth value or text may come from the environment (`${NAME}`). `base: FILE` at the top builds on another
file.
"""


def page() -> str:
    """The text of `docs/configuration.md`."""
    definitions = schema()["$defs"]
    lines = [_INTRODUCTION, *_table(definitions["RecapConfig"], skip=("base",))]
    seen = {"RecapConfig"}
    for section in RecapConfig.model_fields:
        property_ = definitions["RecapConfig"]["properties"][section]
        found = _found(property_, definitions, seen)
        lines += ["", f"## {section}", "", property_["description"]]
        for first in found[:1]:
            lines += ["", f'<a id="{_name(first).lower()}"></a>', "", *_table(definitions[first])]
        for name in found[1:]:
            lines += ["", *_model(name, definitions[name])]
    return "\n".join(lines) + "\n"


def _found(property_: Any, definitions: dict[str, Any], seen: set[str]) -> list[str]:
    """The definitions below a property that no section before it has shown, in the order a reader meets them."""
    found: list[str] = []
    for name in _references(property_):
        name = _name(name) if _name(name) in definitions else name
        if name in seen or name == "Reference":
            continue
        seen.add(name)
        found += [name, *_found(definitions[name]["properties"], definitions, seen)]
    return found


def _references(value: Any) -> Iterator[str]:
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        if key == "$ref":
            yield item.rpartition("/")[2]
        elif isinstance(item, dict | list):
            yield from _references(item)


def _model(name: str, definition: dict[str, Any]) -> Iterator[str]:
    kind = definition["properties"].get("kind", {}).get("const")
    yield f'<a id="{_name(name).lower()}"></a>'
    yield ""
    yield f"### {f'`{kind}`' if kind else _name(name).removesuffix('Config')}"
    yield ""
    yield definition["description"].replace("\n", " ")
    rows = list(_table(definition, skip=("kind",)))
    if len(rows) > 2:
        yield ""
        yield from rows


def _table(definition: dict[str, Any], skip: tuple[str, ...] = ()) -> Iterator[str]:
    yield "| key | value | default | |"
    yield "|---|---|---|---|"
    required = definition.get("required", [])
    inherits = "evaluation_tasks" in definition["properties"]  # the one section that another completes
    for key, property_ in definition["properties"].items():
        if key in skip:
            continue
        if inherits and key != "evaluation_tasks":
            default = "as in `train_data`"
        else:
            default = "**required**" if key in required else _default(property_.get("default"))
        cells = (f"`{key}`", _value(property_), default, property_["description"])
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _default(value: Any) -> str:
    if isinstance(value, dict) and len(value) > 5:
        return "all defaults"
    return "none" if value is None else f"`{render_inline(value)}`"


def _value(property_: dict[str, Any]) -> str:
    """What a value may be, in words."""
    if "$ref" in property_:
        name = _name(property_["$ref"].rpartition("/")[2])
        kind = models()[name].model_fields.get("kind")
        shown = f"`{get_args(kind.annotation)[0]}`" if kind is not None else name.removesuffix("Config")
        return f"[{shown}](#{name.lower()})"
    for choice in ("anyOf", "oneOf"):
        if choice in property_:
            options = [option for option in property_[choice] if not option.get("$ref", "").endswith("/Reference")]
            words = [_value(option) for option in options if option.get("type") != "null"]
            return ", or ".join(words)
    match property_.get("type"):
        case "array":
            length = " (at least one)" if property_.get("minItems") else ""
            return f"list of {_value(property_['items'])}{length}"
        case "object":
            return f"name → {_value(property_['additionalProperties'])}"
        case "string" if "enum" in property_:
            return ", ".join(f"`{each}`" for each in property_["enum"])
        case "string":
            return f"`{property_['const']}`" if "const" in property_ else "text"
        case "boolean":
            return "true or false"
        case kind:
            return f"{kind}{_range(property_)}"


def _name(definition: str) -> str:
    """The model that a definition, or the part of one, is made from."""
    return definition.removesuffix("Part")


def _range(property_: dict[str, Any]) -> str:
    low, high = property_.get("minimum"), property_.get("maximum")
    high = None if high == MAX_INT else high  # the largest of all counts says nothing
    above, below = property_.get("exclusiveMinimum"), property_.get("exclusiveMaximum")
    if above is not None or low is not None:
        if high is not None or below is not None:
            opening = f"({above:g}" if above is not None else f"[{low:g}"
            return f" in {opening}, " + (f"{high:g}]" if high is not None else f"{below:g})")
        return f" > {above:g}" if above is not None else f" ≥ {low:g}"
    return ""


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.write_text(page(), encoding="utf-8")
    SCHEMA.write_text(schema_text(), encoding="utf-8")
    print(f"written: {target}, {SCHEMA}")
