"""Norms of the weights of a ranker, part by part: where one grows without end, or a table stays empty, they show it."""

import torch
from torch import nn
from torch.nn.utils import get_total_norm

from recap.model.ranker import Ranker


@torch.no_grad()
def weight_norms(ranker: Ranker) -> dict[str, float]:
    """`norm/PATH` → the L2 norm over all weights there: of each part at the top that has weights, and of each table.

    Takes a pass over all weights.
    """
    tables = {name: module for name, module in ranker.named_modules() if isinstance(module, nn.Embedding)}
    parts = dict(ranker.named_children()) | tables
    weights = {name: list(module.parameters()) for name, module in parts.items()}
    return {f"norm/{name}": get_total_norm(found).item() for name, found in weights.items() if found}
