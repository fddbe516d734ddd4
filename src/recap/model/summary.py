"""The modules of a model and their costs, without data: parameters, FLOPs and memory."""

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
from recap.model.inputs.tables import Tables
from recap.model.ranker import Ranker

ROWS = 8
"""Rows of a synthetic batch; costs are per example, so any number works."""


@dataclass(frozen=True)
class ModuleSummary:
    """One module and everything below it."""

    name: str
    kind: str
    output: list[list[int]]
    """The shape of each output tensor for one example; empty if the module is not called."""
    parameters: int
    flops: int
    """Of the forward pass for one example: two per multiply-add of a matrix product; nothing else is counted."""
    children: list["ModuleSummary"]


@dataclass(frozen=True)
class ModelSummary:
    """A model and its totals."""

    model: ModuleSummary
    parameters: int
    flops: int
    """Of the forward pass for one example; a training step takes about three times as many."""
    weight_bytes: int
    """Bytes of parameters and buffers, as in the weights file."""
    activation_bytes: int
    """Bytes per example that the forward pass saves for the backward pass."""


def summarise(ranker: Ranker, config: RecapConfig, assets: Assets) -> ModelSummary:
    """Run `ranker` on rows of zeros and measure it. Leaves it in evaluation mode."""
    single, double = (_saved_bytes(ranker.train(), synthetic_batch(config, assets, rows)) for rows in (ROWS, 2 * ROWS))
    model = _modules(ranker.eval(), synthetic_batch(config, assets, ROWS))
    return ModelSummary(
        model=model,
        parameters=model.parameters,
        flops=model.flops,
        weight_bytes=sum(tensor.nbytes for tensor in ranker.state_dict().values()),
        activation_bytes=(double - single) // ROWS,
    )


def forward_flops(ranker: Ranker, config: RecapConfig, assets: Assets) -> float:
    """FLOPs of the forward pass for one example, in matrix products. Leaves the ranker in evaluation mode."""
    batch = synthetic_batch(config, assets, ROWS).to(next(ranker.parameters()).device)
    tables = ranker.inputs.embeddings
    if tables.is_sharded:  # a lookup needs all ranks, and no product
        ranker.inputs.embeddings = _Zeros(list(tables.specs.values()))
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            ranker.eval()(batch)
    finally:
        ranker.inputs.embeddings = tables
    return float(counter.get_total_flops()) / ROWS


class _Zeros(Tables):
    """Tables of zeros, without memory."""

    def forward(self, codes: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {
            feature: torch.zeros(*values.shape[:-1], self.by_feature[feature].width, device=values.device)
            for feature, values in codes.items()
        }

    def set_rows(self, table: str, codes: Tensor, vectors: Tensor) -> None:
        """Does nothing."""

    def make_gradients_sparse(self) -> None:
        """Does nothing."""


def synthetic_batch(config: RecapConfig, assets: Assets, rows: int) -> Batch:
    """Rows of zeros in every column that the model reads, without labels."""
    return RowEncoder.for_job(config, assets, JobMode.INFERENCE).empty().padded(rows)


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
    """Bytes that a forward pass saves for the backward pass, parameters and buffers excluded."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*ranker.parameters(), *ranker.buffers())}
    saved: dict[int, Tensor] = {}  # keeps the tensors alive, so that no memory is reused while counting

    def save(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        ranker(batch)
    return sum(tensor.untyped_storage().nbytes() for tensor in saved.values())
