"""A GPU that the CPU plays, so that a machine without one finds tensors that are made or left on the wrong device.

A tensor "on" it computes on the CPU but says `cuda:0`. As on a GPU, it refuses to meet tensors of the CPU (other than
single numbers, indices of its own rows, and the source of a copy), and it has no NumPy array.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

GPU = torch.device("cuda", 0)
_NO_ARRAY = {Tensor.numpy, Tensor.__array__, Tensor.__dlpack__}
_READERS: dict[Any, Callable[[Tensor], Any]] = {
    Tensor.device.__get__: lambda tensor: GPU,
    Tensor.is_cuda.__get__: lambda tensor: True,
    Tensor.is_cpu.__get__: lambda tensor: False,
    Tensor.get_device: lambda tensor: 0,
}
_JOINS = {torch.cat, torch.concat, torch.stack, torch.hstack, torch.vstack}
"""They take single numbers of the GPU alone."""
_MOVES = {Tensor.to, Tensor.cpu, Tensor.cuda}


class OnGpu(Tensor):
    """A tensor on the played GPU."""

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return _called(func, args, dict(kwargs or {}))


class _Mode(TorchFunctionMode):
    """Sees the calls that make tensors, whose arguments need not be tensors."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return _called(func, args, dict(kwargs or {}))


@contextmanager
def played_gpu() -> Iterator[None]:
    """For the block: torch has one GPU, the played one. Its autocast is that of the CPU."""
    is_enabled, dtype_of, overwrite = torch.is_autocast_enabled, torch.get_autocast_dtype, torch.__future__
    before, matmul = overwrite.get_overwrite_module_params_on_conversion(), torch.get_float32_matmul_precision()
    overwrite.set_overwrite_module_params_on_conversion(True)
    try:
        with (
            patch.multiple(
                torch.cuda,
                is_available=lambda: True,
                device_count=lambda: 1,
                set_device=lambda device: None,
                synchronize=lambda device=None: None,
                is_bf16_supported=lambda including_emulation=True: True,
                get_device_name=lambda device=None: "a GPU that the CPU plays",
            ),
            patch.object(torch, "autocast", _Autocast),
            patch.object(torch, "is_autocast_enabled", lambda kind="cpu": is_enabled("cpu")),
            patch.object(torch, "get_autocast_dtype", lambda kind: dtype_of("cpu")),
            _Mode(),
        ):
            yield
    finally:
        overwrite.set_overwrite_module_params_on_conversion(before)
        torch.set_float32_matmul_precision(matmul)


class _Autocast(torch.autocast):
    def __init__(self, device_type: str, *args: Any, **kwargs: Any) -> None:
        super().__init__("cpu", *args, **kwargs)


def _called(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The result of a function of torch, on the device where a GPU would have it."""
    tensors = list(_tensors([args, kwargs]))
    is_on_gpu = any(isinstance(tensor, OnGpu) for tensor in tensors)
    if is_on_gpu:
        if func is torch._has_compatible_shallow_copy_type:  # asked by `Module.to`
            return all(isinstance(tensor, OnGpu) for tensor in tensors)
        if func in _READERS and isinstance(args[0], OnGpu):
            return _READERS[func](args[0])
        if func in _NO_ARRAY:
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")
        _check(func, args, tensors)
    device = _asked(func, args, kwargs)
    if device is not None:
        args, kwargs = _on_cpu(args), _on_cpu(kwargs)
        is_on_gpu = device.type == "cuda"
    if func is Tensor.cuda:
        func, is_on_gpu = Tensor.clone, True
    elif func is Tensor.cpu:
        func, is_on_gpu = Tensor.clone if is_on_gpu else func, False
    elif func is Tensor.copy_:
        is_on_gpu = isinstance(args[0], OnGpu)
    with torch._C.DisableTorchFunction():
        result = func(*args, **kwargs)
    moved = device is not None and func in _MOVES
    return _placed(result, {id(tensor) for tensor in tensors}, is_on_gpu=is_on_gpu, moved=moved)


def _check(func: Any, args: tuple[Any, ...], tensors: Iterable[Tensor]) -> None:
    """Raise RuntimeError if tensors of both devices meet where a GPU refuses it."""
    if func in (Tensor.copy_, *_MOVES):
        return
    if func is Tensor.__getitem__ and isinstance(args[0], OnGpu):
        return
    if func is Tensor.__setitem__ and isinstance(args[0], OnGpu):
        tensors = [args[0], *_tensors(args[2])]
    for tensor in tensors:
        if not isinstance(tensor, OnGpu) and (tensor.dim() or func in _JOINS or func is Tensor.data.__set__):
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but got one of shape {tuple(tensor.shape)} on cpu, "
                f"different from other tensors on cuda:0, in {getattr(func, '__qualname__', func)}"
            )


def _asked(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> torch.device | None:
    """The device that a call asks for; None if it names none."""
    named: Any = kwargs.get("device")
    if named is None and func is Tensor.to:
        first = args[1] if len(args) > 1 else kwargs.get("other")
        if isinstance(first, Tensor):
            named = GPU if isinstance(first, OnGpu) else "cpu"
        elif isinstance(first, str | torch.device):
            named = first
    return None if named is None else torch.device(named)


def _on_cpu(value: Any) -> Any:
    """The value with the CPU in place of every device."""
    if isinstance(value, tuple | list):
        return type(value)(_on_cpu(item) for item in value)
    if isinstance(value, dict):
        return {key: torch.device("cpu") if key == "device" else _on_cpu(item) for key, item in value.items()}
    if isinstance(value, str) and value.startswith("cuda"):
        return "cpu"
    return torch.device("cpu") if isinstance(value, torch.device) and value.type == "cuda" else value


def _placed(result: Any, inputs: set[int], *, is_on_gpu: bool, moved: bool) -> Any:
    """The tensors of `result` on their device; those that are arguments of the call stay as they are."""
    if isinstance(result, Tensor):
        if isinstance(result, OnGpu) == is_on_gpu or (id(result) in inputs and not moved):
            return result
        with torch._C.DisableTorchFunction():
            if is_on_gpu:
                result = result.clone() if id(result) in inputs else result
                return OnGpu._make_subclass(OnGpu, result) if result.is_sparse else result.as_subclass(OnGpu)
            return result.clone().as_subclass(Tensor)
    if isinstance(result, tuple | list) and any(isinstance(item, Tensor) for item in result):
        items = [_placed(item, inputs, is_on_gpu=is_on_gpu, moved=moved) for item in result]
        if isinstance(result, list):
            return items
        return type(result)(items) if not hasattr(result, "_fields") else type(result)(*items)
    return result


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
