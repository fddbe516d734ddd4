"""Norms of the weights of a ranker by part: they show weights that diverge and tables that never train."""

import torch
from torch import nn
from torch.nn.utils import get_total_norm

from recap.model.ranker import Ranker


@torch.no_grad()
def weight_norms(ranker: Ranker) -> dict[str, float]:
    """`norm/PATH` → the L2 norm of all weights below it, for each top-level part with weights and each table.

    Takes one pass over all weights.
    """
    tables = {name: module for name, module in ranker.named_modules() if isinstance(module, nn.Embedding)}
    parts = dict(ranker.named_children()) | tables
    weights = {name: list(module.parameters()) for name, module in parts.items()}
    return {f"norm/{name}": get_total_norm(tensors).item() for name, tensors in weights.items() if tensors}
