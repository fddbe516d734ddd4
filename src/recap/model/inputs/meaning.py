"""What the inputs of a model and the rows of its tables mean, for weights that another model is to start from."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from recap.config.base import DEFAULT
from recap.config.discrete import (
    CodeSpace,
    HashSpace,
    IntegerSpace,
    SharedTable,
    VocabularySpace,
    ZeroCollisionSpace,
)
from recap.config.features import Column, FeaturesConfig
from recap.config.featurization import BINARY
from recap.config.histories import HstuConfig, NumberEvents, target_of
from recap.config.recap import RecapConfig
from recap.data.encoding.assets import Assets
from recap.model.inputs.narrow import blocks_by_table
from recap.model.inputs.tables import table_specs

_MAX_NAMED = 5


@dataclass(frozen=True)
class Input:
    """One part of the input of a network: a number, a vector, an embedding, or the vector of a history."""

    text: str
    """What it is, such as `continuous 'age'`."""
    tables: Sequence[str | None] = ()
    """The tables that its embeddings come from; None for one that starts fresh."""

    def equals(self, old: "Input") -> bool:
        """Whether weights for `old` fit."""
        same = all(new in (None, before) for new, before in zip(self.tables, old.tables, strict=False))
        return self.text == old.text and len(self.tables) == len(old.tables) and same


@dataclass
class InputParts:
    """The inputs of a model, in their order."""

    featurized: list[Input] = field(default_factory=list)
    """Those that the featurization reads; the others follow."""
    others: list[Input] = field(default_factory=list)
    histories: dict[str, Input] = field(default_factory=dict)
    """Those of `others` that are histories, by name."""
    position: list[Input] = field(default_factory=list)
    """That of `others` which is the position, if there is one."""

    @property
    def all(self) -> list[Input]:
        """Every input."""
        return self.featurized + self.others


def inputs_of(config: RecapConfig, assets: Assets, tables: Mapping[str, str | None]) -> InputParts:
    """The inputs of the model that `config` describes. `tables`: table → its name in the old model, None if fresh."""
    features, model, inputs = config.features, config.model, InputParts()
    by_feature = {feature: spec.name for spec in table_specs(config, assets) for feature in spec.features}
    join = model.featurization.join
    form = model.featurization.kind + (f" as {model.numbers.kind}" if model.numbers is not None else "")
    binary = [Input(text) for column in features.binary for text in _values("binary", column, assets)]
    vectors = {name: Input(f"vector {name!r} of {vector.length}") for name, vector in features.vectors.items()}
    inputs.featurized = [
        Input(f"{text} by {form}") for column in features.continuous for text in _values("continuous", column, assets)
    ]
    inputs.featurized += binary if BINARY in join else []
    inputs.featurized += [vector for name, vector in vectors.items() if name in join]
    inputs.others = [] if BINARY in join else binary
    inputs.others += [vector for name, vector in vectors.items() if name not in join]
    if model.position_debias is not None:
        inputs.position = [Input(f"position {_discrete(features, model.position_debias.feature)}")]
    inputs.histories = {name: _history(config, name, tables) for name in features.histories}
    inputs.others += [*inputs.position, *inputs.histories.values()]
    for name, discrete in features.discrete.items():
        if name in by_feature:
            source = (tables.get(by_feature[name], by_feature[name]),)
            text = f"discrete {_discrete(features, name)}"
            parts = [text] if discrete.length == 1 else [f"{text}[{index}]" for index in range(discrete.length)]
            inputs.others += [Input(part, source) for part in parts]
    return inputs


def _values(role: str, column: Column, assets: Assets) -> Iterator[str]:
    """The values that are read of a numeric column."""
    if column.of is not None:
        yield f"{role} {column.of.column!r}[{column.of.index}]"
    elif column.length == 1:
        yield f"{role} {column.name!r}"
    else:
        mask = assets[column.name].to_pylist() if column.mask is not None else [True] * column.read
        yield from (f"{role} {column.name!r}[{index}]" for index, read in enumerate(mask) if read)


def _discrete(features: FeaturesConfig, name: str) -> str:
    of = getattr(features.discrete[name], "of", None)
    return repr(name) if of is None else f"{of.column!r}[{of.index}]"


def _history(config: RecapConfig, name: str, tables: Mapping[str, str | None]) -> Input:
    features, models = config.features, config.model.histories
    history, encoder = features.histories[name], models[name if name in models else DEFAULT].encoder
    columns = {
        "ids": history.ids,
        **{f"attributes/{key}": history.attributes[key] for key in sorted(history.attributes)},
    }
    sources: list[str | None] = []
    for key, column in columns.items():
        if not isinstance(column, NumberEvents):
            table = column.table if isinstance(column, SharedTable) else f"{name}/{key}"
            sources.append(tables.get(table, table))
    text = ", ".join(repr(column.column) for column in columns.values())
    target = f" of {_discrete(features, feature)}" if (feature := target_of(encoder)) is not None else ""
    if isinstance(encoder, HstuConfig):  # its weights fit any attributes
        asked = {"ages": encoder.ages, "interleaved": encoder.interleave}
        text += "".join(
            f", {role} {history.attributes[key].column!r}" for role, key in asked.items() if key is not None
        )
    return Input(f"history {text} by {encoder.kind}{target}", sources)


def difference(old: Sequence[Input], new: Sequence[Input]) -> str:
    """How the inputs of two models differ; "" if they are equal."""
    if len(old) == len(new) and all(one.equals(other) for one, other in zip(new, old, strict=True)):
        return ""
    before, after = Counter(part.text for part in old), Counter(part.text for part in new)
    parts = [f"only this model has {_named(after - before)}"] if after - before else []
    parts += [f"only the old model has {_named(before - after)}"] if before - after else []
    if not parts:
        index = next(index for index, (one, other) in enumerate(zip(new, old, strict=True)) if not one.equals(other))
        one, other = new[index], old[index]
        same = one.text == other.text
        parts = (
            [f"{one.text} reads another table"]
            if same
            else [f"they have another order: where this model has {one.text}, the old one has {other.text}"]
        )
    return "; ".join(parts)


def _named(inputs: Counter[str]) -> str:
    names = list(inputs)
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return ", ".join(names[:_MAX_NAMED]) + more


@dataclass(frozen=True)
class TableRows:
    """The code space of a table and, for a vocabulary, its values."""

    space: CodeSpace
    vocabulary: pa.Array | None

    def same(self, old: "TableRows") -> bool:
        """Whether every row means what it means in `old`."""
        if isinstance(self.space, ZeroCollisionSpace) or isinstance(old.space, ZeroCollisionSpace):
            return self._ids == old._ids is not None
        if isinstance(self.space, HashSpace) or isinstance(old.space, HashSpace):
            return isinstance(old.space, HashSpace) and getattr(self.space, "hash", None) == old.space.hash
        if isinstance(self.space, IntegerSpace) and isinstance(old.space, IntegerSpace):
            return self.space.size == old.space.size
        return self.vocabulary is not None and old.vocabulary is not None and self.vocabulary.equals(old.vocabulary)

    @property
    def _ids(self) -> tuple[int, int] | None:
        """The rows and parts of a zero-collision hash; equal ones have the ids of their rows beside the weights."""
        if not isinstance(self.space, ZeroCollisionSpace):
            return None
        return self.space.zero_collision.rows, self.space.zero_collision.number_of_parts

    def codes_in(self, old: "TableRows") -> tuple[Tensor, Tensor] | None:
        """The codes of the values that both have, here and in `old`; None if hashes hide the values."""
        hidden = HashSpace | ZeroCollisionSpace
        if isinstance(self.space, hidden) or isinstance(old.space, hidden):
            return None
        if isinstance(self.space, IntegerSpace) and isinstance(old.space, IntegerSpace):
            codes = torch.arange(1, min(self.space.size, old.space.size) + 1)
            return codes, codes
        indices = pc.index_in(self._values(), value_set=old._values())
        rows = np.flatnonzero(indices.is_valid())
        old_rows = indices.drop_null().to_numpy().astype(np.int64)
        return torch.from_numpy(rows + 1), torch.from_numpy(old_rows + 1)

    def describe(self) -> str:
        """The code space as text."""
        match self.space:
            case HashSpace():
                hashed = self.space.hash
                return f"{hashed.hashes} hashes with seed {hashed.seed} into {hashed.buckets} buckets"
            case ZeroCollisionSpace():
                return f"a zero-collision hash with {self.space.zero_collision.rows} rows"
            case VocabularySpace():
                return f"a vocabulary of {len(self.vocabulary)}" if self.vocabulary is not None else "a vocabulary"
            case _:
                return f"size {self.space.size}"

    def _values(self) -> pa.Array:
        """The value of each code but 0, as text: an integer and its decimal digits are the same value."""
        if isinstance(self.space, IntegerSpace):
            return pa.array(range(self.space.size), pa.int64()).cast(pa.string())
        assert self.vocabulary is not None
        return self.vocabulary.cast(pa.string())


def table_rows(config: RecapConfig, assets: Assets) -> dict[str, TableRows]:
    """Table → what its rows mean."""
    rows = {name: TableRows(space, assets.get(name)) for name, space in config.features.code_spaces.items()}
    for blocks in blocks_by_table(table_specs(config, assets)).values():
        whole = rows[blocks[0].name]
        assert whole.vocabulary is not None
        for block in blocks:
            values = whole.vocabulary.slice(block.before, block.num_embeddings - 1)
            rows[block.name] = TableRows(whole.space, values)
    return rows
