"""Open Inference Protocol v2 over REST: the bodies of `infer`, JSON with binary data behind it, and metadata."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from recap.config.serving.server import LimitsConfig
from recap.serving.contract import RankRequest, RankResponse, Reason, RequestError, Signature
from recap.serving.rest.body import parse_json
from recap.serving.tensors import (
    InferTensor,
    bytes_of,
    check_outputs,
    check_parameters,
    checked_shape,
    describe_inputs,
    describe_outputs,
    request_tables,
    response_parameters,
    response_tensors,
    tensor_of_bytes,
    tensor_of_values,
    timeout_seconds,
)
from recap.text import plural, shorten

HEADER_LENGTH = "inference-header-content-length"
"""Header with the bytes of JSON in a body that goes on with binary data."""


@dataclass(frozen=True)
class Wanted:
    """The outputs that a request asks for."""

    names: Sequence[str] | None
    """None: all."""
    binary: Mapping[str, bool]
    """Output → whether as binary data, where the request says so by output."""
    all_binary: bool
    """Whether as binary data, where it does not."""


def decode_infer(
    body: memoryview,
    header_length: str | None,
    signature: Signature,
    limits: LimitsConfig,
    version: str | None = None,
) -> tuple[RankRequest, Wanted, float | None]:
    """The request in a body, the outputs it asks for, and its parameter `timeout` in seconds. Raises RequestError.

    `header_length`: the value of `Inference-Header-Content-Length`. Binary data is not copied.
    """
    size = _header_size(header_length, len(body))
    parsed = parse_json(body[:size], limits)
    if not isinstance(parsed, dict):
        raise _invalid(f"found {_kind(parsed)}, expected a JSON object with `inputs`")
    id_ = parsed.get("id")
    if id_ is not None and not isinstance(id_, str):
        raise _invalid(f"id: found {_kind(id_)}, expected text")
    parameters = _parameters(parsed, "the request")
    wanted, timeout = _outputs(parsed, parameters), timeout_seconds(parameters.get("timeout"))
    check_outputs(wanted.names or (), signature.tasks)
    tensors = _inputs(parsed.get("inputs"), body[size:], limits)
    user, candidates = request_tables(tensors, signature, limits)
    request = RankRequest(signature.model, user, candidates, version, id_)
    return request, wanted, timeout


def _header_size(text: str | None, size: int) -> int:
    if text is None:
        return size
    if not text.isdecimal() or len(text) > 18 or int(text) > size:
        raise _invalid(
            f"Inference-Header-Content-Length: found {shorten(text)!r}, "
            f"expected the bytes of JSON at the start of a body of {size:,} bytes"
        )
    return int(text)


def _inputs(inputs: Any, binary: memoryview, limits: LimitsConfig) -> list[InferTensor]:
    if not isinstance(inputs, list):
        raise _invalid(f"inputs: found {_kind(inputs)}, expected a list of tensors")
    tensors: list[InferTensor] = []
    start = values = 0
    for entry in inputs:
        if not isinstance(entry, dict) or not isinstance(name := entry.get("name"), str):
            raise _invalid(f"inputs: tensor {len(tensors)} is not an object with a `name`")
        datatype, parameters = entry.get("datatype"), _parameters(entry, "input", name)
        shape = checked_shape(name, datatype, entry.get("shape"), limits)
        size = parameters.get("binary_data_size")
        if (size is None) == ("data" not in entry):
            raise _invalid(f"input {shorten(repr(name))}: expected either `data` or the parameter binary_data_size")
        if size is None:
            tensor = tensor_of_values(name, entry["datatype"], shape, entry["data"])
        else:
            if type(size) is not int or not 0 <= size <= len(binary) - start:
                raise _invalid(
                    f"input {shorten(repr(name))}: binary_data_size is {shorten(repr(size))}, "
                    f"but {plural(len(binary) - start, 'byte')} of binary data are left"
                )
            tensor = tensor_of_bytes(name, entry["datatype"], shape, binary[start : start + size])
            start += size
        tensors.append(tensor)
        values += len(tensor.values)
        if values > limits.values:
            raise _invalid(f"the inputs hold more than {limits.values:,} values; send fewer")
    if start != len(binary):
        raise _invalid(f"{plural(len(binary) - start, 'byte')} of binary data belong to no input")
    return tensors


def _outputs(parsed: Mapping[str, Any], parameters: Mapping[str, Any]) -> Wanted:
    all_binary = parameters.get("binary_data_output", False)
    if not isinstance(all_binary, bool):
        raise _invalid(f"binary_data_output: found {_kind(all_binary)}, expected true or false")
    outputs = parsed.get("outputs")
    outputs = [] if outputs is None else outputs
    if not isinstance(outputs, list):
        raise _invalid(f"outputs: found {_kind(outputs)}, expected a list")
    binary: dict[str, bool] = {}
    names: list[str] = []
    for entry in outputs:
        if not isinstance(entry, dict) or not isinstance(name := entry.get("name"), str):
            raise _invalid(f"outputs: entry {len(names)} is not an object with a `name`")
        names.append(name)
        wanted = _parameters(entry, "output", name).get("binary_data")
        if wanted is not None and not isinstance(wanted, bool):
            raise _invalid(f"output {shorten(repr(name))}: binary_data is {_kind(wanted)}, expected true or false")
        if wanted is not None:
            binary[name] = wanted
    return Wanted(names or None, binary, all_binary)


def _parameters(owner: Mapping[str, Any], noun: str, name: str | None = None) -> Mapping[str, Any]:
    """The parameters of a request, or of its input or output `name`."""
    parameters = owner.get("parameters")
    if parameters is None:
        return {}
    where = noun if name is None else f"{noun} {shorten(repr(name))}"
    if not isinstance(parameters, dict):
        raise _invalid(f"{where}: parameters is {_kind(parameters)}, expected an object")
    check_parameters(parameters, where)
    return parameters


def encode_infer(response: RankResponse, wanted: Wanted) -> tuple[bytes, int | None]:
    """The body of a response, and the bytes of its JSON if binary data follows. Raises RequestError: unknown output."""
    outputs: list[dict[str, Any]] = []
    binary: list[memoryview] = []
    for tensor in response_tensors(response, wanted.names):
        output: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}
        if wanted.binary.get(tensor.name, wanted.all_binary):
            data = bytes_of(tensor)
            output["parameters"] = {"binary_data_size": len(data)}
            binary.append(data)
        else:
            output["data"] = tensor.values.to_numpy()
        outputs.append(output)
    content: dict[str, Any] = {"model_name": response.model, "model_version": response.version}
    if response.id is not None:
        content["id"] = response.id
    if parameters := response_parameters(response):
        content["parameters"] = parameters
    header = orjson.dumps(content | {"outputs": outputs}, option=orjson.OPT_SERIALIZE_NUMPY)
    return (b"".join([header, *binary]), len(header)) if binary else (header, None)


def describe_model(signature: Signature) -> dict[str, Any]:
    """The metadata of a model."""
    return {
        "name": signature.model,
        "versions": list(signature.versions),
        "platform": "recap",
        "inputs": _described(describe_inputs(signature)),
        "outputs": _described(describe_outputs(signature)),
    }


def _described(tensors: Sequence[tuple[str, str, list[int]]]) -> list[dict[str, Any]]:
    return [{"name": name, "datatype": datatype, "shape": shape} for name, datatype, shape in tensors]


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "nothing"}
    return names.get(type(value), "a number")


def _invalid(message: str) -> RequestError:
    return RequestError(Reason.INVALID, message)
