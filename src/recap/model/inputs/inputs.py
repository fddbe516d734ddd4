"""`Inputs`: the columns of a batch → one vector per row."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from hashlib import blake2b
from typing import NamedTuple

import torch
from torch import Tensor, nn

from recap.config.featurization import BINARY
from recap.config.recap import RecapConfig
from recap.data.batch import Batch
from recap.data.encoding.assets import Assets, column_width, discrete_columns, discrete_sizes, numeric_columns
from recap.model.histories.encoder import Encoded
from recap.model.histories.inputs import Histories
from recap.model.inputs.featurization import build_featurization
from recap.model.inputs.layout import InputLayout
from recap.model.inputs.narrow import Lift, blocks_by_table
from recap.model.inputs.position import PositionDebias
from recap.model.inputs.requests import CONTINUOUS, Division, RequestBatch, Side, Users
from recap.model.inputs.tables import BuildTables, LocalTables, Tables, table_specs
from recap.model.names import NamedModules

Recall = Callable[[bytes, Callable[[], Encoded]], Encoded]
"""Key, and a function that computes its value → the value."""


class _DiscreteFeature(NamedTuple):
    """A discrete feature that has a table."""

    columns: slice
    """Its columns in `Batch.discrete`."""
    length: int
    """Values per row; each has one code or, if hashed, several."""


class Inputs(nn.Module):
    """`Batch` → [B, layout.width] float32: numbers, vectors, the position, histories, embeddings of numbers and ids."""

    def __init__(self, config: RecapConfig, assets: Assets, build_tables: BuildTables | None = None) -> None:
        super().__init__()
        features, model = config.features, config.model
        self.features = features.inputs
        self.numeric: dict[str, dict[str, range]] = {CONTINUOUS: {}, BINARY: {}}
        for column, role, indices in numeric_columns(features, assets):
            self.numeric[role][column.name] = indices
        self._all = Side(frozenset(self.features), dict.fromkeys(self.numeric))
        lengths = {name: vector.length for name, vector in features.vectors.items()}
        self.joins_binary = BINARY in model.featurization.join
        self.joined_vectors = [name for name in lengths if name in model.featurization.join]
        self.vector_names = [name for name in lengths if name not in model.featurization.join]
        continuous = sum(column_width(column, assets) for column in features.continuous)
        binary = sum(column_width(column, assets) for column in features.binary)
        joined = sum(lengths[name] for name in self.joined_vectors)
        numbers = sum(lengths[name] for name in self.vector_names)
        if self.joins_binary:
            joined += binary
        else:
            numbers += binary
        self.featurization = build_featurization(model.featurization, continuous, joined, model.numbers)
        numbers += self.featurization.out_features
        self.vector_norms = NamedModules({name: nn.LayerNorm(lengths[name]) for name in self.vector_names})
        columns = discrete_columns(features)
        self.position: PositionDebias | None = None
        if model.position_debias is not None:
            feature = model.position_debias.feature
            positions, std = discrete_sizes(features, assets)[feature], model.initialization.embeddings.std
            self.position = PositionDebias(model.position_debias, positions, std)
            self.position_feature, self.position_column = feature, columns[feature].start
            numbers += self.position.out_features
        specs = table_specs(config, assets)
        self.embeddings: Tables = (
            LocalTables(specs, config.training.seed) if build_tables is None else build_tables(specs)
        )
        self.lifts: NamedModules | None = None
        """Of tables whose rare values have narrower rows."""
        self.lifts_by_table = {table: Lift(blocks) for table, blocks in blocks_by_table(specs).items()}
        if self.lifts_by_table:
            self.lifts = NamedModules(self.lifts_by_table)
        tables = {feature: spec for spec in specs if spec.block_of is None for feature in spec.features}
        self.discrete = {
            name: _DiscreteFeature(columns[name], discrete.length)
            for name, discrete in features.discrete.items()
            if name in tables
        }
        self.history_features = [feature for feature in tables if feature not in features.discrete]
        self.histories: Histories | None = None
        widths = [tables[name].width for name, feature in self.discrete.items() for _ in range(feature.length)]
        names = [name for name, feature in self.discrete.items() for _ in range(feature.length)]
        if embedded := self.featurization.embedded:
            names = [name for name, indices in self.numeric[CONTINUOUS].items() for _ in indices] + names
        if features.histories:
            row_width = numbers + sum(embedded) + sum(widths)
            self.histories = Histories(features, model.histories, tables, row_width)
            numbers += self.histories.out_features
        self.layout = InputLayout(numbers, [*embedded, *widths], names)

    def forward(self, batch: Batch) -> Tensor:
        """The input vectors of `batch`; labels, weights and users are not read."""
        if isinstance(batch, RequestBatch):
            own, embeddings = self._pieces(batch, batch.users.division.candidates)
            pieces = {name: [batch.repeated(piece)] for name, piece in batch.users.pieces.items()}
            pieces |= {name: [piece] for name, piece in own.items()}
            pieces |= {role: batch.alternating(role, own[role]) for role in (CONTINUOUS, BINARY)}
        else:
            own, embeddings = self._pieces(batch, self._all)
            pieces = {name: [piece] for name, piece in own.items()}
        before, after = list(self._numbers(pieces)), list(self._embeddings(pieces))
        histories: list[Tensor] = []
        for name in self.histories.names if self.histories is not None else ():
            assert self.histories is not None
            if f"histories/{name}" in pieces:
                histories += pieces[f"histories/{name}"]
                continue
            target = None
            if name in self.histories.targets:
                feature = self.histories.targets[name]
                target = torch.cat(before + after, dim=1) if feature is None else pieces[f"discrete/{feature}"][0]
            if isinstance(batch, RequestBatch) and name in batch.users.histories:
                assert target is not None
                histories.append(self.histories.attend(name, batch, target))
            else:
                histories.append(self.histories(name, batch.histories, embeddings, target))
        return torch.cat([*before, *histories, *after], dim=1)

    def division(self, users: Collection[str]) -> Division:
        """The division of the features in which `users` are those of users."""
        return Division.of(self.features, users, self.numeric)

    def encode_users(
        self, batch: Batch, division: Division, multiple: int, device: torch.device, recall: Recall
    ) -> Users:
        """What depends on the users alone, on `device`; `batch` holds their columns in memory, [R, …].

        Numbers, vectors and embeddings are computed with rows of zeros up to a `multiple` of rows, and each history
        by itself, so the results for a user do not depend on the others. `recall`: the encoded history for a key, which
        names its events, computed by a function if it is not known.
        """
        count = len(batch)
        padded = batch.padded(-(-count // multiple) * multiple).to(device)
        pieces = {name: piece[:count] for name, piece in self._pieces(padded, division.users)[0].items()}
        by_user: dict[str, list[Encoded]] = {}
        if self.histories is not None:
            for name in self.histories.names:
                if name not in division.users.features:
                    continue
                parts = {key: part for key, part in batch.histories.items() if key.startswith(f"{name}/")}
                rows = [{key: part[row : row + 1] for key, part in parts.items()} for row in range(count)]
                encoded = [
                    recall(_key(name, row), partial(self._encode_history, name, row, multiple, device)) for row in rows
                ]
                if name in self.histories.targets:
                    by_user[name] = encoded
                else:
                    pieces[f"histories/{name}"] = torch.cat([vector for (vector,) in encoded])
        return Users(division, count, pieces, by_user, multiple)

    def _encode_history(self, name: str, row: Mapping[str, Tensor], multiple: int, device: torch.device) -> Encoded:
        """`row`: the history of one user as in `Batch.histories`, [1, L, …]."""
        assert self.histories is not None
        length = row[f"{name}/ids"].shape[1]
        padded = {
            key: torch.cat([part, part.new_zeros(1, -length % multiple, *part.shape[2:])], dim=1).to(device)
            if part.dim() > 1
            else part.to(device)
            for key, part in row.items()
        }
        codes = {feature: padded[feature] for feature in self.history_features if feature in row}
        embeddings = self._vectors(self._divided(codes))
        encoded = self.histories.encode(name, padded, embeddings, length)
        return tuple(part.clone(memory_format=torch.contiguous_format) for part in encoded)  # not views of more

    def _pieces(self, batch: Batch, side: Side) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """What one side has, except histories: by name [B, …]; and the embeddings of its features, [B, N, width]."""
        columns = self.featurization.columns(batch.continuous.float(), side.numbers[CONTINUOUS])
        pieces = {CONTINUOUS: columns, BINARY: batch.binary.float()}
        for name in batch.vectors:
            vector = batch.vectors[name].float()
            pieces[f"vectors/{name}"] = vector if name in self.joined_vectors else self.vector_norms.named(name)(vector)
        if self.position is not None and self.position_feature in side.features:
            pieces["position"] = self.position(batch.discrete[:, self.position_column])
        discrete = [name for name in self.discrete if name in side.features]
        embeddings = self._vectors(self.codes(batch, discrete))
        pieces |= {f"discrete/{name}": embeddings[name].flatten(1) for name in self.discrete if name in side.features}
        return pieces, embeddings

    def codes(self, batch: Batch, discrete: Iterable[str]) -> dict[str, Tensor]:
        """The codes that tables look up, [B, N, codes per value] int64: of features `discrete`, and of histories.

        A feature whose table has narrower rows for rare values has codes for each of its blocks.
        """
        columns = {name: self.discrete[name] for name in discrete}
        codes = {
            name: torch.unflatten(batch.discrete[:, indices], 1, (length, -1))
            for name, (indices, length) in columns.items()
        }
        codes |= {name: batch.histories[name] for name in self.history_features if name in batch.histories}
        return self._divided(codes)

    def _divided(self, codes: dict[str, Tensor]) -> dict[str, Tensor]:
        """Codes by feature, with those of blocks where a table has several."""
        for lift in self.lifts_by_table.values():
            for number, feature in enumerate(lift.blocks[0].features):
                if feature in codes:
                    codes |= lift.divided(number, codes[feature])
        return codes

    def _vectors(self, codes: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What `_divided` returned → the vectors of each feature, [B, N, width]."""
        vectors: dict[str, Tensor] = self.embeddings(codes)
        for lift in self.lifts_by_table.values():
            for names in zip(*(block.features for block in lift.blocks), strict=True):
                if names[0] in codes:
                    vectors[names[0]] = lift([codes[name] for name in names], [vectors[name] for name in names])
        return vectors

    def _numbers(self, pieces: Mapping[str, Sequence[Tensor]]) -> Iterator[Tensor]:
        """The pieces that the network reads before the histories, in order, [B, …] each."""
        joined = [*pieces[BINARY]] if self.joins_binary else []
        joined += [part for name in self.joined_vectors for part in pieces[f"vectors/{name}"]]
        yield from self.featurization.rows([*([] if self.featurization.embedded else pieces[CONTINUOUS]), *joined])
        if not self.joins_binary:
            yield from pieces[BINARY]
        for name in self.vector_names:
            yield from pieces[f"vectors/{name}"]
        yield from pieces.get("position", ())

    def _embeddings(self, pieces: Mapping[str, Sequence[Tensor]]) -> Iterator[Tensor]:
        """Those that it reads after the histories."""
        if self.featurization.embedded:
            yield from (part.flatten(1) for part in pieces[CONTINUOUS])
        for name in self.discrete:
            yield from pieces[f"discrete/{name}"]


def _key(name: str, row: Mapping[str, Tensor]) -> bytes:
    """What names the events of a history: equal only for equal events, up to the collisions of a hash of 128 bits."""
    digest = blake2b(name.encode(), digest_size=16)
    length = int(row[f"{name}/length"])
    for key, part in row.items():
        digest.update(f"|{key}|{length}|".encode())
        digest.update(part[:, :length].numpy().tobytes() if part.dim() > 1 else b"")
    return digest.digest()
