"""The parameters and costs of a network, found by passing a few rows through weights that take no memory."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from recap.config.recap import RecapConfig
from recap.data.batch import Batch
from recap.data.encoding.assets import Assets
from recap.errors import RecapError
from recap.model.directory import open_inputs
from recap.model.frozen import freeze
from recap.model.inputs.tables import LocalTables, TableSpec
from recap.model.layers import running_statistics
from recap.model.ranker import Ranker
from recap.model.shapes import meta_ranker
from recap.model.summary import ROWS, synthetic_batch
from recap.training.teachers import Lesson, lessons_of, teacher_folder

_AUTOCAST = {"bf16": torch.bfloat16, "float16": torch.float16}
BYTES = 4
"""Of a float32: weights, gradients, optimizer state and the vectors of tables."""


@dataclass(frozen=True)
class TableCosts:
    """One embedding table."""

    spec: TableSpec
    lookups: int
    """Rows of the table that an example reads, padding of histories included."""
    is_learned: bool
    """False for a frozen table."""


@dataclass(frozen=True)
class NetworkCosts:
    """A network: its tables, and all else, which is dense."""

    tables: tuple[TableCosts, ...]
    dense_bytes: int
    """Parameters and buffers outside the tables."""
    learned_bytes: int
    """Those of them that the optimizer updates."""
    flops: int
    """Of the forward pass for one example: two per multiply-add of a matrix product."""
    activation_bytes: int
    """Bytes per example that the forward pass saves for the backward pass, in the precision of training."""
    operations: int
    """Calls of torch's operators in a forward pass, whatever the number of rows."""
    min_examples: int
    """Examples that a micro-batch needs: 2 with BatchNorm."""
    teachers: tuple["TeacherCosts", ...] = ()

    @property
    def weight_bytes(self) -> int:
        """Of the tables, and of all else."""
        return self.dense_bytes + sum(table.spec.num_embeddings * table.spec.width * BYTES for table in self.tables)


@dataclass(frozen=True)
class TeacherCosts:
    """A model that teaches tasks of the run: every rank holds it, and scores its examples in float32."""

    directory: str
    network: NetworkCosts | None
    """None if the model cannot be read."""
    problem: str
    """Why it cannot be read; empty if it can."""


def network_costs(config: RecapConfig, assets: Assets, precision: str) -> NetworkCosts:
    """The costs of training with `precision`, without memory for weights. Raises ConfigError."""
    teachers = tuple(_teacher_costs(directory, lessons) for directory, lessons in lessons_of(config).items())
    return replace(_costs(config, assets, precision), teachers=teachers)


def _teacher_costs(directory: str, lessons: Sequence[Lesson]) -> TeacherCosts:
    try:
        config, assets = open_inputs(teacher_folder(directory, lessons))
    except RecapError as error:
        return TeacherCosts(directory, None, str(error))
    return TeacherCosts(directory, _costs(config, assets, "float32", in_training=False), "")


def _costs(config: RecapConfig, assets: Assets, precision: str, *, in_training: bool = True) -> NetworkCosts:
    ranker = meta_ranker(config, assets).train(in_training)
    freeze(ranker, config.optimizer.frozen)
    batches = (synthetic_batch(config, assets, rows) for rows in (ROWS, 2 * ROWS))
    single, double = (_forward(ranker, batch, precision) for batch in batches)
    tables = ranker.inputs.embeddings
    assert isinstance(tables, LocalTables)
    in_tables = set(map(id, tables.parameters()))
    dense = [parameter for parameter in ranker.parameters() if id(parameter) not in in_tables]
    return NetworkCosts(
        tables=tuple(
            TableCosts(
                spec,
                lookups=sum(single.lookups[feature] for feature in spec.features),
                is_learned=tables.weight(spec.name).requires_grad,
            )
            for spec in tables.specs.values()
        ),
        dense_bytes=_bytes([*dense, *ranker.buffers()]),
        learned_bytes=_bytes(parameter for parameter in dense if parameter.requires_grad),
        flops=single.flops // ROWS,
        activation_bytes=(double.saved_bytes - single.saved_bytes) // ROWS,
        operations=single.operations,
        min_examples=2 if running_statistics(ranker) else 1,
    )


@dataclass(frozen=True)
class _Forward:
    flops: int
    saved_bytes: int
    operations: int
    lookups: Mapping[str, int]
    """Feature → rows of its table that an example reads."""


def _forward(ranker: Ranker, batch: Batch, precision: str) -> _Forward:
    """What a forward pass in training does, for a ranker whose weights have no memory."""
    # All numbers of a parameter are one zero in memory, whatever its size.
    weights = {
        name: torch.zeros((), dtype=parameter.dtype).expand(parameter.shape).requires_grad_(parameter.requires_grad)
        for name, parameter in ranker.named_parameters()
    }
    weights |= {name: torch.zeros(buffer.shape, dtype=buffer.dtype) for name, buffer in ranker.named_buffers()}
    own = {tensor.untyped_storage().data_ptr() for tensor in weights.values()}
    saved, lookups = dict[int, Tensor](), dict[str, int]()  # `saved` keeps tensors alive: no storage is counted twice

    def save(tensor: Tensor) -> Tensor:
        address = tensor.untyped_storage().data_ptr()
        if address not in own:
            saved[address] = tensor
        return tensor

    def count_lookups(_: nn.Module, arguments: tuple[Mapping[str, Tensor]]) -> None:
        lookups.update({feature: codes.shape[1:].numel() for feature, codes in arguments[0].items()})

    handle = ranker.inputs.embeddings.register_forward_pre_hook(count_lookups)
    dtype = _AUTOCAST.get(precision)
    with (
        torch.autocast("cpu", dtype, enabled=dtype is not None),
        torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor),
        _Operations() as operations,
        FlopCounterMode(display=False) as counter,
    ):
        functional_call(ranker, weights, (batch,))
    handle.remove()
    sizes = sum(tensor.untyped_storage().nbytes() for tensor in saved.values())
    return _Forward(int(counter.get_total_flops()), sizes, operations.count, lookups)


class _Operations(TorchDispatchMode):
    """Counts the calls of torch's operators."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
