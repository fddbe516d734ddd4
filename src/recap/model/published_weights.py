"""Reads the weights of the published code into a model directory."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from recap.config.recap import RecapConfig
from recap.data.encoding.assets import load_assets
from recap.errors import InputError
from recap.model.calibration import Calibration
from recap.model.directory import build_ranker, write_model
from recap.model.names import is_below
from recap.model.shapes import weight_mismatches
from recap.published.names import is_configured, our_name, unwrapped
from recap.storage import atomic_directory

_TABLES = "inputs.embeddings.tables"
_NESTED = ("model", "state_dict", "model_state_dict")
"""Keys under which a `.pt` file may hold the state dict."""
_LIMITS = {"max_value": 1.0, "min_value": -1.0}
_MAX_LISTED = 10


@dataclass(frozen=True)
class Imported:
    """What an import used."""

    weights: int
    """The number of weights of the model, all of which come from the file."""
    configured: list[str]
    """Published names that the configuration sets instead."""


def import_weights(config: RecapConfig, file: Path, output: Path, names: Mapping[str, str]) -> Imported:
    """Write a model directory for `config` with the weights of the published code in `file`.

    `file` is a state dict, `.safetensors` or `.pt`. `names`: published module or weight → ours, for names that are not
    known. Raises InputError, which lists every weight that is missing, left over or of another shape.
    """
    published = read_state_dict(file)
    assets = load_assets(config.features)
    own = build_ranker(config, assets).state_dict()
    configured = sorted(name for name in published if is_configured(name))
    tensors = {name: tensor for name, tensor in published.items() if name not in configured}
    weights, problems = _matched(tensors, own, config.tasks, names)
    problems += _contradictions(config, {unwrapped(name): published[name] for name in configured})
    if problems:
        more = [f"and {len(problems) - _MAX_LISTED} more"] if len(problems) > _MAX_LISTED else []
        listed = "\n  ".join(problems[:_MAX_LISTED] + more)
        raise InputError(
            f"{file}: does not hold the weights of this model. Import its configuration with 'recap config import'; "
            f"name other modules with --map PUBLISHED=OURS ('recap model summary' prints ours):\n  {listed}"
        )
    with atomic_directory(output) as folder:
        write_model(folder, config, assets, {name: weights[name].contiguous() for name in own})
    return Imported(len(own), configured)


def _contradictions(config: RecapConfig, configured: Mapping[str, Tensor]) -> list[str]:
    """The values that the configuration sets otherwise."""
    ratios = zip(config.tasks, Calibration.of(config).ratios.tolist(), strict=True)
    ours = {f"_calibrators.{task.replace('.', '__')}.ratio": ratio for task, ratio in ratios}
    clip = getattr(config.model.featurization, "clip_magnitude", None)
    if clip is not None:
        ours |= {f"_preprocessor._before_concat_layers.3.{side}": sign * clip for side, sign in _LIMITS.items()}
    return [
        f"{name} is {value.item():g}, and {ours[name]:g} in the configuration (from its rates or clip_magnitude)"
        for name, value in configured.items()
        if name in ours and value.numel() == 1 and not math.isclose(value.item(), ours[name], rel_tol=1e-4)
    ]


def _matched(
    published: Mapping[str, Tensor], own: Mapping[str, Tensor], tasks: Sequence[str], names: Mapping[str, str]
) -> tuple[dict[str, Tensor], list[str]]:
    """The weights under our names, and what is wrong with them."""
    weights: dict[str, Tensor] = {}
    sources: dict[str, str] = {}
    problems: list[str] = []
    for name, tensor in published.items():
        ours = _logit_layer(our_name(name, tasks, names), own)
        if ours in sources:
            problems.append(f"{name} and {sources[ours]} are both {ours}")
        elif ours not in own:
            problems.append(f"{name} has no place in this model" + (f" (as {ours})" if ours != name else ""))
        else:
            sources[ours], weights[ours] = name, _fitted(ours, tensor, own[ours])
            if not weights[ours].isfinite().all():
                problems.append(f"{name} has values that are NaN or infinite")
            if wrong := weight_mismatches({ours: weights[ours]}, {ours: own[ours]}):
                problems.append(f"{name}: {wrong}")
    problems += [f"{name} of this model has no published weight" for name in own if name not in weights]
    return weights, problems


def read_state_dict(file: Path) -> dict[str, Tensor]:
    """The tensors of a state dict by name. Nothing in the file is executed. Raises InputError."""
    try:
        content: Any = load_file(file) if file.suffix == ".safetensors" else torch.load(file, "cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"{file}: no such file; give a state dict, .safetensors or .pt") from None
    except Exception as error:  # the file may hold anything, and torch names no errors
        reason = str(error).strip().split("\n")[0][:200]
        raise InputError(
            f"{file}: not readable as a state dict, .safetensors or .pt of tensors alone ({reason}); save it with "
            "safetensors.torch.save_file(model.state_dict(), FILE)"
        ) from None
    for key in _NESTED:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    if not isinstance(content, dict) or not content or not all(isinstance(item, Tensor) for item in content.values()):
        raise InputError(f"{file}: expected a state dict, name → tensor; save model.state_dict()")
    return {str(name): tensor.detach() for name, tensor in content.items()}


def _logit_layer(name: str, own: Mapping[str, Tensor]) -> str:
    """The place of a weight in a tower that is not an MLP: its last layer, the logit, stands after the network here."""
    match = re.match(r"(towers\.[^.]+\.network)\.(.+)", name)
    if match is None or name in own or f"{match[1]}.1.weight" not in own:
        return name
    inside = f"{match[1]}.0.{match[2]}"
    return inside if inside in own else f"{match[1]}.1.{name.rpartition('.')[2]}"


def _fitted(name: str, tensor: Tensor, own: Tensor) -> Tensor:
    """A published weight in our shape: a scalar without axes, and a table with a row 0 for unknown values."""
    tensor = tensor.to(own.dtype)
    if tensor.numel() == own.numel() == 1:
        return tensor.reshape(own.shape)
    if is_below(name, _TABLES) and tensor.dim() == 2 and tensor.shape == (len(own) - 1, own.shape[1]):
        return torch.cat([torch.zeros_like(own[:1]), tensor])
    return tensor
