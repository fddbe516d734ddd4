"""`ShardedTables`: embedding tables of which each rank holds a part, looked up and updated by TorchRec.

TorchRec wants one width in a collection, so there is a collection for each width. It looks up single rows, and values
of several codes are summed here, because on a CPU TorchRec divides sums of rows by table and by columns only.

The tables' own optimizer moves the rows of a batch in the backward pass of the lookup. This pass is apart from that of
the network: the network sees copies of the vectors, and `step` gives their gradients to the lookup once the step is
known to be good. So a step that is not finite moves no table, as it moves no other weight.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from recap.config.optimizer import AdagradConfig, RowwiseAdagradConfig, SgdConfig, TableAlgorithmConfig
from recap.config.recap import RecapConfig
from recap.distributed import TIMEOUT, Ranks
from recap.errors import LostRank
from recap.model.inputs.tables import Tables, TableSpec, initial_rows
from recap.model.names import key_of
from recap.reporting import Say
from recap.runtime import Runtime, free_memory
from recap.training.sharded_tables.library import load_torchrec, quiet
from recap.training.sharded_tables.plan import Planner

if TYPE_CHECKING:
    from torch.distributed._shard.sharded_tensor import Shard, ShardedTensor


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

    codes: Mapping[str, Tensor]  # [B, N, codes per value]
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
        sharder = EmbeddingCollectionSharder(fused_params={**_fused(algorithm), "learning_rate": 0.0})
        with quiet(), _same_random_state():
            collections, names = _collections(specs)
            plan, self.plan = _planner(config, runtime, self.by_feature)(collections, sharder, names)
            environment = ShardingEnv.from_process_group(dist.new_group(timeout=TIMEOUT))
            self._collections = [
                _Collection(
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
                self.states[spec.name] = _state(weight, [] if own is None else own.local_shards(), by_row=by_row)
        self.parts = {spec.name: list(self._parts(spec.name)) for spec in specs}
        """Table → the parts that this rank holds."""
        self._lookups: list[_Lookup] = []
        self._set_initial(config.training.seed, getattr(algorithm, "initial_accumulator_value", 0.0))
        with torch.no_grad():  # TorchRec makes tensors in its first pass, which must not be those of inference mode
            self._vectors({})
        for table in self.plan if self.ranks.is_first else ():
            say(f"sharded table {table.describe()}")

    def _parts(self, table: str) -> Iterator[TablePart]:
        states = self.states[table].local_shards() if table in self.states else []
        for index, shard in enumerate(self.weights[table].local_shards()):
            first_row, first_column = shard.metadata.shard_offsets
            state = states[index].tensor.detach() if states else None
            yield TablePart(first_row, first_column, shard.tensor.detach(), state)

    def _set_initial(self, seed: int, sums: float) -> None:
        for spec in self.specs.values():
            parts = self.parts[spec.name]
            for start, rows in initial_rows(spec, seed, [(part.rows.start, part.rows.stop) for part in parts]):
                self._write(spec.name, start, rows)
            for part in parts:
                if part.state is not None:
                    part.state.fill_(sums)

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
                _lost_ranks(),
            ):  # fbgemm has no kernels for inference mode
                return self._vectors(codes)
        with _lost_ranks():
            vectors = self._vectors(codes)
        copies = {feature: vector.detach().requires_grad_() for feature, vector in vectors.items()}
        self._lookups.append(_Lookup(codes, vectors, copies))
        return dict(copies)

    def _vectors(self, codes: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Features → their vectors; features that are not in `codes` are left out."""
        started = [collection.start(codes) for collection in self._collections]
        vectors: dict[str, Tensor] = {}
        for wait in started:
            for feature, rows in wait().items():  # [B · N · codes per value, width]
                if feature in codes:
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
            with _lost_ranks(), torch.enable_grad():
                vectors = self._vectors({feature: values[:, None] for feature, values in codes.items()})
            given = {feature: values[:, None] for feature, values in given.items()}
        with _lost_ranks():
            torch.autograd.backward([vectors[feature] for feature in given], list(given.values()))

    def forget(self) -> None:
        """Drop the lookups of a step that is not taken."""
        self._lookups = []

    # Rows and state by name.

    def set_rows(self, table: str, codes: Tensor, vectors: Tensor) -> None:
        for part in self.parts[table]:
            own = (codes >= part.rows.start) & (codes < part.rows.stop)
            part.weight[(codes[own] - part.rows.start).to(self.device)] = vectors[own][:, part.columns].to(self.device)

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

    def optimizer_state(self) -> "dict[str, ShardedTensor]":
        """`tables.KEY.weight/sum` → the sums of Adagrad of a table: the names of whole tables."""
        return {f"{_weight_name(table)}/sum": state for table, state in self.states.items()}

    def load_optimizer_state(self, values: Mapping[str, Tensor]) -> None:
        """Restore what `optimizer_state` returned, or the tensors of whole tables."""
        for table in self.states:
            value = values.get(f"{_weight_name(table)}/sum")
            if value is None or value is self.states[table]:
                continue
            for part in self.parts[table]:
                assert part.state is not None
                part.state.copy_(value[part.rows] if part.state.dim() == 1 else value[part.rows, part.columns])

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        for table, weight in self.weights.items():
            destination[prefix + _weight_name(table)] = weight

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


