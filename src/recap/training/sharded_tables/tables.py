"""`ShardedTables`: embedding tables of which each rank holds a part, looked up and updated by TorchRec.

TorchRec wants one width in a collection, so there is a collection for each width. It looks up single rows, and values
of several codes are summed here, because on a CPU TorchRec divides sums of rows by table and by columns only.

The tables' own optimizer moves the rows of a batch in the backward pass of the lookup. This pass is apart from that of
the network: the network sees copies of the vectors, and `step` gives their gradients to the lookup once the step is
known to be good. So a step that is not finite moves no table, as it moves no other weight.
"""

from collections import ChainMap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from recap.config.optimizer import RowwiseAdagradConfig, SgdConfig
from recap.config.recap import RecapConfig
from recap.distributed import TIMEOUT, lost_ranks_raised
from recap.model.directory import check_finite
from recap.model.inputs.tables import BLOCK_ROWS, Tables, TableSpec, initial_rows
from recap.model.names import key_of
from recap.reporting import Say
from recap.runtime import Runtime
from recap.training.ids.local import ids_name
from recap.training.ids.parts import PartIds
from recap.training.sharded_tables.checkpoints import is_sharded
from recap.training.sharded_tables.collection import Collection, build_collections, fused_options, table_state
from recap.training.sharded_tables.loading import load_torchrec, quiet, same_random_state
from recap.training.sharded_tables.plan import build_planner, describe_plan
from recap.training.sharded_tables.zero_collision import ZeroCollision

if TYPE_CHECKING:
    from torch.distributed._shard.sharded_tensor.api import ShardedTensor


@dataclass(frozen=True)
class TablePart:
    """The part of a table that this rank holds, or one of several."""

    first_row: int
    first_column: int
    weight: Tensor  # [rows, columns] float32
    state: Tensor | None  # [rows, columns], or [rows] for row-wise Adagrad; None for SGD

    @property
    def rows(self) -> slice:
        """Its rows in the table."""
        return slice(self.first_row, self.first_row + len(self.weight))

    @property
    def columns(self) -> slice:
        """Its columns in the table."""
        return slice(self.first_column, self.first_column + self.weight.shape[1])


@dataclass(frozen=True)
class _Lookup:
    """A forward pass whose gradients have not reached the tables yet, by feature."""

    codes: Mapping[str, Tensor]  # [B, N, codes per value], rows of tables
    vectors: Mapping[str, Tensor]  # [B, N, width], of the lookup
    copies: Mapping[str, Tensor]  # the same, which the network read


