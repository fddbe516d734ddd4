"""A configuration file → `RecapConfig`: YAML, overrides, validation, and every problem with its place."""

from collections.abc import Iterator, Sequence
from pathlib import Path as FilePath
from typing import Any

import yaml
from pydantic import ValidationError

from recap.config.keys import keys_at
from recap.config.recap import CrossCheckError, Path, RecapConfig, suggest
from recap.config.yaml_file import Document, parse
from recap.errors import ConfigError


def load_config(file: str | FilePath, overrides: Sequence[str] = ()) -> RecapConfig:
    """Read `file`, apply `overrides` (`section.key=value`, values in YAML, later wins) and validate.

    Raises ConfigError that lists every problem found as `file:line:column: path: what`.
    """
    try:
        text = FilePath(file).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror}); give the path of a YAML file") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: not UTF-8 text (byte {error.start}); give a YAML file") from None
    document = parse(text, str(file))
    if not isinstance(document.value, dict):
        found = "nothing" if document.value is None else type(document.value).__name__
        raise ConfigError(f"{file}:1:1: expected a mapping of sections ({_sections()}), found {found}")
    origins = {path: f"override {text!r}" for text in overrides for path in [_apply(document.value, text)]}
    try:
        return RecapConfig.model_validate(document.value)
    except ValidationError as error:
        problems = _problems(error, document, str(file), origins)
        raise ConfigError("\n".join(dict.fromkeys(problems))) from None


def dump_config(config: RecapConfig) -> str:
    """The resolved configuration as YAML; loading it gives an equal config."""
    return yaml.safe_dump(config.model_dump(mode="json", exclude_none=True), sort_keys=False, allow_unicode=True)


def differences(old: RecapConfig, new: RecapConfig) -> dict[Path, tuple[Any, Any]]:
    """Every value in which two configurations differ: path → (old, new), None where one has nothing."""
    before, after = _leaves(old.model_dump(mode="json")), _leaves(new.model_dump(mode="json"))
    return {
        path: (before.get(path), after.get(path))
        for path in dict.fromkeys([*before, *after])
        if before.get(path) != after.get(path)
    }


def _leaves(value: Any, path: Path = ()) -> dict[Path, Any]:
    if isinstance(value, dict) and value:
        return {p: leaf for key, item in value.items() for p, leaf in _leaves(item, (*path, key)).items()}
    return {path: value}


def _sections() -> str:
    return ", ".join(RecapConfig.model_fields)


def _apply(raw: dict[str, Any], override: str) -> Path:
    """Set one `path.to.key=value` in `raw`; give the path."""
    dotted, equals, text = override.partition("=")
    if not equals or not dotted:
        raise ConfigError(f"override {override!r}: expected section.key=value, such as training.seed=1")
    *parents, last = path = tuple(dotted.split("."))
    where: Any = raw
    for depth, key in enumerate(parents):
        step = _step(where, key, override, path[:depth])
        if isinstance(where, dict):
            where = where.setdefault(step, {})
            if where is None:
                raise ConfigError(f"override {override!r}: {'.'.join(path[: depth + 1])} is null, so it has no keys")
        else:
            where = where[step]
    where[_step(where, last, override, path[:-1])] = parse(text, f"override {override!r}").value
    return path


def _step(where: Any, key: str, override: str, path: Sequence[str]) -> Any:
    """`key` as something that indexes `where`."""
    if isinstance(where, dict):
        return key
    if isinstance(where, list) and key.isdigit() and int(key) < len(where):
        return int(key)
    what = f"a list of {len(where)} items" if isinstance(where, list) else f"the value {where!r}"
    raise ConfigError(f"override {override!r}: {'.'.join(path)} is {what}, so it has no key {key!r}")


def _problems(error: ValidationError, document: Document, file: str, origins: dict[Path, str]) -> Iterator[str]:
    for item in error.errors(include_url=False):
        cause = item.get("ctx", {}).get("error")
        if isinstance(cause, CrossCheckError):
            for path, text in cause.problems:
                yield _at(path, document, file, origins, key=False) + text
            continue
        unknown = item["type"] == "extra_forbidden"
        missing = item["type"] == "missing"
        path = _yaml_path(item["loc"], document.value, keep_last=unknown or missing)
        if item["type"] == "union_tag_invalid":
            path = (*path, "kind")
        path = _inherited(path, document)
        text = _message(item, path, document)
        yield _at(path, document, file, origins, key=unknown) + text


def _inherited(path: Path, document: Document) -> Path:
    """Where a value of a validation set was really written: there, or in `train_data`."""
    if len(path) > 2 and path[0] == "validation_data" and path not in document.values:
        elsewhere = ("train_data", *path[2:])
        if elsewhere in document.values or elsewhere[:-1] in document.values:
            return elsewhere
    return path


def _yaml_path(location: Sequence[str | int], raw: Any, *, keep_last: bool) -> Path:
    """A pydantic location without the tags of unions, which are no keys of the file."""
    path: list[str | int] = []
    where: Any = raw
    for index, key in enumerate(location):
        below = _below(where, key)
        if below is _NOTHING:
            named = index == len(location) - 1 and keep_last
            is_tag = not isinstance(where, dict) or not (named or _from_train_data(path))
            if is_tag and where is not None:
                continue
            below = None
        path.append(key)
        where = below
    return tuple(path)


_NOTHING = object()


def _below(where: Any, key: str | int) -> Any:
    """What stands under `key`, or `_NOTHING`."""
    if isinstance(where, dict):
        return where.get(key, _NOTHING)
    return where[key] if isinstance(where, list) and isinstance(key, int) and key < len(where) else _NOTHING


def _from_train_data(path: Sequence[str | int]) -> bool:
    return len(path) >= 2 and path[0] == "validation_data"


def _at(path: Path, document: Document, file: str, origins: dict[Path, str], *, key: bool) -> str:
    """`file:line:column: path: ` of the nearest thing written in the file, or the override that wrote it."""
    dotted = ".".join(map(str, path))
    for length in range(len(path), -1, -1):
        prefix = path[:length]
        dotted_prefix = tuple(map(str, prefix))
        override = next((text for origin, text in origins.items() if origin[: max(length, 1)] == dotted_prefix), None)
        if override is not None and (prefix not in document.values or prefix in origins):
            return f"{override}: {dotted}: "
        written, value = document.keys.get(prefix), document.values.get(prefix)
        below = written is not None and value is not None and value.line > written.line
        mark = written if key or length < len(path) or below else value
        mark = mark or value
        if mark is not None:
            place = f"{file}:{mark.line}:{mark.column}: "
            return f"{place}{dotted}: " if dotted else place
    return f"{file}: {dotted}: "


def _message(item: Any, path: Path, document: Document) -> str:
    found, context = item["input"], item.get("ctx", {})
    match item["type"]:
        case "extra_forbidden":
            known = keys_at(path[:-1], document.value)
            return f"{str(path[-1])!r} is unknown. {suggest(str(path[-1]), known)}"
        case "missing":
            return "is required, but missing"
        case "union_tag_invalid":
            known = [tag.strip("' ") for tag in str(context["expected_tags"]).split(",")]
            return f"{context['tag']!r} is unknown. {suggest(str(context['tag']), known)}"
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
            text = item["msg"]
            return f"{text[0].lower()}{text[1:]}, found {_show(found)}"


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
