"""The columns of a data set in the published form: under which names they are stored, and how long they are."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from recap.config.base import KeyPath
from recap.published.form.data import Data
from recap.published.form.model import SmallTable

Say = Callable[[KeyPath, str], None]
"""Takes a path and what is to be said of it."""

VECTORS = ("user_embedding", "user_eng_embedding", "author_embedding")
"""The pretrained vectors that the published model knows by name, in the order of its input."""
LENGTHS = {"continuous": 6000, "binary": 512, **dict.fromkeys(VECTORS, 200)}
"""The published layout, for a schema that is not at hand."""
ROLES = ("continuous", "binary", "discrete")
"""Columns that are no vectors."""
_MANTISSA = 23
_USER = ("meta.user_id", "meta__user_id")


def find_columns(
    data: Data,
    tables: Sequence[SmallTable],
    large: Mapping[str, Any],
    joined: Sequence[str],
    path: KeyPath,
    remark: Say,
    refuse: Say,
) -> dict[str, Any]:
    """The section `features` for the data set whose `seg_dense_schema` is at `path`.

    With embeddings of `tables`, which read single codes, and of `large` ones, each of a column of its own; what is
    `joined` to the continuous features and has no other role is a vector.
    A renamed feature is the column it is stored in. Every feature that the model does not read is carried.
    """
    said = data.seg_dense_schema
    schema = _read_schema(Path(said.schema_path), (*path, "schema_path"), remark, refuse)
    columns = {name: name for name in said.features} | said.renamed_features
    for name in ("continuous", "binary"):
        if name not in columns and (schema is None or name in schema):
            columns[name] = name
    codes = columns.pop("discrete", "discrete")
    if "discrete" in (*said.features, *said.renamed_features) and not tables:
        remark(path, "discrete is left out: nothing in the model reads it")
    labels = {columns.pop(task, task) for task in data.tasks}
    found: dict[str, Any] = {}
    for name in ("continuous", "binary"):
        if name in columns:
            length = _length(name, columns[name], schema, path, refuse)
            kept, mask = data.slices[name]
            sliced = {"first": kept if kept is not None and kept < length else None, "mask": mask}
            said_of = {key: value for key, value in (sliced | _held(name, data, path, refuse)).items() if value}
            found[name] = [{"name": columns[name], "length": length, **said_of}]
    found["discrete"] = {
        table.name: {"size": table.num_embeddings, "of": {"column": codes, "index": table.index}} for table in tables
    }
    found["discrete"] |= large
    vectors = [name for name in dict.fromkeys((*VECTORS, *joined)) if name in columns and name not in ROLES]
    found["vectors"] = {}
    for name in vectors:
        length, held = _length(name, columns[name], schema, path, refuse), _held(name, data, path, refuse)
        found["vectors"][columns[name]] = {"length": length, **held} if held else length
    # The stored column of a feature that the model reads, and a label, are not carried too.
    known = {columns[name] for name in (*LENGTHS, *vectors) if name in columns} | labels | large.keys()
    carried: dict[str, str] = {}
    for name, column in columns.items():
        if column not in known and name not in LENGTHS:
            carried[column] = name
    users = [column for name, column in columns.items() if name in _USER or column in _USER]
    found["ids"] = [column for column in carried if column not in users[:1]]
    found["ids"] += list(_extracted(data, columns | {"discrete": codes}, path, refuse))
    if found["ids"]:
        shown = ", ".join(each if isinstance(each, str) else each["name"] for each in found["ids"])
        remark(path, f"carried to the predictions, as nothing in the model reads them: {shown}")
    unread = [name for name in (*said.mask_mantissa_features, *data.dtypes) if name not in (*LENGTHS, *vectors)]
    if unread:
        remark(path, f"left as they are stored, as no number of theirs is read by the model: {', '.join(unread)}")
    found["user"] = users[0] if users else None
    return found


def _held(name: str, data: Data, path: KeyPath, refuse: Say) -> dict[str, Any]:
    """What the numbers of a feature are made less precise by."""
    bits, dtype = data.seg_dense_schema.mask_mantissa_features.get(name), data.dtypes.get(name, "float32")
    preprocess: KeyPath = (*path[:-1], "preprocess", "downcast", "features", name)
    if bits is not None and bits > _MANTISSA:
        refuse((*path, "mask_mantissa_features", name), f"a float32's mantissa has {_MANTISSA} bits, found {bits}")
    if bits is not None and name == "binary":
        refuse((*path, "mask_mantissa_features", name), "means nothing here: binary holds 0 and 1; leave it out")
    if name in VECTORS and dtype in ("uint8", "bool"):
        refuse(preprocess, f"means nothing here: a pretrained vector as {dtype}; take bfloat16 or float16")
    held = {"masked_mantissa_bits": bits, "dtype": None if dtype == "float32" else dtype}
    return {key: value for key, value in held.items() if value is not None}


def _extracted(data: Data, columns: dict[str, str], path: KeyPath, refuse: Say) -> Iterator[dict[str, Any]]:
    """The single values that have names of their own, as carried columns."""
    table: KeyPath = (*path[:-1], "preprocess", "extract_features", "extract_feature_table")
    for index, feature in enumerate(data.extracted):
        if feature.name in columns or feature.name in data.tasks:
            refuse((*table, index, "name"), f"{feature.name!r} is the name of another column; choose another name")
        column = columns.get(feature.source_tensor, feature.source_tensor)
        yield {"name": feature.name, "of": {"column": column, "index": feature.index}}


def _read_schema(file: Path, path: KeyPath, remark: Say, refuse: Say) -> dict[str, Any] | None:
    """Column → its entry in the schema file; nothing where that is not at hand."""
    try:
        return {entry["feature_name"]: entry for entry in json.loads(file.read_text(encoding="utf-8"))["schema"]}
    except OSError as error:
        known = ", ".join(f"{name} {length}" for name, length in LENGTHS.items())
        remark(path, f"{file} cannot be read ({error.strerror}); lengths are those of the published layout: {known}")
    except (ValueError, KeyError, TypeError, RecursionError):
        refuse(path, f'{file}: expected JSON {{"schema": [{{"feature_name": …, "dtype": …, "length": …}}, …]}}')
    return None


def _length(name: str, column: str, schema: dict[str, Any] | None, path: KeyPath, refuse: Say) -> int:
    if schema is None and name in LENGTHS:
        return LENGTHS[name]
    if schema is None:
        refuse((*path, "schema_path"), f"cannot be read, and no published layout tells the length of {name!r}")
        return 1
    entry = schema.get(column, {})
    length, dtype = entry.get("length"), entry.get("dtype")
    if isinstance(length, int) and length > 0 and dtype in ("float_list", "int64_list"):
        return length
    found = f"is {dtype} of length {length!r}" if entry else "is not there"
    refuse((*path, "schema_path"), f"{column!r} {found} in the schema; {name} needs numbers of a fixed length")
    return 1
