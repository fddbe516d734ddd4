"""The OpenAPI 3.1 document of a server: its routes, with the columns and tasks of the models it serves."""

from collections.abc import Mapping, Sequence
from importlib.metadata import version as version_of
from math import prod
from typing import Any

import pyarrow as pa

from recap.config.serving.server import ServerConfig
from recap.data.encoding.kinds import is_list
from recap.serving.contract import Signature
from recap.serving.tensors import DATATYPES, describe_inputs, fixed_length

Schema = dict[str, Any]

_DEADLINE = (
    "The header `X-Request-Deadline-Ms` tells after how many milliseconds the client no longer waits: the request is "
    "then dropped with 504. `X-Request-Id` is repeated in the response. Bodies may be compressed (`Content-Encoding`: "
    "gzip or deflate)."
)
_BINARY = (
    " Binary tensor data extension: with the header `Inference-Header-Content-Length: J` the body is J bytes of JSON, "
    "then the data of the inputs that have the parameter `binary_data_size` instead of `data`. Outputs are binary with "
    "the parameter `binary_data_output` of the request or `binary_data` of an output."
)
_FAILED = (
    " A number that is not finite is -1, and the parameter `failed` lists the indices of such candidates; `shed` is "
    "the number of candidates at the end that were not scored."
)
_ANY: Schema = {}
_TEXT: Schema = {"type": "string"}
_TEXTS: Schema = {"type": "array", "items": _TEXT}
_COUNT: Schema = {"type": "integer", "minimum": 0}


def describe_api(signatures: Sequence[Signature], config: ServerConfig) -> Schema:
    """The document. Requests that fit it may still be refused: a schema cannot say that lengths fit each other."""
    schemas = _protocol_schemas() | _infer_schemas()
    paths: Schema = {
        "/v2": _get("Metadata of the server", _ref("ServerMetadata")),
        "/v2/health/live": _get("Whether the server runs", _object({"live": {"const": True}}), open_=True),
        "/v2/health/ready": _get("Whether the server answers", _object({"ready": {"const": True}}), open_=True),
        "/v1/models": _get("The models with their columns and tasks", _ref("Models")),
        "/openapi.json": _get("This document", {"type": "object"}),
        "/metrics": {"get": _operation("Metrics for Prometheus", {"text/plain": {"schema": _TEXT}}, open_=True)},
    }
    if config.page:
        paths["/"] = {"get": _operation("A page to score by hand", {"text/html": {"schema": _TEXT}}, open_=True)}
    requests = []
    for signature in signatures:
        schemas |= _model_schemas(signature, config)
        paths |= _model_paths(signature)
        requests.append(signature.model)
    if requests:
        paths["/v1/rank"] = _rank(
            "Rank the candidates of a user; `model` may be left out if the server has one",
            {"anyOf": [_ref(f"RankRequest.{name}") for name in requests]},
            {"anyOf": [_ref(f"RankResponse.{name}") for name in requests]},
            _example(signatures[0]),
        )
    document: Schema = {
        "openapi": "3.1.0",
        "info": {
            "title": "recap",
            "version": version_of("recap-ranker"),
            "description": "Scores candidates. Every answer that is not 200 is an object with `error`.",
        },
        "paths": paths,
        "components": {"schemas": schemas},
    }
    if config.address.token_file is not None:
        document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"token": []}]
    return document


