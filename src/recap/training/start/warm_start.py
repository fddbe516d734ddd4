"""A warm start: loads the weights of another model; weights may be renamed or start fresh.

Weights are used for what they were trained for only. The rows of a table follow their values: a vocabulary may grow,
shrink and change its order. Weights that read the inputs need the same inputs in the same order.
"""

from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor

from recap.config.base import KeyPath, ShapesWeights, dotted
from recap.config.discrete import IntegerCodes
from recap.config.features import VectorColumn
from recap.config.file.diff import describe_changes, differences
from recap.config.file.keys import is_below_mark
from recap.config.model import EmbeddingConfig
from recap.config.recap import RecapConfig
from recap.config.training import InitialWeightsConfig
from recap.data.encoding.assets import Assets
from recap.errors import CheckpointError, ConfigError
from recap.model.directory import WEIGHTS, SavedModel, check_shapes, open_inputs, read_weights
from recap.model.inputs.meaning import difference, inputs_of, table_rows
from recap.model.inputs.tables import table_specs
from recap.model.names import is_below, key_of, nearest
from recap.model.ranker import Ranker
from recap.model.shapes import weight_mismatches, weight_shapes
from recap.training.sharded_tables.checkpoints import is_sharded, without_values
from recap.training.sharded_tables.tables import ShardedTables

_PATH = ("training", "initial_weights")
_FRESH, _MAP = dotted((*_PATH, "fresh")), dotted((*_PATH, "map"))
_MAX_LISTED = 10
_MORE = 997
"""Values of the vector that `_with_more_inputs` adds: enough to change every share of the inputs."""


class Warm(NamedTuple):
    """What a warm start did."""

    messages: list[str]
    """For the user."""
    names: Collection[str]
    """The weights of the new model that come from the old one."""


def start_from(folder: Path, model: SavedModel) -> Warm:
    """Load weights of the model in `folder` into the ranker of `model`.

    `training.initial_weights` maps names between the models; without it all weights must fit, and have a place here.
    Raises ConfigError for unknown names, and CheckpointError for weights that are missing, have another shape or
    another meaning, or no place; both load nothing.
    """
    config = model.config.training.initial_weights
    mapping = config if config is not None else InitialWeightsConfig()
    start = _WarmStart(folder, model, mapping)
    if problems := list(_unknown(mapping, start.new, start.old, folder)):
        raise ConfigError("\n".join(problems))
    lines = start.match_rows()
    unused = sorted(start.old.keys() - set(start.sources.values()))
    expected = {name: start.new[name] for name in start.sources}
    problems = []
    if shown := weight_mismatches(start.taken, expected):
        problems.append(f"Give their old names in {_MAP}, or list them or their modules in {_FRESH}:\n  {shown}")
    if unused and config is None:
        names = "\n  ".join(_listed(unused))
        problems.append(
            f"These have no place in this model; any {dotted(_PATH)}, such as {{}}, leaves them out:\n  {names}"
        )
    if problems:
        text = "\n".join(problems)
        raise CheckpointError(f"{folder / WEIGHTS}: the weights do not fit this model. {text}{start.changed_inputs()}")
    start.check_meaning()
    start.load(model.ranker)
    if config is not None:
        others = ", the others start fresh" if len(start.taken) < len(start.new) else ""
        lines.append(f"{len(start.taken)} of {len(start.new)} weights come from {folder}{others}")
    if unused:
        lines.append(f"unused weights of {folder}: {', '.join(unused)}")
    return Warm(lines + start.other_changes(), start.taken.keys())


