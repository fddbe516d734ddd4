"""Requests: what depends on the user alone is computed once per request, and repeated for its candidates.

    users [R rows]       columns of the users    ─ Inputs.encode_users ─▶ Users
    candidates [M rows]  the other columns       ─ Inputs.forward ──────▶ [M, layout.width]

Any division of the features into those of users and those of candidates works. Users without histories and vectors are
not worth it: their numbers and codes are repeated (`Division.joined`).
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import torch
from torch import Tensor

from recap.config.featurization import BINARY
from recap.data.batch import Batch
from recap.model.histories.encoder import Encoded

CONTINUOUS = "continuous"


@dataclass(frozen=True)
class Side:
    """The features that a batch holds. Its other columns are left out; in `Batch.discrete` they are 0."""

    features: frozenset[str]
    numbers: Mapping[str, Tensor | None]
    """`continuous` and `binary` → the columns that the batch holds, [n] int64; None: all."""


@dataclass(frozen=True)
class Division:
    """Which features are those of users, and which those of candidates."""

    users: Side
    candidates: Side
    runs: Mapping[str, Sequence[tuple[bool, slice]]]
    """`continuous` and `binary` → how their columns alternate: whether the next are those of users, and where there."""
    order: Mapping[str, Tensor]
    """`continuous` and `binary` → for each column, its place if those of users came first, [n] int64."""

    @classmethod
    def of(
        cls, features: Collection[str], users: Collection[str], numbers: Mapping[str, Mapping[str, range]]
    ) -> "Division":
        """`features`: all; `users`: those of users. `numbers`: `continuous` and `binary` → feature → its columns."""
        users = frozenset(users)
        runs: dict[str, list[tuple[bool, slice]]] = {}
        for role, parts in numbers.items():
            runs[role], starts = [], {True: 0, False: 0}
            for is_user, group in groupby(parts, lambda name: name in users):
                start = starts[is_user]
                starts[is_user] = start + sum(len(parts[name]) for name in group)
                runs[role].append((is_user, slice(start, starts[is_user])))
        order = {}
        for role, parts in numbers.items():
            of_user = torch.tensor([name in users for name, part in parts.items() for _ in part], dtype=torch.bool)
            order[role] = (~of_user).to(torch.uint8).argsort(stable=True).argsort()
        return cls(_side(users, numbers), _side(frozenset(features) - users, numbers), runs, order)

    def joined(self, users: Batch, candidates: Batch, request_of: Tensor) -> Batch:
        """The candidates [M rows] with the numbers and codes of their users [R rows]; `request_of` [M]: whose they are.

        For users who have nothing else, faster than `Inputs.encode_users`: there operations cost more than rows.
        """
        repeated = users.rows(request_of)
        return replace(
            candidates,
            continuous=self._in_order(CONTINUOUS, repeated.continuous, candidates.continuous),
            binary=self._in_order(BINARY, repeated.binary, candidates.binary),
            discrete=candidates.discrete + repeated.discrete,  # the codes of features of the other side are 0
        )

    def _in_order(self, role: str, users: Tensor, candidates: Tensor) -> Tensor:
        return torch.cat([users, candidates], dim=1).index_select(1, self.order[role])


def _side(names: frozenset[str], numbers: Mapping[str, Mapping[str, range]]) -> Side:
    columns = {
        role: [index for name, part in parts.items() if name in names for index in part]
        for role, parts in numbers.items()
    }
    return Side(names, {role: torch.tensor(indices, dtype=torch.int64) for role, indices in columns.items()})


@dataclass(frozen=True)
class Users:
    """What a model computed for R users."""

    division: Division
    count: int
    """R."""
    pieces: Mapping[str, Tensor]  # as `Inputs` names them, [R, n] each; embedded numbers [R, n, width]
    histories: Mapping[str, Sequence[Encoded]]
    """The histories whose encoders use the candidate: by name, one per user."""
    multiple: int
    """Candidates attend to a history in multiples of this number of rows, `score_rows.row_multiple`."""


@dataclass(frozen=True, kw_only=True)
class RequestBatch(Batch):
    """M candidates of R users: the columns of the candidates, except `discrete`, which holds those of users too.

    A row is one candidate, so `rows` selects candidates; `users` are shared.
    """

    request_of: Tensor  # [M] int64: the row of `users`
    users: Users

    def repeated(self, values: Tensor) -> Tensor:
        """[R, n] → [M, n], those of the user of each candidate; likewise [R, n, width]."""
        if self.users.count == 1:
            return values.expand(len(self), *values.shape[1:])
        return values.index_select(0, self.request_of)

    def alternating(self, role: str, own: Tensor) -> list[Tensor]:
        """The numbers of candidates [M, n] and of users, in the order of the configuration, [M, …] each."""
        runs = self.users.division.runs[role]
        repeated = self.repeated(self.users.pieces[role]) if any(is_user for is_user, _ in runs) else own
        return [(repeated if is_user else own)[:, columns] for is_user, columns in runs] or [own]

    def by_user(self) -> list[tuple[int, Tensor | None, int]]:
        """For each user: its row, its candidates (None: all), and their number.

        The candidates are filled up to a multiple of `users.multiple` by the first row of the batch.
        """
        if self.users.count == 1:
            return [(0, None, len(self))]
        users = []
        for user in sorted(set(self.request_of.tolist())):
            rows = (self.request_of == user).nonzero()[:, 0]
            filled = rows.new_zeros(-(-len(rows) // self.users.multiple) * self.users.multiple)
            filled[: len(rows)] = rows
            users.append((user, filled, len(rows)))
        return users
