"""The columns of the published `train_data` → our section `features`."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from recap.config.base import KeyPath
from recap.config.file.node import Node
from recap.published.convert.tree import TreeBuilder
from recap.published.form.data import Data
from recap.published.form.model import SmallTable
from recap.storage import read_regular

VECTORS = ("user_embedding", "user_eng_embedding", "author_embedding")
"""The pretrained vectors that the published model knows by name, in the order of its inputs."""
LENGTHS = {"continuous": 6000, "binary": 512, **dict.fromkeys(VECTORS, 200)}
"""Lengths of the published layout, used if the schema file cannot be read."""
ROLES = ("continuous", "binary", "discrete")
"""Features that are not vectors."""
_MANTISSA_BITS = 23
"""The bits of a float32's mantissa."""
_USER = ("meta.user_id", "meta__user_id")
"""Names of the column of user ids."""
_PATH: KeyPath = ("train_data", "seg_dense_schema")
_PREPROCESS: KeyPath = ("train_data", "preprocess")


@dataclass
class FeaturesConverter:
    """Converts the columns of `train_data`. A renamed feature becomes the column that stores it.

    Columns that the model does not read become `ids`, which are copied to the predictions.
    """

    tree: TreeBuilder
    data: Data
    """The published `train_data`."""
    codes: Sequence[SmallTable]
    """Features that read a single value of the discrete column."""
    large: Mapping[str, Any]
    """Entries of `features.discrete` that have their own columns."""
    joined: Sequence[str]
    """Features joined to the continuous ones; those without a role are vectors."""

    def features(self) -> Node:
        """The section `features`."""
        columns = self._stored_columns()
        discrete = columns.pop("discrete", "discrete")
        labels = {columns.pop(task, task) for task in self.data.tasks}
        vectors = [name for name in dict.fromkeys((*VECTORS, *self.joined)) if name in columns and name not in ROLES]
        read = {columns[name] for name in (*LENGTHS, *vectors) if name in columns} | labels | self.large.keys()
        copied = {column for name, column in columns.items() if name not in LENGTHS} - read
        user = next((column for name, column in columns.items() if name in _USER or column in _USER), None)
        codes = {
            table.name: {"size": table.num_embeddings, "of": {"column": discrete, "index": table.index}}
            for table in self.codes
        }
        sections: dict[str, Any] = {
            "continuous": self._dense("continuous", columns),
            "binary": self._dense("binary", columns),
            "discrete": {**codes, **self.large},
            "vectors": {columns[name]: self._vector(name, columns[name]) for name in vectors},
            "ids": [
                *(column for column in dict.fromkeys(columns.values()) if column in copied and column != user),
                *self._extracted(columns | {"discrete": discrete}),
            ],
            "user": user,
        }
        self._remark_unread(sections["ids"], vectors)
        return self.tree.mapping(
            _PATH, {name: self.tree.node(section, _PATH) for name, section in sections.items() if section}
        )

    def _stored_columns(self) -> dict[str, str]:
        """Feature → the column that stores it."""
        section = self.data.seg_dense_schema
        columns = {name: name for name in section.features} | section.renamed_features
        if "discrete" in columns and not self.codes:
            self.tree.remark(_PATH, "discrete is left out: the model does not read it")
        for name in ("continuous", "binary"):
            if name not in columns and (self._schema is None or name in self._schema):
                columns[name] = name
        return columns

    def _dense(self, name: str, columns: Mapping[str, str]) -> list[dict[str, Any]]:
        """The entry for a dense column, with the options that are set; empty without such a column."""
        if name not in columns:
            return []
        length = self._length(name, columns[name])
        first, mask = self.data.slices[name]
        options = {"first": first if first is not None and first < length else None, "mask": mask}
        given = {key: value for key, value in (options | self._precision(name)).items() if value}
        return [{"name": columns[name], "length": length, **given}]

    def _vector(self, name: str, column: str) -> dict[str, Any] | int:
        length, precision = self._length(name, column), self._precision(name)
        return {"length": length, **precision} if precision else length

    def _precision(self, name: str) -> dict[str, Any]:
        """The options of a feature that reduce its precision."""
        bits, dtype = self.data.seg_dense_schema.mask_mantissa_features.get(name), self.data.dtypes.get(name)
        path: KeyPath = (*_PATH, "mask_mantissa_features", name)
        if bits is not None and bits > _MANTISSA_BITS:
            self.tree.refuse(path, f"must be at most {_MANTISSA_BITS}, the bits of a float32's mantissa; found {bits}")
        if bits is not None and name == "binary":
            self.tree.refuse(path, "not applicable: binary values are 0 or 1; leave it out")
        if name in VECTORS and dtype in ("uint8", "bool"):
            text = f"not supported: a pretrained vector holds fractions, not {dtype}; use bfloat16 or float16"
            self.tree.refuse((*_PREPROCESS, "downcast", "features", name), text)
        if bits is not None:
            self.tree.remark(path, "takes effect; the published code ignored it")
        options = {"masked_mantissa_bits": bits, "dtype": None if dtype == "float32" else dtype}
        return {key: value for key, value in options.items() if value is not None}

    def _extracted(self, columns: Mapping[str, str]) -> Iterator[dict[str, Any]]:
        """Values extracted under names of their own, as entries of `ids`."""
        path: KeyPath = (*_PREPROCESS, "extract_features", "extract_feature_table")
        for index, feature in enumerate(self.data.extracted):
            if feature.name in columns or feature.name in self.data.tasks:
                text = f"{feature.name!r} is the name of another column; choose another name"
                self.tree.refuse((*path, index, "name"), text)
            column = columns.get(feature.source_tensor, feature.source_tensor)
            yield {"name": feature.name, "of": {"column": column, "index": feature.index}}

    def _remark_unread(self, ids: Sequence[Any], vectors: Sequence[str]) -> None:
        if ids:
            names = ", ".join(column if isinstance(column, str) else column["name"] for column in ids)
            self.tree.remark(_PATH, f"copied to the predictions, since the model does not read them: {names}")
        shaped = (*self.data.seg_dense_schema.mask_mantissa_features, *self.data.dtypes)
        unread = [name for name in shaped if name not in (*LENGTHS, *vectors)]
        if unread:
            text = f"precision not reduced, since the model reads no numbers of them: {', '.join(unread)}"
            self.tree.remark(_PATH, text)

    @cached_property
    def _schema(self) -> dict[str, Any] | None:
        """Column → its entry in the schema file; None if the file cannot be read."""
        file, path = Path(self.data.seg_dense_schema.schema_path), (*_PATH, "schema_path")
        try:
            return {entry["feature_name"]: entry for entry in json.loads(read_regular(file, 1 << 24))["schema"]}
        except OSError as error:
            lengths = ", ".join(f"{name} {length}" for name, length in LENGTHS.items())
            text = f"{file} cannot be read ({error.strerror}); using the lengths of the published layout: {lengths}"
            self.tree.remark(path, text)
        except (ValueError, KeyError, TypeError, RecursionError):
            expected = '{"schema": [{"feature_name": …, "dtype": …, "length": …}, …]}'
            self.tree.refuse(path, f"{file}: expected JSON {expected}")
        return None

    def _length(self, name: str, column: str) -> int:
        """The length of a feature; refuses the schema file if it does not say."""
        path: KeyPath = (*_PATH, "schema_path")
        if self._schema is None and name in LENGTHS:
            return LENGTHS[name]
        if self._schema is None:
            self.tree.refuse(path, f"cannot be read, and the published layout has no length for {name!r}")
            return 1
        entry = self._schema.get(column, {})
        length, dtype = entry.get("length"), entry.get("dtype")
        if isinstance(length, int) and length > 0 and dtype in ("float_list", "int64_list"):
            return length
        state = f"is {dtype} of length {length!r} in" if entry else "is missing from"
        self.tree.refuse(path, f"{column!r} {state} the schema; {name} needs numbers of a fixed length")
        return 1