class _WarmStart:
    """The weights of two models, and where those of the new one come from."""

    def __init__(self, folder: Path, model: SavedModel, mapping: InitialWeightsConfig) -> None:
        self.folder, self.config, self.assets = folder, model.config, model.assets
        self.old_config, self.old_assets = open_inputs(folder)
        check_shapes(folder, self.old_config, self.old_assets)
        weights = model.ranker.state_dict()
        self.new: dict[str, Tensor] = {
            name: without_values(value) if is_sharded(value) else value for name, value in weights.items()
        }
        sources = {name: _source(name, mapping) for name in self.new}
        self.sources = {name: source for name, source in sources.items() if source is not None}
        tables = model.ranker.inputs.embeddings
        self.sharded = {_table_weight(table): table for table in tables.specs} if tables.is_sharded else {}
        """Weight → table, for tables of which this rank reads only its part, when all is known to fit."""
        apart = {source for name, source in self.sources.items() if name in self.sharded}
        apart -= {source for name, source in self.sources.items() if name not in self.sharded}
        self.old = read_weights(folder, shapes_only=apart)
        self.codes: dict[str, tuple[Tensor, Tensor]] = {}
        """Sharded table → the codes here and in the old table of the values that both have."""
        self.taken = {name: self.old[source] for name, source in self.sources.items() if source in self.old}
        self.rows, self.old_rows = table_rows(self.config, self.assets), table_rows(self.old_config, self.old_assets)
        old_tables = {_table_weight(table): table for table in self.old_rows}
        self.tables = {table: old_tables.get(self.sources.get(_table_weight(table), "")) for table in self.rows}
        """Table → the old table that its rows come from; None for one that starts fresh."""
        self.inputs = inputs_of(self.config, self.assets, self.tables)
        self.old_inputs = inputs_of(self.old_config, self.old_assets, {})

    def match_rows(self) -> list[str]:
        """Put the rows of old tables where the new tables have their values; return messages.

        Raises CheckpointError for a table whose values are hashed in another way.
        """
        lines = []
        for table, source in self.tables.items():
            name = _table_weight(table)
            if source is None or name not in self.taken or self.rows[table].same(self.old_rows[source]):
                continue
            codes = self.rows[table].codes_in(self.old_rows[source])
            if codes is None:
                theirs, ours = self.old_rows[source].describe(), self.rows[table].describe()
                raise CheckpointError(
                    f"{self.folder}: the rows of table {table!r} mean other values: {theirs} there, {ours} here. Use "
                    f"the former, or list {name.removesuffix('.weight')} in {_FRESH}"
                )
            here, old_codes = codes
            new, before = self.new[name], self.taken[name]
            if new.shape[1:] != before.shape[1:]:
                continue  # reported with the other shapes
            if table in self.sharded.values():
                zero = torch.zeros(1, dtype=torch.int64)  # the row of unknown values
                self.codes[table] = torch.cat([zero, here]), torch.cat([zero, old_codes])
                self.taken[name] = torch.empty(new.shape, device="meta")
            else:
                rows = new.clone()
                rows[0], rows[here] = before[0], before[old_codes]
                self.taken[name] = rows
            fresh, dropped = new.shape[0] - 1 - len(here), before.shape[0] - 1 - len(here)
            lines.append(
                f"table {table!r}: {len(here)} rows come from {self.folder} by their values, {fresh} new values start "
                f"fresh, {dropped} old ones are dropped"
            )
        return lines

    def load(self, ranker: Ranker) -> None:
        """Load the weights that are taken. Raises CheckpointError for those of sharded tables that are not finite."""
        ranker.load_state_dict({name: taken for name, taken in self.taken.items() if not taken.is_meta}, strict=False)
        file, tables = self.folder / WEIGHTS, ranker.inputs.embeddings
        for name in self.taken.keys() & self.sharded.keys():
            assert isinstance(tables, ShardedTables)
            with safe_open(file, "pt") as content:
                stored = content.get_slice(self.sources[name])
                tables.read_rows(self.sharded[name], stored, self.codes.get(self.sharded[name]), f"{file}: {name}")

    def check_meaning(self) -> None:
        """Raise CheckpointError if weights that are taken would read inputs that they were not trained for."""
        taken: dict[str, str] = {}  # weight → why it does not fit
        for path, changed in self._changed_parts().items():
            taken |= {name: changed for name in self.taken if is_below(name, path)}
        if changed := self._changed_inputs:
            taken |= {name: changed for name in _input_readers(self.config, self.assets) if name in self.taken}
        if taken:
            reasons = "\n  ".join(dict.fromkeys(taken.values()))
            names = "\n  ".join(_listed(list(taken)))
            raise CheckpointError(
                f"{self.folder}: its inputs are not those of this model:\n  {reasons}\n"
                f"Use the features of the old model in its order, or list these weights or their modules in {_FRESH}:"
                f"\n  {names}"
            )

    def _changed_parts(self) -> dict[str, str]:
        """Path of a module within the inputs whose own inputs changed → how."""
        old, new = self.old_inputs, self.inputs
        changed = {
            "inputs.featurization": difference(old.featurized, new.featurized),
            "inputs.position": difference(old.position, new.position),
        }
        for name, history in new.histories.items():
            for kind in ("events", "encoders"):
                path = f"inputs.histories.{kind}.{key_of(name)}"
                source = next((source for weight, source in self.sources.items() if is_below(weight, path)), "")
                before = [
                    part
                    for other, part in old.histories.items()
                    if is_below(source, f"inputs.histories.{kind}.{key_of(other)}")
                ]
                changed[path] = difference(before, [history]) if source else ""
        return {path: text for path, text in changed.items() if text}

    @property
    def _changed_inputs(self) -> str:
        return difference(self.old_inputs.all, self.inputs.all)

    def changed_inputs(self) -> str:
        """How the inputs changed, as the last line of a message."""
        return f"\nThe inputs differ: {self._changed_inputs}" if self._changed_inputs else ""

    def other_changes(self) -> list[str]:
        """What else changed in the features and the model, one line each."""
        changes = {
            path: change
            for path, change in differences(self.old_config, self.config).items()
            if is_below_mark(RecapConfig, path, ShapesWeights()) and not _is_file(path)
        }
        return [f"changed since {self.folder}: {line}" for line in _listed(describe_changes(changes))]