class _Collection:
    """The tables of one width."""

    def __init__(self, module: Any, features: Sequence[str], device: torch.device) -> None:
        """`module`: a `ShardedEmbeddingCollection` whose features are those of recap by their index in `features`."""
        self.module, self.features, self.device = module, features, device
        self.weights: dict[str, ShardedTensor] = module.state_dict()
        self.states: dict[str, dict[str, ShardedTensor]] = module.fused_optimizer.state_dict()["state"]

    def start(self, codes: Mapping[str, Tensor]) -> Callable[[], dict[str, Tensor]]:
        """Start a lookup; the function waits for its rows: feature → [all codes of the feature, width].

        A feature is one list of codes to TorchRec, whatever rows they belong to: ranks may have different shares.
        """
        from torchrec import KeyedJaggedTensor

        flat = [codes[feature].reshape(-1) if feature in codes else None for feature in self.features]
        given = [values for values in flat if values is not None]
        jagged = KeyedJaggedTensor(
            keys=[str(index) for index in range(len(self.features))],
            values=torch.cat(given) if given else torch.empty(0, dtype=torch.int64, device=self.device),
            lengths=torch.tensor([0 if values is None else len(values) for values in flat], device=self.device),
        )
        rows = self.module(jagged)
        return partial(self._wait, rows)

    def _wait(self, rows: Any) -> dict[str, Tensor]:
        return {feature: rows[str(index)].values() for index, feature in enumerate(self.features)}

    def set_rate(self, rate: float) -> None:
        optimizer = self.module.fused_optimizer
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()  # which only hands the rate over


def _collections(specs: Sequence[TableSpec]) -> tuple[nn.ModuleDict, dict[str, TableSpec]]:
    """Width → its collection, without memory; and TorchRec's name of each table → its spec.

    Features are named by their index among those of the same width, since TorchRec has rules for names.
    """
    from torchrec import EmbeddingCollection, EmbeddingConfig

    names = {f"table{index}": spec for index, spec in enumerate(specs)}
    collections = {}
    for width in sorted({spec.width for spec in specs}):
        of_width = {name: spec for name, spec in names.items() if spec.width == width}
        features = [feature for spec in of_width.values() for feature in spec.features]
        collections[str(width)] = EmbeddingCollection(
            tables=[
                EmbeddingConfig(
                    name=name,
                    num_embeddings=spec.num_embeddings,
                    embedding_dim=width,
                    feature_names=[str(features.index(feature)) for feature in spec.features],
                )
                for name, spec in of_width.items()
            ],
            device=torch.device("meta"),
        )
    return nn.ModuleDict(collections), names


