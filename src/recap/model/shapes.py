"""The weights of a model as shapes, without their memory: to compare a file with a model before anything is read."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.overrides import TorchFunctionMode

from recap.config.recap import RecapConfig
from recap.data.encoding.assets import Assets
from recap.errors import CheckpointError, ConfigError
from recap.model.ranker import Ranker
from recap.text import shorten

_SPARE = 1000
"""Parameters that `at_most` allows for, so that the message can list those of a slightly different model."""


def weight_shapes(config: RecapConfig, assets: Assets) -> dict[str, Tensor]:
    """The weights of a model by name, as tensors of the meta device: shapes without memory. Raises ConfigError."""
    return meta_ranker(config, assets).state_dict()


def meta_ranker(config: RecapConfig, assets: Assets) -> Ranker:
    """A ranker on the meta device, whose weights have shapes but no memory. Raises ConfigError."""
    try:
        with torch.device("meta"), _NoRandomValues():
            return Ranker(config, assets)
    except RuntimeError as error:  # a shape whose number of bytes is no int64
        raise ConfigError(f"the model has a weight larger than any memory ({error})") from None


class _NoRandomValues(TorchFunctionMode):
    """Draws no normal values: on the meta device torch draws them with its compiler, which takes seconds to import."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is nn.init.normal_ or func is Tensor.normal_:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


@contextmanager
def at_most(parameters: int, message: str) -> Iterator[None]:
    """Raise CheckpointError as soon as more parameters are built; a hostile model has layers without end."""
    built = count(1)

    def check(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        if parameter is not None and next(built) > parameters + _SPARE:
            raise CheckpointError(message)

    handle = register_module_parameter_registration_hook(check)
    try:
        yield
    finally:
        handle.remove()


def weight_mismatches(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """The weights whose name, shape or type differs from `expected`, one per line, at most ten; "" if all match."""
    problems = [f"{name} is missing" for name in expected if name not in weights]
    problems += [f"{shorten(name, 200)} is not in this model" for name in weights if name not in expected]
    problems += [
        f"{name} is {shape_text(weights[name])}, this model needs {shape_text(tensor)}"
        for name, tensor in expected.items()
        if name in weights and weights[name].shape != tensor.shape
    ]
    problems += [
        f"{name} holds {dtype_name(weights[name])}, this model needs {dtype_name(tensor)}"
        for name, tensor in expected.items()
        if name in weights and weights[name].dtype != tensor.dtype
    ]
    return "\n  ".join(problems[:10]) + (f"\n  and {len(problems) - 10} more" if len(problems) > 10 else "")


def dtype_name(tensor: Tensor) -> str:
    """The dtype, such as `float32`."""
    return str(tensor.dtype).removeprefix("torch.")


def shape_text(tensor: Tensor) -> str:
    """The shape, such as `1000×16`."""
    return "×".join(map(str, tensor.shape)) or "a scalar"
