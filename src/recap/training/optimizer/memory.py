"""The memory of training besides weights and activations: gradients, optimizer state, the moving average."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import assert_never

from torch import Tensor

from recap.config.optimizer import (
    AdagradConfig,
    AdamConfig,
    AdamWConfig,
    RowwiseAdagradConfig,
    SgdConfig,
    TableAlgorithmConfig,
)
from recap.config.recap import RecapConfig
from recap.errors import ConfigError
from recap.model.ranker import Ranker
from recap.runtime import free_memory


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes that one rank needs for the parameters that are not frozen."""

    gradient_bytes: int
    """Without tables whose gradients are sparse: those hold only the rows of a batch."""
    moment_bytes: int
    """State of the optimizer, such as Adam's moments."""
    average_bytes: int
    """The moving average of the weights."""


def training_memory(config: RecapConfig, ranker: Ranker) -> TrainingMemory:
    """The memory to train `ranker`, whose frozen modules must be frozen already."""
    optimizer = config.optimizer
    learned = [parameter for parameter in ranker.parameters() if parameter.requires_grad]
    if optimizer.tables is None:
        moments, with_gradients = _moment_bytes(optimizer.algorithm, learned), learned
    else:
        tables = set(ranker.inputs.embeddings.parameters())
        others = [parameter for parameter in learned if parameter not in tables]
        moments = _moment_bytes(optimizer.algorithm, others)
        moments += _moment_bytes(
            optimizer.tables.algorithm, [parameter for parameter in learned if parameter in tables]
        )
        with_gradients = others if optimizer.tables.sparse else learned
    return TrainingMemory(
        gradient_bytes=_bytes(with_gradients),
        moment_bytes=moments,
        average_bytes=_bytes(learned) if config.training.ema is not None else 0,
    )


def check_memory(config: RecapConfig, ranker: Ranker) -> None:
    """Raise ConfigError if a machine without a GPU has no memory to train `ranker`, whose weights it holds."""
    memory, free = training_memory(config, ranker), free_memory()
    parts = {
        "gradients": memory.gradient_bytes,
        "optimizer state": memory.moment_bytes,
        "averaged weights": memory.average_bytes,
    }
    if sum(parts.values()) > free and not next(ranker.parameters()).is_cuda:
        listed = ", ".join(f"{name} {size / 2**30:,.1f} GiB" for name, size in parts.items() if size)
        raise ConfigError(
            f"training needs more memory than the {free / 2**30:,.1f} GiB that are free: {listed}. Make tables and "
            "layers smaller, or update tables with optimizer.tables (sparse, or a smaller optimizer state)"
        )


def state_bytes(algorithm: TableAlgorithmConfig, numbers: int, rows: int) -> int:
    """The state for a float32 weight of `numbers` numbers; `rowwise_adagrad` keeps one per row."""
    match algorithm:
        case AdamConfig() | AdamWConfig():
            return 8 * numbers
        case SgdConfig():
            return 4 * numbers if algorithm.momentum else 0
        case AdagradConfig():
            return 4 * numbers
        case RowwiseAdagradConfig():
            return 4 * rows
        case _:
            assert_never(algorithm)


def _moment_bytes(algorithm: TableAlgorithmConfig, parameters: Iterable[Tensor]) -> int:
    return sum(
        state_bytes(algorithm, parameter.numel(), parameter.shape[0] if parameter.dim() else 1)
        for parameter in parameters
    )


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