def _planner(config: RecapConfig, runtime: Runtime, by_feature: Mapping[str, TableSpec]) -> Planner:
    sharded, tables, ranks = config.training.sharded_tables, config.optimizer.tables, runtime.ranks
    assert sharded is not None
    assert tables is not None
    memory = _free_bytes(runtime) if sharded.memory_gib is None else int(sharded.memory_gib * 2**30)
    values: dict[str, list[int]] = {}
    for feature, spec in by_feature.items():
        values.setdefault(spec.name, []).append(_values(config, feature) * config.features.codes_per_value(spec.name))
    return Planner(
        config=sharded,
        algorithm=tables.algorithm,
        ranks=ranks,
        device_type=runtime.device.type,
        memory_bytes=ranks.broadcast_object(memory),
        batch_size=max(config.train_data.global_batch_size // ranks.world_size, 1),
        values=values,
    )


def _values(config: RecapConfig, feature: str) -> int:
    """The values of a feature per row, at most."""
    if feature in config.features.discrete:
        return config.features.discrete[feature].length
    return config.features.histories[feature.partition("/")[0]].max_length


def _free_bytes(runtime: Runtime) -> int:
    if runtime.device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(runtime.device)
        return free
    return free_memory() // runtime.ranks.local_world_size


def _fused(algorithm: TableAlgorithmConfig) -> dict[str, Any]:
    """The options of fbgemm's optimizer."""
    from fbgemm_gpu.split_embedding_configs import EmbOptimType

    match algorithm:
        case SgdConfig():
            return {"optimizer": EmbOptimType.EXACT_SGD}
        case AdagradConfig():
            return {"optimizer": EmbOptimType.EXACT_ADAGRAD, "eps": algorithm.epsilon}
        case RowwiseAdagradConfig():
            return {"optimizer": EmbOptimType.EXACT_ROWWISE_ADAGRAD, "eps": algorithm.epsilon}
        case _:
            raise AssertionError(algorithm.kind)  # the check of the configuration rejects it


def _weight_name(table: str) -> str:
    return f"tables.{key_of(table)}.weight"


def _gradient(copy: Tensor) -> Tensor:
    return torch.zeros_like(copy) if copy.grad is None else copy.grad


def _flat(values: Tensor) -> Tensor:
    """[B, N, …] → [B · N, …]."""
    return values.flatten(0, 1)


def _state(weight: "ShardedTensor", own: "Sequence[Shard]", *, by_row: bool) -> "ShardedTensor":
    """The state of a table from this rank's parts, which are divided as `weight` is; TorchRec makes it on some ranks.

    `by_row`: it has a number for each row.
    """
    from torch.distributed._shard.sharded_tensor import Shard, ShardedTensor, ShardedTensorMetadata

    dimensions = 1 if by_row else 2
    metadata = weight.metadata()
    shards = [
        replace(part, shard_offsets=part.shard_offsets[:dimensions], shard_sizes=part.shard_sizes[:dimensions])
        for part in metadata.shards_metadata
    ]
    tensors = {tuple(shard.metadata.shard_offsets[:dimensions]): shard.tensor for shard in own}
    local = [
        Shard(tensors[tuple(part.shard_offsets)].detach(), part)
        for part in shards
        if part.placement is not None and part.placement.rank() == dist.get_rank()
    ]
    return ShardedTensor._init_from_local_shards_and_global_metadata(
        local,
        ShardedTensorMetadata(shards, torch.Size(metadata.size[:dimensions]), metadata.tensor_properties),
        process_group=weight._process_group,
    )


@contextmanager
def table_group(ranks: Ranks) -> Iterator[None]:
    """For the block: a process group of torch, which TorchRec needs, also for a run of a single process."""
    if ranks.is_distributed or dist.is_initialized():
        yield
        return
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", store=dist.HashStore(), rank=0, world_size=1
    )
    try:
        yield
    finally:
        dist.destroy_process_group()


@contextmanager
def _same_random_state() -> Iterator[None]:
    """For the block: random numbers that are drawn do not change those drawn after it."""
    with torch.random.fork_rng(devices=[]):
        yield


@contextmanager
def _lost_ranks() -> Iterator[None]:
    """For the block: raises LostRank where a collective of TorchRec raises RuntimeError."""
    try:
        yield
    except RuntimeError as error:
        raise LostRank(
            f"another process of this run ended or hangs ({str(error).strip().partition(chr(10))[0]}). To resume from "
            "the last checkpoint, run the same command again"
        ) from None
