"""What a model is made of and what it costs, without its data: parameters, FLOPs and memory, module by module."""

from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from typing import Any, assert_never

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from recap.config.optimizer import (
    AdagradConfig,
    AdamConfig,
    AdamWConfig,
    RowwiseAdagradConfig,
    SgdConfig,
    TableAlgorithmConfig,
)
from recap.config.recap import JobMode, RecapConfig
from recap.data.batch import Batch
from recap.data.encoding.assets import Assets
from recap.data.encoding.encoder import RowEncoder
from recap.model.directory import build_ranker
from recap.model.frozen import freeze
from recap.model.ranker import Ranker

ROWS = 8
"""Of the synthetic batches; what is said of an example does not depend on it."""


@dataclass(frozen=True)
class ModuleSummary:
    """One module with all below it."""

    name: str
    kind: str
    output: list[list[int]]
    """Shape of what it gives of one example, of each tensor if there are several; none where it is not called."""
    parameters: int
    flops: int
    """Of one example, forward: two for each multiplication and addition of a matrix product; others are not counted."""
    children: list["ModuleSummary"]


@dataclass(frozen=True)
class ModelSummary:
    """A whole model, and the bytes it takes to train it."""

    model: ModuleSummary
    parameters: int
    flops: int
    """Of one example, forward; a training step takes about three times as many."""
    weight_bytes: int
    """Parameters and buffers, as the weights file holds them."""
    gradient_bytes: int
    """Of all parameters that learn, but for tables whose gradients are sparse: those hold the rows of a batch alone."""
    moment_bytes: int
    """What the optimizer keeps beside them."""
    average_bytes: int
    """The moving average of the weights."""
    activation_bytes: int
    """Of one example in training: what is kept for the backward pass."""

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def summarise(config: RecapConfig, assets: Assets) -> ModelSummary:
    """The model of a configuration with fresh weights, run over rows of zeros. Raises ConfigError."""
    ranker, said = build_ranker(config, assets), config.optimizer
    freeze(ranker, said.frozen)
    learned = [each for each in ranker.parameters() if each.requires_grad]
    tables = set(ranker.inputs.embeddings.parameters()) if said.tables is not None else set()
    others = [each for each in learned if each not in tables]
    kept = _moments(said.algorithm, others)
    if said.tables is not None:
        kept += _moments(said.tables.algorithm, [each for each in learned if each in tables])
    with_gradients = others if said.tables is not None and said.tables.sparse else learned
    few, more = (_kept_bytes(ranker.train(), synthetic_batch(config, assets, rows)) for rows in (ROWS, 2 * ROWS))
    model = _modules(ranker.eval(), synthetic_batch(config, assets, ROWS))
    return ModelSummary(
        model=model,
        parameters=model.parameters,
        flops=model.flops,
        weight_bytes=_bytes(ranker.state_dict().values()),
        gradient_bytes=_bytes(with_gradients),
        moment_bytes=kept,
        average_bytes=_bytes(learned) if config.training.ema is not None else 0,
        activation_bytes=(more - few) // ROWS,
    )


def _moments(algorithm: TableAlgorithmConfig, parameters: Collection[Tensor]) -> int:
    """Bytes that an algorithm keeps of these parameters."""
    whole = _bytes(parameters)
    match algorithm:
        case AdamConfig() | AdamWConfig():
            return 2 * whole
        case SgdConfig():
            return whole if algorithm.momentum else 0
        case AdagradConfig():
            return whole
        case RowwiseAdagradConfig():
            return _bytes(each[:, 0] for each in parameters)
        case _:
            assert_never(algorithm)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(each.numel() * each.element_size() for each in tensors)


def synthetic_batch(config: RecapConfig, assets: Assets, rows: int) -> Batch:
    """Rows of zeros without labels, of the columns that a model reads."""
    return RowEncoder.for_job(config, assets, JobMode.INFERENCE).empty().zeros(rows)


def _modules(ranker: Ranker, batch: Batch) -> ModuleSummary:
    """The tree of modules, from one forward pass."""
    outputs: dict[nn.Module, list[list[int]]] = {}

    def note(module: nn.Module, _: Any, output: Any) -> None:
        tensors = [output] if isinstance(output, Tensor) else list(output)
        outputs[module] = [list(tensor.shape[1:]) for tensor in tensors if isinstance(tensor, Tensor)]

    handles = [module.register_forward_hook(note) for module in ranker.modules()]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        ranker(batch)
    for handle in handles:
        handle.remove()
    flops = {name: sum(counts.values()) // len(batch) for name, counts in counter.get_flop_counts().items()}

    def tree(name: str, path: str, module: nn.Module) -> ModuleSummary:
        return ModuleSummary(
            name=name,
            kind=type(module).__name__,
            output=outputs.get(module, []),
            parameters=sum(each.numel() for each in module.parameters()),
            flops=flops.get(path, 0),
            children=[tree(child, f"{path}.{child}", below) for child, below in module.named_children()],
        )

    root = type(ranker).__name__
    found = tree("model", root, ranker)
    return _with_flops_of_containers(found)


def _with_flops_of_containers(summary: ModuleSummary) -> ModuleSummary:
    """A module that is never called itself, such as a list of others, has the FLOPs of what it holds."""
    children = [_with_flops_of_containers(child) for child in summary.children]
    flops = summary.flops or sum(child.flops for child in children)
    return ModuleSummary(summary.name, summary.kind, summary.output, summary.parameters, flops, children)


def _kept_bytes(ranker: Ranker, batch: Batch) -> int:
    """Bytes that a forward pass in training keeps for the backward pass, but for parameters and buffers."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*ranker.parameters(), *ranker.buffers())}
    kept: dict[int, Tensor] = {}  # the tensors too, so that no memory is used anew while it is counted

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = ranker(batch)
    del output
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
