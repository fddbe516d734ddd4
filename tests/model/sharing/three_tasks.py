"""Models of three tasks over an MLP, and inputs for them."""

from typing import Any

import torch
from torch import Tensor

from recap.config.model import ModelConfig
from recap.model.inputs.layout import InputLayout

TASKS = ["click", "like", "a.b"]
LAYOUT = InputLayout(3, [8, 4], ["author", "tab"])
"""Three numbers, then for STEM an embedding of 2 columns for each task and for all, and one of 1 column each."""


def model_config(**model: Any) -> ModelConfig:
    values = {
        "backbone": {"kind": "mlp", "layer_sizes": [7, 5]},
        "sharing": {"kind": "share_all"},
        "tasks": {task: {"tower": {"kind": "mlp"}} for task in TASKS},
    }
    return ModelConfig.model_validate(values | model)


def some_inputs(rows: int = 6, layout: InputLayout = LAYOUT) -> Tensor:
    return torch.randn(rows, layout.width, generator=torch.Generator().manual_seed(1))