class ShardedTables(Tables):
    """Each rank holds a part of each table. Every rank must take part in each forward pass and each `step`.

    TorchRec's modules are not registered as modules of torch: their weights are no parameters of the ranker, which
    other parts of training would sum over ranks, move, and copy. `state_dict` has the names of whole tables, with
    `ShardedTensor`s as values.
    """

    is_sharded = True

    def __init__(self, specs: Sequence[TableSpec], config: RecapConfig, runtime: Runtime, say: Say) -> None:
        """Tables with initial rows that are those of whole tables.

        Raises InputError without TorchRec, and ConfigError, which names a table, if no plan fits.
        """
        load_torchrec()
        from torchrec.distributed.embedding import EmbeddingCollectionSharder
        from torchrec.distributed.types import ShardingEnv

        super().__init__(specs)
        assert config.optimizer.tables is not None
        self.ranks, self.device = runtime.ranks, runtime.device
        algorithm = config.optimizer.tables.algorithm
        sharder = EmbeddingCollectionSharder(fused_params={**fused_options(algorithm), "learning_rate": 0.0})
        with quiet(), same_random_state():
            collections, names = build_collections(specs)
            plan, self.plan = build_planner(config, runtime, self.by_feature)(collections, sharder, names)
            environment = ShardingEnv.from_process_group(dist.new_group(timeout=TIMEOUT))
            self._collections = [
                Collection(
                    sharder.shard(collection, plan.plan[path], environment, self.device),
                    [feature for feature in self.by_feature if self.by_feature[feature].width == int(path)],
                    self.device,
                )
                for path, collection in collections.items()
            ]
        own_names = {spec.name: name for name, spec in names.items()}
        by_width = {spec.name: list(collections).index(str(spec.width)) for spec in specs}
        self.weights: dict[str, ShardedTensor] = {}
        """Table → its weight."""
        self.states: dict[str, ShardedTensor] = {}
        """Table → the sums of Adagrad."""
        for spec in specs:
            name, collection = own_names[spec.name], self._collections[by_width[spec.name]]
            weight = collection.weights[f"embeddings.{name}.weight"]
            self.weights[spec.name] = weight
            if not isinstance(algorithm, SgdConfig):
                own = collection.states.get(f"embeddings.{name}.weight", {}).get(f"{name}.momentum1")
                by_row = isinstance(algorithm, RowwiseAdagradConfig)
                self.states[spec.name] = table_state(weight, [] if own is None else own.local_shards(), by_row=by_row)
        self.ids = ZeroCollision(specs, self.ranks, self.device, config.training.seed)
        """The ids of the rows of tables that have a zero-collision hash."""
        self.parts = {spec.name: list(self._parts(spec.name)) for spec in specs}
        """Table → the parts that this rank holds."""
        self._lookups: list[_Lookup] = []
        self._initial_sum: float = getattr(algorithm, "initial_accumulator_value", 0.0)
        self._set_initial(config.training.seed)
        with torch.no_grad():  # TorchRec makes tensors in its first pass, which must not be those of inference mode
            self._vectors({})
        for line in describe_plan(self.plan) if self.ranks.is_first else ():
            say(line)

    def _parts(self, table: str) -> Iterator[TablePart]:
        states = self.states[table].local_shards() if table in self.states else []
        for index, shard in enumerate(self.weights[table].local_shards()):
            first_row, first_column = shard.metadata.shard_offsets
            state = states[index].tensor.detach() if states else None
            yield TablePart(first_row, first_column, shard.tensor.detach(), state)

    def _set_initial(self, seed: int) -> None:
        for spec in self.specs.values():
            parts = self.parts[spec.name]
            for start, rows in initial_rows(spec, seed, [(part.rows.start, part.rows.stop) for part in parts]):
                self._write(spec.name, start, rows)
            for part in parts:
                if part.state is not None:
                    part.state.fill_(self._initial_sum)

    def _write(self, table: str, start: int, rows: Tensor) -> None:
        """Copy consecutive `rows` of a table, from row `start`, as far as this rank holds them."""
        for part in self.parts[table]:
            first, end = max(start, part.rows.start), min(start + len(rows), part.rows.stop)
            if first < end:
                part.weight[first - part.rows.start : end - part.rows.start] = rows[
                    first - start : end - start, part.columns
                ].to(self.device)

    # Lookups.

    def forward(self, codes: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if not torch.is_grad_enabled():
            with (
                torch.inference_mode(False),
                torch.no_grad(),
                lost_ranks_raised(),
            ):  # fbgemm has no kernels for inference mode
                return self._vectors(self.ids.rows(codes, record=False))
        codes = self.ids.rows(codes, record=self.training)
        with lost_ranks_raised():
            vectors = self._vectors(codes)
        copies = {feature: vector.detach().requires_grad_() for feature, vector in vectors.items()}
        self._lookups.append(_Lookup(codes, vectors, copies))
        return dict(copies)

    def _vectors(self, codes: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Features → their vectors; features that are not in `codes` are left out."""
        vectors: dict[str, Tensor] = {}
        for step in zip(*(collection.lookup(codes) for collection in self._collections), strict=True):
            for feature, rows in ChainMap(*step).items():
                if feature in codes:  # [B · N · codes per value, width]
                    shape = codes[feature].shape
                    split = rows.view(*shape, rows.shape[1])
                    vectors[feature] = split.squeeze(-2) if shape[-1] == 1 else split.sum(dim=-2)
        return {feature: vectors[feature] for feature in codes}

    # The update of the rows of a step.

    def set_rate(self, rate: float) -> None:
        """Set the learning rate of the lookups that follow, and of their `step`."""
        for collection in self._collections:
            collection.set_rate(rate)

    def gradient_norms(self) -> dict[str, float]:
        """Table → the norm of the gradients of its vectors in this step, over all ranks, which must all call it."""
        squares = dict.fromkeys(self.specs, torch.zeros((), dtype=torch.float32, device=self.device))
        for lookup in self._lookups:
            for feature, copy in lookup.copies.items():
                if copy.grad is not None:
                    table = self.by_feature[feature].name
                    squares[table] = squares[table] + copy.grad.square().sum()
        return self._roots(squares)

    def scale_gradients(self, factor: float) -> None:
        """Multiply the gradients of this step's vectors."""
        for lookup in self._lookups:
            for copy in lookup.copies.values():
                if copy.grad is not None:
                    copy.grad.mul_(factor)

    def step(self) -> None:
        """Move the rows that the lookups since the last step read, with the gradients of their vectors."""
        lookups, self._lookups = self._lookups, []
        if not lookups:
            return
        gradients = [{feature: _gradient(copy) for feature, copy in lookup.copies.items()} for lookup in lookups]
        vectors, given = lookups[0].vectors, gradients[0]
        if len(lookups) > 1:  # micro-batches: one update with the sum of their gradients, as for other weights
            given = {feature: torch.cat([_flat(part[feature]) for part in gradients]) for feature in given}
            codes = {feature: torch.cat([_flat(lookup.codes[feature]) for lookup in lookups]) for feature in given}
            with lost_ranks_raised(), torch.enable_grad():
                vectors = self._vectors({feature: values[:, None] for feature, values in codes.items()})
            given = {feature: values[:, None] for feature, values in given.items()}
        with lost_ranks_raised():
            torch.autograd.backward([vectors[feature] for feature in given], list(given.values()))
        for table, (rows, new) in self.ids.step().items():
            self._restart_rows(table, rows, new)

    def forget(self) -> None:
        """Drop the lookups of a step that is not taken."""
        self._lookups = []
        self.ids.forget()

    def _restart_rows(self, table: str, rows: Tensor, vectors: Tensor) -> None:
        """Give rows new vectors and the state of new rows, because they belong to other ids now."""
        self.set_rows(table, rows, vectors)
        for part in self.parts[table]:
            own = (rows >= part.rows.start) & (rows < part.rows.stop)
            if part.state is not None:
                part.state[rows[own] - part.rows.start] = self._initial_sum

    # Rows and state by name.

    def set_rows(self, table: str, codes: Tensor, vectors: Tensor) -> None:
        codes, vectors = codes.to(self.device), vectors.to(self.device)
        for part in self.parts[table]:
            own = (codes >= part.rows.start) & (codes < part.rows.stop)
            part.weight[codes[own] - part.rows.start] = vectors[own][:, part.columns]

    def read_rows(self, table: str, stored: Any, codes: tuple[Tensor, Tensor] | None, what: str) -> None:
        """Copy rows of a stored table, a slice of a safetensors file, of which no more than a block is in memory.

        `codes`: codes of this table and those of the same values in the stored one, [N] each; None if all are the same.
        Raises CheckpointError, which starts with `what`, for values that are not finite.
        """
        count = stored.get_shape()[0]
        for start in range(0, count, BLOCK_ROWS):
            end = min(start + BLOCK_ROWS, count)
            if codes is None and not any(
                part.rows.start < end and start < part.rows.stop for part in self.parts[table]
            ):
                continue
            rows = stored[start:end]
            check_finite(rows, what)
            if codes is None:
                self._write(table, start, rows)
            else:
                own, old = codes
                inside = (old >= start) & (old < end)
                self.set_rows(table, own[inside], rows[old[inside] - start])

    def make_gradients_sparse(self) -> None:
        """Does nothing: an update moves only the rows of its batch."""

    def norms(self) -> dict[str, float]:
        """Table → the L2 norm of its weight, over all ranks, which must all call it."""
        squares = {
            table: sum((part.weight.square().sum() for part in parts), torch.zeros((), device=self.device))
            for table, parts in self.parts.items()
        }
        return self._roots(squares)

    def _roots(self, squares: Mapping[str, Tensor]) -> dict[str, float]:
        (totals,) = self.ranks.all_reduce([torch.stack(list(squares.values()))])
        return dict(zip(squares, totals.sqrt().tolist(), strict=True))

    def optimizer_state(self) -> dict[str, Any]:
        """`tables.KEY.weight/sum` → the sums of Adagrad of a table: the names of whole tables.

        And `row_ids.KEY.ids/…` → what a zero-collision hash knows of the ids. Every rank must call it.
        """
        states: dict[str, Any] = {f"{_weight_name(table)}/sum": state for table, state in self.states.items()}
        for table, ids in self.ids.tables.items():
            name = ids_name(table)
            states |= {f"{name}/{key}": self._sharded(ids, values) for key, values in ids.metadata.items()}
            states |= {f"{name}/{key}": value for key, value in ids.counted().items()}
        return states

    def _sharded(self, ids: PartIds, values: Tensor) -> "ShardedTensor":
        return ids.sharded(values, self.weights[ids.spec.name]._process_group)

    def load_optimizer_state(self, values: Mapping[str, Tensor]) -> None:
        """Restore what `optimizer_state` returned, or the tensors of whole tables."""
        for table in self.states:
            value = values.get(f"{_weight_name(table)}/sum")
            if value is None or value is self.states[table]:
                continue
            for part in self.parts[table]:
                assert part.state is not None
                part.state.copy_(value[part.rows] if part.state.dim() == 1 else value[part.rows, part.columns])
        for table, ids in self.ids.tables.items():
            name = ids_name(table)
            if f"{name}/history" in values:  # the others are restored in place
                prefix = f"{name}/"
                ids.load_counted({key.removeprefix(prefix): values[key] for key in values if key.startswith(prefix)})

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        for table, weight in self.weights.items():
            destination[prefix + _weight_name(table)] = weight
        for table, ids in self.ids.tables.items():
            destination[prefix + ids_name(table)] = self._sharded(ids, ids.row_ids.ids)

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        for table, weight in self.weights.items():
            name = prefix + _weight_name(table)
            value = state_dict.get(name)
            if value is None:
                missing_keys.extend([name] if strict else [])
            elif value is not weight:
                for part in self.parts[table]:
                    part.weight.copy_(value[part.rows, part.columns])
        for table, ids in self.ids.tables.items():
            name = prefix + ids_name(table)
            value = state_dict.get(name)
            if value is None:
                missing_keys.extend([name] if strict else [])
            elif is_sharded(value):  # the live one
                ids.row_ids.sort()
            else:
                ids.load_ids(value)


def _weight_name(table: str) -> str:
    return f"tables.{key_of(table)}.weight"


def _gradient(copy: Tensor) -> Tensor:
    return torch.zeros_like(copy) if copy.grad is None else copy.grad


def _flat(values: Tensor) -> Tensor:
    """[B, N, …] → [B · N, …]."""
    return values.flatten(0, 1)