def _model_paths(signature: Signature) -> Schema:
    """The routes of a model, with the versions that are ready."""
    name = signature.model
    parameter = {
        "name": "version",
        "in": "path",
        "required": True,
        "schema": {"enum": list(signature.versions)},
    }
    paths: Schema = {}
    for path, parameters in ((f"/v2/models/{name}", []), (f"/v2/models/{name}/versions/{{version}}", [parameter])):
        about = f" of {name}" if not parameters else f" of a version of {name}"
        paths[path] = _get(f"Metadata{about}", _ref("ModelMetadata"))
        ready = _object({"name": _TEXT, "ready": {"const": True}})
        paths[f"{path}/ready"] = _get(f"Readiness{about}", ready)
        infer = _operation(
            f"Open Inference Protocol{about}",
            {
                "application/json": {"schema": _ref("InferResponse")},
                "application/octet-stream": {"schema": _ANY},
            },
            description=_DEADLINE + _BINARY + _FAILED,
        )
        infer["requestBody"] = {
            "required": True,
            "content": {
                "application/json": {"schema": _ref("InferRequest"), "example": _infer_example(signature)},
                "application/octet-stream": {"schema": _ANY},
            },
        }
        paths[f"{path}/infer"] = {"post": infer}
        for item in (paths[path], paths[f"{path}/ready"], paths[f"{path}/infer"]):
            if parameters:
                item["parameters"] = parameters
    paths[f"/v1/models/{name}/rank"] = _rank(
        f"Rank the candidates of a user with {name}",
        _ref(f"RankRequest.{name}"),
        _ref(f"RankResponse.{name}"),
        _example(signature),
    )
    return paths


def _rank(summary: str, request: Schema, response: Schema, example: Schema) -> Schema:
    operation = _operation(summary, {"application/json": {"schema": response}}, description=_DEADLINE)
    operation["requestBody"] = {
        "required": True,
        "content": {"application/json": {"schema": request, "example": example}},
    }
    return {"post": operation}


def _get(summary: str, schema: Schema, *, open_: bool = False) -> Schema:
    return {"get": _operation(summary, {"application/json": {"schema": schema}}, open_=open_)}


def _operation(
    summary: str, content: Mapping[str, Schema], *, open_: bool = False, description: str | None = None
) -> Schema:
    """`open_`: whether it needs no token."""
    error = {"description": "Failure", "content": {"application/json": {"schema": _ref("Error")}}}
    operation: Schema = {
        "summary": summary,
        "responses": {"200": {"description": "Success", "content": dict(content)}, "default": error},
    }
    if description is not None:
        operation["description"] = description
    if open_:
        operation["security"] = []
    return operation


def _protocol_schemas() -> Schema:
    """Schemas that do not depend on models."""
    datatype = {"enum": list(DATATYPES)}
    described = {"type": "array", "items": _ref("TensorMetadata")}
    return {
        "Error": _object({"error": _TEXT}),
        "ServerMetadata": _object({"name": _TEXT, "version": _TEXT, "extensions": _TEXTS}),
        "TensorMetadata": _object(
            {"name": _TEXT, "datatype": datatype, "shape": {"type": "array", "items": {"type": "integer"}}}
        ),
        "ModelMetadata": _object(
            {"name": _TEXT, "versions": _TEXTS, "platform": _TEXT, "inputs": described, "outputs": described}
        ),
        "Models": _object({"models": {"type": "array", "items": {"type": "object"}}}),
    }


def _infer_schemas() -> Schema:
    """Requests and responses of the Open Inference Protocol."""
    parameters = {"type": "object", "additionalProperties": {"type": ["string", "number", "boolean"]}}
    given = {"type": ["object", "null"]}
    datatype = {"enum": list(DATATYPES)}
    shape = {"type": "array", "items": _COUNT, "minItems": 1, "maxItems": 8}
    return {
        "InferRequest": _object(
            {
                "inputs": {
                    "type": "array",
                    "minItems": 1,
                    "items": _object(
                        {"name": _TEXT, "datatype": datatype, "shape": shape, "data": {"type": "array"}},
                        {"parameters": given},
                        closed=False,
                    ),
                }
            },
            {
                "id": {"type": ["string", "null"]},
                "parameters": given,
                "outputs": {
                    "type": ["array", "null"],
                    "items": _object({"name": _TEXT}, {"parameters": given}, closed=False),
                },
            },
            closed=False,
        ),
        "InferResponse": _object(
            {
                "model_name": _TEXT,
                "model_version": _TEXT,
                "outputs": {
                    "type": "array",
                    "items": _object(
                        {
                            "name": _TEXT,
                            "datatype": datatype,
                            "shape": {"type": "array", "items": _COUNT, "minItems": 1, "maxItems": 1},
                            "data": {"type": "array", "items": {"type": "number"}},
                        }
                    ),
                },
            },
            {"id": _TEXT, "parameters": parameters},
        ),
    }


