"""Calls of KServe's clients: `HTTP GRPC REQUEST.npz`; prints the answers as JSON."""

import asyncio
import json
import logging
import sys
from typing import Any

import grpc
import httpx
import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.infer_type import RequestedOutput

http, grpc_address, file = sys.argv[1:]
arrays = dict(np.load(file, allow_pickle=False))
DATATYPES = {"f": "FP32", "i": "INT64", "b": "BOOL", "U": "BYTES"}
logging.disable()


def request(binary: bool, model: str = "feed", outputs: bool | None = None) -> InferRequest:
    tensors = []
    for name, array in arrays.items():
        tensor = InferInput(name, list(array.shape), DATATYPES[array.dtype.kind])
        tensor.set_data_from_numpy(array.astype(object) if array.dtype.kind == "U" else array, binary_data=binary)
        tensors.append(tensor)
    wanted = None
    if outputs is not None:
        wanted = [RequestedOutput(name, {"binary_data": outputs}) for name in ("like", "share", "score")]
    return InferRequest(model, tensors, "r1", request_outputs=wanted)


def values(response: Any) -> dict[str, Any]:
    return {output.name: np.asarray(output.as_numpy()).tolist() for output in response.outputs}


async def main() -> None:
    scores, errors = {}, {}
    async with InferenceRESTClient(RESTConfig(protocol="v2")) as rest:
        base = f"http://{http}"
        probes = [
            await rest.is_server_live(base),
            await rest.is_server_ready(base),
            await rest.is_model_ready(base, "feed"),
        ]
        for binary in (True, False):
            for wanted in (None, True, False):
                response = await rest.infer(base, request(binary, outputs=wanted), model_name="feed")
                scores[f"REST, binary {binary} to {wanted}"] = values(response)
        try:
            await rest.infer(base, request(True), model_name="other")
        except httpx.HTTPStatusError as error:
            errors["REST"] = error.response.status_code
    async with InferenceGRPCClient(grpc_address) as client:
        probes += [
            await client.is_server_live(),
            await client.is_server_ready(),
            await client.is_model_ready("feed"),
        ]
        for binary in (True, False):
            scores[f"gRPC, binary {binary}"] = values(await client.infer(request(binary)))
        try:
            await client.infer(request(True, "other"))
        except grpc.RpcError as error:
            errors["gRPC"] = error.code().name
    print(json.dumps({"scores": scores, "probes": probes, "errors": errors}))


asyncio.run(main())
