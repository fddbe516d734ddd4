"""The published ranker's golden numbers, and its parameter names translated to ours."""

import json
import re
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor, nn

from recap.published import names

FOLDER = Path(__file__).parents[1] / "golden"
TOLERANCE: dict[str, Any] = {"atol": 1e-5, "rtol": 1e-4}

_PARTS = [
    (r"^_before_concat_layers\.2\.layer\.", "batch_norm."),
    (r"^layer_norm\.layer\.", "layer_norm."),
    (r"^_dense_layers\.", "mlp."),
    (r"^_mask_blocks\.", "blocks."),
]
"""Names in golden files of a part of the model, which lack the names of the modules around it."""
_CONFIGURED = re.compile(r"_calibrators|_before_concat_layers\.3")  # ours come from the configuration


def our_name(published: str) -> str:
    """Our name of a published parameter."""
    for pattern, ours in _PARTS:
        published = re.sub(pattern, ours, published)
    return names.our_name(published, [], {})


def read(name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the configuration of a golden file."""
    with safe_open(FOLDER / f"{name}.safetensors", "pt") as file:
        keys = file.keys()  # safe_open cannot be iterated itself
        tensors = {key: file.get_tensor(key) for key in keys}
        return tensors, {key: json.loads(value) for key, value in (file.metadata() or {}).items()}


def section(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def load_published(module: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Load the published weights into `module`; the names must match exactly."""
    own = module.state_dict()
    weights = {
        our_name(name): tensor for name, tensor in section(tensors, "weight/").items() if not _CONFIGURED.search(name)
    }
    module.load_state_dict({name: tensor.reshape(own[name].shape) for name, tensor in weights.items()}, strict=True)
