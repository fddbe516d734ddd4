"""The parts of a model and their cost, without data: parameters, FLOPs and memory, module by module."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from recap.config.recap import JobMode, RecapConfig
from recap.data.batch import Batch
from recap.data.encoding.assets import Assets
from recap.data.encoding.encoder import RowEncoder
from recap.model.ranker import Ranker

ROWS = 8
"""Of the synthetic batches; costs are per example, so any number works."""


@dataclass(frozen=True)
class ModuleSummary:
    """One module and everything below it."""

    name: str
    kind: str
    output: list[list[int]]
    """Shape of its output for one example, one for each tensor; empty if the module is not called."""
    parameters: int
    flops: int
    """For one example, forward: two per multiply-add of a matrix product; other operations are not counted."""
    children: list["ModuleSummary"]


@dataclass(frozen=True)
class ModelSummary:
    """A model and its totals."""

    model: ModuleSummary
    parameters: int
    flops: int
    """For one example, forward; a training step takes about three times as many."""
    weight_bytes: int
    """Parameters and buffers, as in the weights file."""
    activation_bytes: int
    """For one example in training: the tensors that the forward pass saves for the backward pass."""


def summarise(ranker: Ranker, config: RecapConfig, assets: Assets) -> ModelSummary:
    """Run `ranker` over rows of zeros and measure it; it ends in evaluation mode."""
    few, more = (_saved_bytes(ranker.train(), synthetic_batch(config, assets, rows)) for rows in (ROWS, 2 * ROWS))
    model = _modules(ranker.eval(), synthetic_batch(config, assets, ROWS))
    return ModelSummary(
        model=model,
        parameters=model.parameters,
        flops=model.flops,
        weight_bytes=sum(tensor.nbytes for tensor in ranker.state_dict().values()),
        activation_bytes=(more - few) // ROWS,
    )


def synthetic_batch(config: RecapConfig, assets: Assets, rows: int) -> Batch:
    """Rows of zeros with the columns that a model reads, without labels."""
    return RowEncoder.for_job(config, assets, JobMode.INFERENCE).empty().zeros(rows)


def _modules(ranker: Ranker, batch: Batch) -> ModuleSummary:
    """The tree of modules, from one forward pass."""
    outputs: dict[nn.Module, list[list[int]]] = {}

    def record(module: nn.Module, _: Any, output: Any) -> None:
        outputs[module] = [list(tensor.shape[1:]) for tensor in _tensors(output)]

    handles = [module.register_forward_hook(record) for module in ranker.modules()]
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
            parameters=sum(parameter.numel() for parameter in module.parameters()),
            flops=flops.get(path, 0),
            children=[tree(child, f"{path}.{child}", below) for child, below in module.named_children()],
        )

    return _with_flops_of_containers(tree("model", type(ranker).__name__, ranker))


def _tensors(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    values = output.values() if isinstance(output, Mapping) else output
    return [value for value in values if isinstance(value, Tensor)]


def _with_flops_of_containers(summary: ModuleSummary) -> ModuleSummary:
    """A module that is not called itself, such as a list of modules, has the FLOPs of its children."""
    children = [_with_flops_of_containers(child) for child in summary.children]
    flops = summary.flops or sum(child.flops for child in children)
    return ModuleSummary(summary.name, summary.kind, summary.output, summary.parameters, flops, children)


def _saved_bytes(ranker: Ranker, batch: Batch) -> int:
    """Bytes that a forward pass in training saves for the backward pass, without parameters and buffers."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*ranker.parameters(), *ranker.buffers())}
    saved: dict[int, Tensor] = {}  # holds the tensors, so that no memory is reused while it is counted

    def save(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        output = ranker(batch)
    del output
    return sum(tensor.untyped_storage().nbytes() for tensor in saved.values())
