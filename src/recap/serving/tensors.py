"""Tensors of the Open Inference Protocol ↔ Arrow tables of a request and arrays of a response, for REST and gRPC.

A column is an input of shape [N], or [N, L] for lists of L values; with 1 instead of N it is a column of the user.
Binary data is not copied, except BOOL and BYTES, whose layout differs from Arrow's.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recap.config.checks.common import SCORE
from recap.config.serving.server import LimitsConfig
from recap.data.encoding.kinds import is_list
from recap.serving.contract import RankResponse, Reason, RequestError, Signature
from recap.text import plural, shorten, suggest

_MAX_DIMENSIONS = 8
_LENGTH_BYTES = 4
"""Bytes before each element of a BYTES tensor: its length, little-endian."""
_UNSUPPORTED = ("shared_memory_region", "classification")
"""Parameters of inputs and outputs in Triton's extensions of the protocol."""
NO_VALUE = -1
"""Stands in outputs for a number that is not finite."""

DATATYPES: Mapping[str, tuple[pa.DataType, npt.DTypeLike]] = {
    "BOOL": (pa.bool_(), np.uint8),
    **{f"INT{bits}": (getattr(pa, f"int{bits}")(), f"<i{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": (getattr(pa, f"uint{bits}")(), f"<u{bits // 8}") for bits in (8, 16, 32, 64)},
    "FP16": (pa.float16(), "<f2"),
    "FP32": (pa.float32(), "<f4"),
    "FP64": (pa.float64(), "<f8"),
    "BYTES": (pa.large_binary(), np.uint8),
}
"""Datatype → its Arrow type, and the NumPy type of its binary data."""


@dataclass(frozen=True)
class InferTensor:
    """An input or output: its values in row-major order."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: pa.Array
    """[Π shape], of the Arrow type of `datatype`; null where JSON has null."""


def checked_shape(name: str, datatype: object, shape: object, limits: LimitsConfig) -> tuple[int, ...]:
    """The shape, if it and `datatype` may be those of an input. Raises RequestError; allocates nothing."""
    if not isinstance(datatype, str) or datatype not in DATATYPES:
        text = shorten(repr(datatype))
        raise _invalid(f"input {_shown(name)}: found datatype {text}, expected one of {', '.join(DATATYPES)}")
    if not isinstance(shape, Sequence) or isinstance(shape, str | bytes) or not 1 <= len(shape) <= _MAX_DIMENSIONS:
        text = shorten(repr(shape))
        raise _invalid(f"input {_shown(name)}: found shape {text}, expected [N] for numbers or text, [N, L] for lists")
    if set(map(type, shape)) != {int} or min(shape) < 0:
        raise _invalid(
            f"input {_shown(name)}: found shape {shorten(str(list(shape)))}, expected whole numbers, at least 0"
        )
    if prod(shape) > limits.values:
        raise _invalid(
            f"input {_shown(name)}: shape {shorten(str(list(shape)))} has more than {limits.values:,} values, "
            "the limit of a request"
        )
    return tuple(shape)


def tensor_of_bytes(name: str, datatype: str, shape: tuple[int, ...], data: memoryview) -> InferTensor:
    """A tensor of binary data, which is not copied. `shape`: from `checked_shape`. Raises RequestError."""
    arrow, binary = DATATYPES[datatype]
    count = prod(shape)
    if datatype == "BYTES":
        return InferTensor(name, datatype, shape, _split_bytes(name, shape, count, data))
    size = count * np.dtype(binary).itemsize
    if len(data) != size:
        raise _invalid(
            f"input {_shown(name)}: found {plural(len(data), 'byte')} of data, "
            f"expected {size:,} for {datatype} of shape {list(shape)}"
        )
    if datatype == "BOOL":
        return InferTensor(name, datatype, shape, pa.array(np.frombuffer(data, np.uint8) != 0))
    return InferTensor(name, datatype, shape, pa.Array.from_buffers(arrow, count, [None, pa.py_buffer(data)]))


def _split_bytes(name: str, shape: tuple[int, ...], count: int, data: memoryview) -> pa.Array:
    """The elements of a BYTES tensor: each a length of 4 bytes, little-endian, then the bytes."""
    if count * _LENGTH_BYTES > len(data):
        raise _invalid(
            f"input {_shown(name)}: found {plural(len(data), 'byte')} of data, "
            f"too few for BYTES of shape {list(shape)}: each element has its length in 4 bytes before it"
        )
    parts, start = [], 0
    for index in range(count):
        end = start + _LENGTH_BYTES
        stop = end + int.from_bytes(data[start:end], "little")
        if end > len(data) or stop > len(data):
            raise _invalid(f"input {_shown(name)}: the data ends within element {index} of {count:,}")
        parts.append(data[end:stop])
        start = stop
    if start != len(data):
        raise _invalid(
            f"input {_shown(name)}: found {plural(len(data) - start, 'byte')} after the last of "
            f"{plural(count, 'element')}"
        )
    offsets = np.zeros(count + 1, np.int64)
    np.cumsum([len(part) for part in parts], out=offsets[1:])
    content = pa.py_buffer(b"".join(parts))
    return pa.Array.from_buffers(pa.large_binary(), count, [None, pa.py_buffer(offsets), content])


def tensor_of_values(name: str, datatype: str, shape: tuple[int, ...], data: Any) -> InferTensor:
    """A tensor of Python values: flat in row-major order, or lists nested as in `shape`. None is missing.

    `shape`: from `checked_shape`. Raises RequestError.
    """
    flat = _flat(name, shape, data)
    wanted = {"BOOL": (bool,), "BYTES": (str, bytes)}.get(datatype, (int, float))
    kinds = set(map(type, flat)) - {type(None)}
    if not kinds <= set(wanted):
        wrong = next(value for value in flat if value is not None and type(value) not in wanted)
        raise _misfit(name, datatype, wrong)
    try:
        if datatype == "BYTES":
            flat = [value.encode() if isinstance(value, str) else value for value in flat]
        elif datatype.startswith("FP") and int in kinds:  # Arrow refuses integers that a float rounds
            flat = [None if value is None else float(value) for value in flat]
        elif not datatype.startswith("FP") and float in kinds:
            flat = [_whole(name, datatype, value) for value in flat]
        values = pa.array(flat, DATATYPES[datatype][0])
    except (pa.ArrowException, OverflowError, ValueError):
        raise _invalid(f"input {_shown(name)}: holds a value outside the range of {datatype}") from None
    return InferTensor(name, datatype, shape, values)


def _flat(name: str, shape: tuple[int, ...], data: Any) -> Sequence[Any]:
    """Lists nested as in `shape` as one list of Π `shape` values."""
    values = data
    if not isinstance(values, Sequence) or isinstance(values, str | bytes):
        raise _invalid(f"input {_shown(name)}: found data {shorten(repr(data))}, expected a list of values")
    if len(shape) > 1 and any(isinstance(value, list) for value in values[:1]):
        for level, size in enumerate(shape[:-1]):
            if len(values) != prod(shape[: level + 1]) or not all(isinstance(value, list) for value in values):
                raise _invalid(f"input {_shown(name)}: its lists do not have the shape {list(shape)}")
            if any(len(value) != shape[level + 1] for value in values):
                wrong = next(index for index, value in enumerate(values) if len(value) != shape[level + 1])
                raise _invalid(
                    f"input {_shown(name)}: list {wrong} has {plural(len(values[wrong]), 'value')}, "
                    f"expected {shape[level + 1]:,}, as the shape {list(shape)} says"
                )
            values = list(chain.from_iterable(values)) if size else values
    if len(values) != prod(shape):
        raise _invalid(
            f"input {_shown(name)}: found {plural(len(values), 'value')}, expected {prod(shape):,} "
            f"for the shape {list(shape)}"
        )
    return values


def _whole(name: str, datatype: str, value: Any) -> int | None:
    if value is None or value == int(value):
        return None if value is None else int(value)
    raise _misfit(name, datatype, value)


def _misfit(name: str, datatype: str, value: Any) -> RequestError:
    return _invalid(f"input {_shown(name)}: found {shorten(repr(value))}, expected {datatype}")


def request_tables(
    tensors: Sequence[InferTensor], signature: Signature, limits: LimitsConfig
) -> tuple[pa.Table, pa.Table]:
    """The tables of a request: the user with one row, and N candidates, N = the largest first dimension.

    Inputs whose first dimension is 1 are columns of the user, if N > 1. Raises RequestError.
    """
    check_names([tensor.name for tensor in tensors], signature, "input")
    rows = max((tensor.shape[0] for tensor in tensors), default=0)
    check_count(rows, sum(len(tensor.values) for tensor in tensors), limits)
    user: dict[str, pa.Array] = {}
    candidates: dict[str, pa.Array] = {}
    for tensor in tensors:
        if tensor.shape[0] not in (1, rows):
            raise _invalid(
                f"input {_shown(tensor.name)}: its first dimension is {tensor.shape[0]:,}, expected {rows:,}, "
                "the number of candidates, or 1 for a column of the user"
            )
        side = candidates if tensor.shape[0] == rows else user
        side[tensor.name] = _column(tensor, signature.columns.get(tensor.name))
    return pa.table(user), pa.table(candidates)


def _column(tensor: InferTensor, kind: pa.DataType | None) -> pa.Array:
    """A tensor as a column. `kind`: the type that the model reads, None for a column that it does not read."""
    rows, *rest = tensor.shape
    lists = kind is not None and is_list(kind)
    length = fixed_length(kind)
    fits = prod(rest) == 1 if not lists else len(rest) == 1 and length in (None, rest[0])
    if not fits:
        expected = f"[N, {length or 'L'}], a list for each candidate" if lists else "[N] or [N, 1]"
        raise _invalid(
            f"input {_shown(tensor.name)}: found shape {list(tensor.shape)}, expected {expected}; 1 in place of N "
            "for a column of the user"
        )
    element = kind.value_type if kind is not None and lists else kind
    if tensor.datatype == "BYTES" and element is not None and pa.types.is_floating(element):
        raise _invalid(f"input {_shown(tensor.name)}: found BYTES, expected numbers, such as FP32")
    if not lists and prod(rest) == 1:
        return tensor.values
    if not rest[0]:
        return pa.ListArray.from_arrays(pa.array(np.zeros(rows + 1, np.int32)), tensor.values)
    return pa.FixedSizeListArray.from_arrays(tensor.values, rest[0])


def check_names(names: Sequence[str], signature: Signature, noun: str) -> None:
    """Raise RequestError unless `names` are those that the model reads, each once, and others it may carry.

    `noun`: the word for a column in messages.
    """
    given = set(names)
    if len(given) < len(names):
        twice = next(name for name, times in Counter(names).items() if times > 1)
        raise _invalid(f"{noun} {_shown(twice)}: appears twice; give it once")
    carried = {*signature.carried, signature.user}
    if given - signature.columns.keys() - carried:
        unknown = next(name for name in names if name not in signature.columns and name not in carried)
        known = suggest(unknown, list(dict.fromkeys([*signature.columns, *signature.carried])))
        raise _invalid(f"{noun} {_shown(unknown)}: the model does not read it; leave it out. {known}")
    if missing := [name for name in signature.columns if name not in given]:
        others = f", and so {'are' if len(missing) > 2 else 'is'} {plural(len(missing) - 1, 'other')}"
        hint = suggest(missing[0], [shorten(name) for name in names]).replace("Known:", "Found:", 1)
        raise _invalid(f"{noun} {missing[0]!r}: is missing{others if len(missing) > 1 else ''}. {hint}")


def check_count(candidates: int, values: int, limits: LimitsConfig) -> None:
    """Raise RequestError unless a request may have this number of candidates, and of values."""
    if not candidates:
        raise _invalid("the request has no candidates; give at least 1")
    if candidates > limits.candidates:
        raise _invalid(f"found {candidates:,} candidates, expected at most {limits.candidates:,}; send fewer")
    if values > limits.values:
        raise _invalid(f"found {values:,} values, expected at most {limits.values:,} in a request; send fewer")


def check_outputs(wanted: Sequence[str], tasks: Sequence[str]) -> None:
    """Raise RequestError unless `wanted` are outputs of a model."""
    for name in wanted:
        if name not in (known := [*tasks, SCORE]):
            raise _invalid(f"output {_shown(name)}: unknown. {suggest(name, known)}")


def check_parameters(parameters: Iterable[str], where: str) -> None:
    """Raise RequestError for parameters that would change the answer, and are not supported; others are ignored."""
    for name in _UNSUPPORTED:
        if name in parameters:
            raise _invalid(f"{where}: the parameter {name} is not supported; leave it out")


def timeout_seconds(value: Any) -> float | None:
    """The parameter `timeout` of a request, microseconds as Triton's clients send them, in seconds; 0 is none."""
    if value is None or (type(value) is int and value == 0):
        return None
    if type(value) is not int or value < 0:
        raise _invalid(f"timeout: found {shorten(repr(value))}, expected microseconds, a whole number")
    return value / 1e6


def response_tensors(response: RankResponse, wanted: Sequence[str] | None = None) -> list[InferTensor]:
    """The outputs `wanted`, by default all: each task FP32 [M], and `score` FP64 [M].

    Numbers that are not finite are -1: those of `RankResponse.failed`. Raises RequestError for an unknown output.
    """
    check_outputs(wanted or (), response.tasks)
    tensors = []
    for name in [*response.tasks, SCORE] if wanted is None else dict.fromkeys(wanted):
        is_score = name == SCORE
        values = response.scores if is_score else response.probabilities[:, response.tasks.index(name)]
        if len(response.failed):
            values = np.where(np.isfinite(values), values, values.dtype.type(NO_VALUE))
        array = pa.array(np.ascontiguousarray(values))
        tensors.append(InferTensor(name, "FP64" if is_score else "FP32", (len(values),), array))
    return tensors


def response_parameters(response: RankResponse) -> dict[str, int | str]:
    """Parameters of a response: `shed`, candidates that were not scored; `failed`, indices such as `3,17`."""
    parameters: dict[str, int | str] = {}
    if shed := response.candidates - len(response.scores):
        parameters["shed"] = shed
    if len(response.failed):
        parameters["failed"] = ",".join(map(str, response.failed.tolist()))
    return parameters


def bytes_of(tensor: InferTensor) -> memoryview:
    """The binary data of an output of numbers, not copied."""
    return memoryview(tensor.values.to_numpy()).cast("B")


def describe_inputs(signature: Signature) -> list[tuple[str, str, list[int]]]:
    """Name, datatype and shape of each input, for metadata; -1 for a size that requests choose."""
    return [
        (name, datatype_of(kind), [-1, fixed_length(kind) or -1] if is_list(kind) else [-1])
        for name, kind in signature.columns.items()
    ]


def describe_outputs(signature: Signature) -> list[tuple[str, str, list[int]]]:
    """Name, datatype and shape of each output, for metadata."""
    return [*((task, "FP32", [-1]) for task in signature.tasks), (SCORE, "FP64", [-1])]


def fixed_length(kind: pa.DataType | None) -> int | None:
    """The length that every list of a column has; None if there is not one."""
    return kind.list_size if kind is not None and pa.types.is_fixed_size_list(kind) else None


def datatype_of(kind: pa.DataType) -> str:
    """The datatype to send a column in; others whose values fit are accepted too."""
    element = kind.value_type if is_list(kind) else kind
    if pa.types.is_floating(element):  # the model reads every number as float32
        return "FP32"
    return "BOOL" if pa.types.is_boolean(element) else "INT64" if pa.types.is_integer(element) else "BYTES"


def _shown(name: str) -> str:
    return shorten(repr(name))


def _invalid(message: str) -> RequestError:
    return RequestError(Reason.INVALID, message)