def _model_schemas(signature: Signature, config: ServerConfig) -> Schema:
    name = signature.model
    scalar = {"type": ["number", "string", "boolean", "null"]}
    extra = [*signature.carried, *([signature.user] if signature.user else [])]
    columns = dict.fromkeys(extra, scalar) | {column: _column(kind) for column, kind in signature.columns.items()}
    optional: Schema = {
        "model": {"enum": [name, None]},
        "version": {"enum": [*signature.versions, None]},
        "id": {"type": ["string", "null"]},
        "user": {
            "anyOf": [_ref(f"Columns.{name}"), {"type": "null"}],
            "description": "The columns that are equal for all candidates.",
        },
    }
    if signature.weights_from_requests:
        weights = _object({}, {task: {"type": "number", "minimum": -1e99, "maximum": 1e99} for task in signature.tasks})
        optional["weights"] = {"anyOf": [weights, {"type": "null"}]}
    return {
        f"Columns.{name}": {
            **_object({}, columns),
            "description": "Columns and their values, each in `user` or in every candidate; null where there is none.",
        },
        f"RankRequest.{name}": _object(
            {
                "candidates": {
                    "type": "array",
                    "minItems": 1,
                    "maxItems": config.limits.candidates,
                    "items": _ref(f"Columns.{name}"),
                }
            },
            optional,
        ),
        f"RankResponse.{name}": _rank_response(signature, extra),
    }


def _rank_response(signature: Signature, extra: Sequence[str]) -> Schema:
    """`extra`: the columns that are repeated."""
    numbers = {"type": "array", "items": {"type": ["number", "null"]}}
    return _object(
        {
            "model": {"const": signature.model},
            "version": _TEXT,
            "order": {
                "type": "array",
                "items": _COUNT,
                "description": "Indices of the candidates that have a score, best first.",
            },
            "scores": {**numbers, "description": "By candidate, in the order of the request."},
            "probabilities": {
                **_object(dict.fromkeys(signature.tasks, numbers)),
                "description": "By task and candidate: calibrated probabilities, or values of regressions.",
            },
            "ids": {
                **_object({}, {column: {"type": "array"} for column in extra}),
                "description": "Columns of the candidates that the model does not read, repeated.",
            },
            "errors": {"type": "array", "items": _object({"candidate": _COUNT, "error": _TEXT})},
            "shed": {**_COUNT, "description": "Candidates at the end that were not scored."},
        },
        {"id": _TEXT},
    )


def _column(kind: pa.DataType) -> Schema:
    element = kind.value_type if is_list(kind) else kind
    types = ["number", "boolean", "null"]
    if not pa.types.is_floating(element):
        types = ["integer", "string", "boolean", "null"]
    if not is_list(kind):
        return {"type": types}
    length = fixed_length(kind)
    sizes = {} if length is None else {"minItems": length, "maxItems": length}
    return {"type": ["array", "null"], "items": {"type": types}} | sizes


def _example(signature: Signature) -> Schema:
    return {"user": {}, "candidates": [dict.fromkeys(signature.columns), dict.fromkeys(signature.columns)]}


def _infer_example(signature: Signature) -> Schema:
    """Two candidates without values."""
    inputs = []
    for name, datatype, shape in describe_inputs(signature):
        sizes = [2, *(max(size, 1) for size in shape[1:])]
        inputs.append({"name": name, "datatype": datatype, "shape": sizes, "data": [None] * prod(sizes)})
    return {"inputs": inputs}


def _object(
    required: Mapping[str, Schema], optional: Mapping[str, Schema] | None = None, *, closed: bool = True
) -> Schema:
    """An object; `closed`: without other keys."""
    schema: Schema = {"type": "object", "properties": {**required, **(optional or {})}}
    if required:
        schema["required"] = list(required)
    if closed:
        schema["additionalProperties"] = False
    return schema


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}
