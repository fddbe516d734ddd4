"""Calls of open-inference-openapi: `ADDRESS REQUEST.npz`; prints the answers as JSON."""

import json
import sys
from typing import Any

import numpy as np
from open_inference.openapi.client import OpenInferenceClient
from open_inference.openapi.core.api_error import ApiError
from open_inference.openapi.types import InferenceRequest, RequestInput, RequestOutput, TensorData

address, file = sys.argv[1:]
arrays = dict(np.load(file, allow_pickle=False))
DATATYPES = {"f": "FP32", "i": "INT64", "b": "FP32", "U": "BYTES"}  # this client turns booleans into floats


def request(**changes: Any) -> InferenceRequest:
    inputs = [
        RequestInput(
            name=name,
            datatype=DATATYPES[array.dtype.kind],
            shape=list(array.shape),
            data=TensorData(__root__=array.ravel().tolist()),
        )
        for name, array in arrays.items()
    ]
    return InferenceRequest(**{"id": "r1", "inputs": inputs} | changes)


def failure(call: Any, **options: Any) -> list[Any]:
    try:
        call(**options)
    except ApiError as error:
        return [error.status_code, error.body]
    raise AssertionError("the call succeeded")


client = OpenInferenceClient(base_url=f"http://{address}")
client.check_server_liveness()
client.check_server_readiness()
client.check_model_readiness(model_name="feed")
metadata = client.read_model_metadata(model_name="feed")
version = metadata.versions[-1]
client.check_model_version_readiness(model_name="feed", model_version=version)
answer = client.model_infer(model_name="feed", request=request())
versioned = client.model_version_infer(
    model_name="feed", model_version=version, request=request(outputs=[RequestOutput(name="score")])
)
print(
    json.dumps(
        {
            "scores": {"JSON": {output.name: output.data.__root__ for output in answer.outputs}},
            "versioned": {output.name: output.data.__root__ for output in versioned.outputs},
            "id": answer.id,
            "model": [answer.model_name, answer.model_version, version],
            "server": json.loads(client.read_server_metadata().json()),
            "metadata": json.loads(metadata.json()),
            "errors": {
                "model": failure(client.model_infer, model_name="other", request=request()),
                "metadata": failure(client.read_model_metadata, model_name="other"),
                "inputs": failure(client.model_infer, model_name="feed", request=request(inputs=[])),
            },
        },
        default=str,
    )
)
