"""ModelInferRequest → `RankRequest`, and `RankResponse` → ModelInferResponse."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from google.protobuf.message import DecodeError

from recap.config.serving.server import LimitsConfig
from recap.serving.contract import RankRequest, RankResponse, Reason, RequestError, Signature, request_key
from recap.serving.grpc.messages import message_class
from recap.serving.tensors import (
    InferTensor,
    bytes_of,
    check_outputs,
    check_parameters,
    checked_shape,
    request_tables,
    response_parameters,
    response_tensors,
    tensor_of_bytes,
    tensor_of_values,
    timeout_seconds,
)
from recap.text import plural, shorten

_MODEL_INFER_RESPONSE = message_class("ModelInferResponse")
_MODEL_INFER_REQUEST = message_class("ModelInferRequest")
_VARINT, _LENGTH = 0, 2
_FIXED = {1: 8, 5: 4}
"""Wire type → bytes."""
_RAW_KEY = _MODEL_INFER_REQUEST.DESCRIPTOR.fields_by_name["raw_input_contents"].number * 8 + _LENGTH
_MAX_VARINT = 10
_CONTENTS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""Datatype → the field of InferTensorContents with its values. FP16 has none: it is sent as raw data."""


class InferCall(NamedTuple):
    """A ModelInferRequest."""

    message: Any
    """All but raw_input_contents."""
    raw: Sequence[memoryview]
    """raw_input_contents, not copied."""

    @property
    def to_convert(self) -> int:
        """The bytes of values that decoding converts one by one."""
        texts = (len(raw) for raw, tensor in zip(self.raw, self.message.inputs, strict=False) if _is_text(tensor))
        return int(self.message.ByteSize()) + sum(texts)


def parse_infer(data: bytes) -> InferCall:
    """A ModelInferRequest. Raises google.protobuf's DecodeError.

    Protobuf would copy raw_input_contents twice, which may be megabytes. So they are cut out of the message before; in
    its encoding each field is a key (number · 8 + wire type), then a varint, 4 or 8 bytes, or a length and bytes.
    """
    view, others, raw, start = memoryview(data), [], [], 0
    while start < len(data):
        key, end = _varint(data, start)
        begin = end
        if key % 8 == _LENGTH:
            size, begin = _varint(data, end)
            end = begin + size
        elif key % 8 == _VARINT:
            _, end = _varint(data, end)
        elif key % 8 in _FIXED:
            end += _FIXED[key % 8]
        else:
            raise DecodeError
        if end > len(data):
            raise DecodeError
        if key == _RAW_KEY:
            raw.append(view[begin:end])
        else:
            others.append(view[start:end])
        start = end
    return InferCall(_MODEL_INFER_REQUEST.FromString(b"".join(others)), raw)


def _varint(data: bytes, start: int) -> tuple[int, int]:
    """An integer of 7 bits a byte, the last of which is below 128, and its end."""
    value = 0
    for index, byte in enumerate(data[start : start + _MAX_VARINT]):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, start + index + 1
    raise DecodeError


def decode_request(call: InferCall, signature: Signature, limits: LimitsConfig) -> tuple[RankRequest, float | None]:
    """The request of a call, and its parameter `timeout` in seconds. Raises RequestError."""
    message = call.message
    check_parameters(message.parameters, "the request")
    timeout = timeout_seconds(_parameter(message, "timeout"))
    for output in message.outputs:
        check_parameters(output.parameters, f"output {_shown(output.name)}")
    check_outputs(wanted_outputs(message) or (), signature.tasks)
    user, candidates = request_tables(_tensors(call, limits), signature, limits)
    version, id_ = message.model_version or None, message.id or None
    request = RankRequest(
        message.model_name, user, candidates, version, id_, protocol="grpc", key=request_key(message.id)
    )
    return request, timeout


def _parameter(message: Any, name: str) -> Any:
    """The value of a parameter of the request; None without it."""
    if name not in message.parameters:
        return None
    parameter = message.parameters[name]
    chosen = parameter.WhichOneof("parameter_choice")
    return None if chosen is None else getattr(parameter, chosen)


def _tensors(call: InferCall, limits: LimitsConfig) -> list[InferTensor]:
    raw, inputs = call.raw, call.message.inputs
    if raw and len(raw) != len(inputs):
        raise _invalid(
            f"found {plural(len(raw), 'element')} of raw_input_contents for {plural(len(inputs), 'input')}; "
            "give one for each input, in their order, or none and use contents"
        )
    tensors = []
    for index, tensor in enumerate(inputs):
        check_parameters(tensor.parameters, f"input {_shown(tensor.name)}")
        shape = checked_shape(tensor.name, tensor.datatype, list(tensor.shape), limits)
        if not raw:
            tensors.append(tensor_of_values(tensor.name, tensor.datatype, shape, _contents(tensor)))
        elif tensor.HasField("contents"):
            raise _invalid(f"input {_shown(tensor.name)}: has contents, although the request has raw_input_contents")
        else:
            tensors.append(tensor_of_bytes(tensor.name, tensor.datatype, shape, raw[index]))
    return tensors


def _contents(tensor: Any) -> list[Any]:
    """The typed values of an input. Raises RequestError if they stand in the field of another datatype."""
    field = _CONTENTS.get(tensor.datatype)
    if field is None:
        raise _invalid(f"input {_shown(tensor.name)}: {tensor.datatype} has no contents; use raw_input_contents")
    for given, _ in tensor.contents.ListFields():
        if given.name != field:
            raise _invalid(f"input {_shown(tensor.name)}: found {given.name}, expected {field} for {tensor.datatype}")
    return list(getattr(tensor.contents, field))


def wanted_outputs(message: Any) -> list[str] | None:
    """The names of the outputs that a ModelInferRequest asks for; None: all."""
    return [output.name for output in message.outputs] or None


def encode_response(response: RankResponse, call: InferCall, key: str) -> Any:
    """The ModelInferResponse to a call, with raw data if the request had raw data. Raises RequestError.

    `key`: the id of the response if the request has none.
    """
    answer = _MODEL_INFER_RESPONSE(
        model_name=response.model, model_version=response.version, id=response.id or call.message.id or key
    )
    for key, value in response_parameters(response).items():
        parameter = answer.parameters[key]
        if isinstance(value, int):
            parameter.int64_param = value
        else:
            parameter.string_param = value
    for tensor in response_tensors(response, wanted_outputs(call.message)):
        output = answer.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        if call.raw:
            answer.raw_output_contents.append(bytes(bytes_of(tensor)))
        else:
            values: np.ndarray = tensor.values.to_numpy()
            getattr(output.contents, _CONTENTS[tensor.datatype]).extend(values)
    return answer


def _is_text(tensor: Any) -> bool:
    return bool(tensor.datatype == "BYTES")


def _shown(name: str) -> str:
    return shorten(repr(name))


def _invalid(message: str) -> RequestError:
    return RequestError(Reason.INVALID, message)
