"""The tables of one width, as a collection of TorchRec: its options, its lookups, and its state."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from recap.config.optimizer import AdagradConfig, RowwiseAdagradConfig, SgdConfig, TableAlgorithmConfig
from recap.model.inputs.tables import TableSpec

if TYPE_CHECKING:
    from torch.distributed._shard.sharded_tensor.api import ShardedTensor
    from torch.distributed._shard.sharded_tensor.shard import Shard


class Collection:
    """The tables of one width."""

    def __init__(self, module: Any, features: Sequence[str], device: torch.device) -> None:
        """`module`: a `ShardedEmbeddingCollection` whose features are those of recap by their index in `features`."""
        self.module, self.features, self.device = module, features, device
        self.weights: dict[str, ShardedTensor] = module.state_dict()
        self.states: dict[str, dict[str, ShardedTensor]] = module.fused_optimizer.state_dict()["state"]

    def lookup(self, codes: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
        """Rows by feature, [all codes of the feature, width]; empty at the steps before the last.

        Each step waits for an exchange between ranks and starts the next: numbers of ids, ids, rows. So the lookups
        of several collections, advanced in turn, exchange at the same time. A feature is one list of codes to
        TorchRec, whatever rows they belong to: ranks may have different shares.
        """
        from torchrec import KeyedJaggedTensor

        flat = [codes[feature].reshape(-1) if feature in codes else None for feature in self.features]
        given = [values for values in flat if values is not None]
        jagged = KeyedJaggedTensor(
            keys=[str(index) for index in range(len(self.features))],
            values=torch.cat(given) if given else torch.empty(0, dtype=torch.int64, device=self.device),
            lengths=torch.tensor([0 if values is None else len(values) for values in flat], device=self.device),
        )
        context = self.module.create_context()
        numbers = self.module.input_dist(context, jagged)
        yield {}
        ids = numbers.wait()
        yield {}
        rows = self.module.compute_and_output_dist(context, ids.wait())
        yield {}
        yield {feature: rows[str(index)].values() for index, feature in enumerate(self.features)}

    def set_rate(self, rate: float) -> None:
        optimizer = self.module.fused_optimizer
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()  # which only hands the rate over


def build_collections(specs: Sequence[TableSpec]) -> tuple[nn.ModuleDict, dict[str, TableSpec]]:
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


def fused_options(algorithm: TableAlgorithmConfig) -> dict[str, Any]:
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


def table_state(weight: "ShardedTensor", own: "Sequence[Shard]", *, by_row: bool) -> "ShardedTensor":
    """The state of a table from this rank's parts, which are divided as `weight` is; TorchRec makes it on some ranks.

    `by_row`: it has a number for each row.
    """
    from torch.distributed._shard.sharded_tensor.api import ShardedTensor
    from torch.distributed._shard.sharded_tensor.metadata import ShardedTensorMetadata
    from torch.distributed._shard.sharded_tensor.shard import Shard

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
