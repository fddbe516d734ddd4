"""Calls of open-inference-grpc, with typed contents, and of grpc health: `ADDRESS REQUEST.npz`; prints JSON."""

import json
import sys
from typing import Any

import grpc
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc
from open_inference.grpc import protocol
from open_inference.grpc.service import GRPCInferenceServiceStub

address, file = sys.argv[1:]
arrays = dict(np.load(file, allow_pickle=False))
FIELDS = {
    "f": ("FP32", "fp32_contents"),
    "i": ("INT64", "int64_contents"),
    "b": ("BOOL", "bool_contents"),
    "U": ("BYTES", "bytes_contents"),
}


def request(model: str = "feed", **options: Any) -> protocol.ModelInferRequest:
    message = protocol.ModelInferRequest(model_name=model, id="r1", **options)
    for name, array in arrays.items():
        datatype, field = FIELDS[array.dtype.kind]
        flat = [value.encode() if isinstance(value, str) else value for value in array.ravel().tolist()]
        contents = protocol.InferTensorContents(**{field: flat})
        message.inputs.add(name=name, datatype=datatype, shape=list(array.shape), contents=contents)
    return message


def failure(call: Any, message: Any) -> list[str]:
    try:
        call(message)
    except grpc.RpcError as error:
        return [error.code().name, error.details()]
    raise AssertionError("the call succeeded")


def values(answer: protocol.ModelInferResponse) -> dict[str, Any]:
    return {
        output.name: list(output.contents.fp32_contents) or list(output.contents.fp64_contents)
        for output in answer.outputs
    }


with grpc.insecure_channel(address) as channel:
    stub, health = GRPCInferenceServiceStub(channel), health_pb2_grpc.HealthStub(channel)
    metadata = stub.ModelMetadata(protocol.ModelMetadataRequest(name="feed"))
    answer = stub.ModelInfer(request())
    print(
        json.dumps(
            {
                "scores": {
                    "typed": values(answer),
                    "version": values(stub.ModelInfer(request(model_version=metadata.versions[-1]))),
                },
                "id": answer.id,
                "live": stub.ServerLive(protocol.ServerLiveRequest()).live,
                "ready": stub.ServerReady(protocol.ServerReadyRequest()).ready,
                "model ready": stub.ModelReady(protocol.ModelReadyRequest(name="feed")).ready,
                "health": [
                    health_pb2.HealthCheckResponse.ServingStatus.Name(
                        health.Check(health_pb2.HealthCheckRequest(service=service)).status
                    )
                    for service in ("", "feed", "inference.GRPCInferenceService")
                ],
                "errors": {
                    "model": failure(stub.ModelInfer, request("other")),
                    "metadata": failure(stub.ModelMetadata, protocol.ModelMetadataRequest(name="other")),
                    "health": failure(health.Check, health_pb2.HealthCheckRequest(service="other")),
                },
            }
        )
    )