def _is_file(path: KeyPath) -> bool:
    """Whether a field names a file, whose content was compared or is not read."""
    return path[-1] in ("vocabulary", "mask", "analysis", "pretrained")


def _listed(lines: list[str]) -> list[str]:
    more = len(lines) - _MAX_LISTED
    return lines[:_MAX_LISTED] + ([f"and {more} more"] if more > 0 else [])


def _table_weight(table: str) -> str:
    return f"inputs.embeddings.tables.{key_of(table)}.weight"


def _input_readers(config: RecapConfig, assets: Assets) -> list[str]:
    """The weights whose shape depends on the number of inputs: those that read them all.

    They are outside `inputs`, or in the encoder of a history that reads the whole row.
    """
    before = weight_shapes(config, assets)
    after = weight_shapes(_with_more_inputs(config, assets), assets)
    return [
        name
        for name, tensor in before.items()
        if (not is_below(name, "inputs") or is_below(name, "inputs.histories.encoders"))
        and (name not in after or after[name].shape != tensor.shape)
    ]


def _with_more_inputs(config: RecapConfig, assets: Assets) -> RecapConfig:
    """`config` with a vector and, if it has embeddings, a discrete feature that no column has."""
    features, model = config.features, config.model
    widths = [spec.width for spec in table_specs(config, assets) if spec.name in features.discrete]
    widths += [model.numbers.width] if model.numbers is not None else []
    name = "".join(["+", *features.inputs])
    discrete = {f"{name}+": IntegerCodes(size=1)} if widths else {}
    changed = {
        "features": features.model_copy(
            update={
                "vectors": {**features.vectors, name: VectorColumn(length=_MORE)},
                "discrete": {**features.discrete, **discrete},
            }
        ),
        "model": model.model_copy(
            update={"embeddings": {**model.embeddings, f"{name}+": EmbeddingConfig(width=max(widths, default=1))}}
        ),
    }
    return config.model_copy(update=changed)


def _source(name: str, config: InitialWeightsConfig) -> str | None:
    """The name of a weight in the old model; None if it starts fresh."""
    sources = {**config.map, **dict.fromkeys(config.fresh)}
    path = max((path for path in sources if is_below(name, path)), key=len, default=None)
    if path is None:
        return name
    source = sources[path]
    return source + name[len(path) :] if source is not None else None


def _unknown(config: InitialWeightsConfig, new: Iterable[str], old: Iterable[str], folder: Path) -> Iterator[str]:
    """A message for each name in `config` that the model it refers to lacks."""
    named: list[tuple[KeyPath, str]] = [(("map", path), path) for path in config.map]
    named += [(("fresh", index), path) for index, path in enumerate(config.fresh)]
    for key, path in named:
        if not any(is_below(name, path) for name in new):
            yield f"{dotted((*_PATH, *key))}: no weights of this model are named {path!r}. {nearest(path, new)}"
    for path, source in config.map.items():
        if not any(is_below(name, source) for name in old):
            key_path = dotted((*_PATH, "map", path))
            yield f"{key_path}: no weights of {folder} are named {source!r}. {nearest(source, old)}"
