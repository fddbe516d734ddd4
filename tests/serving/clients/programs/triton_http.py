"""Calls of tritonclient over HTTP: `ADDRESS REQUEST.npz`; prints the answers as JSON."""

import asyncio
import json
import sys
from typing import Any

import numpy as np
import tritonclient.http as http
import tritonclient.http.aio
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

address, file = sys.argv[1:]
arrays = dict(np.load(file, allow_pickle=False))


def inputs(binary: bool, module: Any = http) -> list[Any]:
    tensors = []
    for name, array in arrays.items():
        values = array.astype(object) if array.dtype.kind == "U" else array
        tensor = module.InferInput(name, list(array.shape), np_to_triton_dtype(values.dtype))
        tensor.set_data_from_numpy(values, binary_data=binary)
        tensors.append(tensor)
    return tensors


def outputs(binary: bool, module: Any = http) -> list[Any]:
    return [module.InferRequestedOutput(name, binary_data=binary) for name in ("like", "share", "score")]


def values(result: Any) -> dict[str, Any]:
    return {name: result.as_numpy(name).tolist() for name in ("like", "share", "score")}


def error(call: Any, *args: Any, **options: Any) -> list[str]:
    try:
        call(*args, **options)
    except InferenceServerException as failure:
        return [str(failure.status()), failure.message()]
    raise AssertionError("the call succeeded")


async def asynchronous() -> dict[str, Any]:
    async with tritonclient.http.aio.InferenceServerClient(address) as client:
        assert await client.is_server_live()
        results = await asyncio.gather(
            *(client.infer("feed", inputs(True), outputs=outputs(binary)) for binary in (True, False))
        )
        return {f"aio {number}": values(result) for number, result in enumerate(results)}


client = http.InferenceServerClient(address, concurrency=4)
metadata = client.get_model_metadata("feed")
scores = {
    f"{'binary' if sent else 'JSON'} to {'binary' if wanted else 'JSON'}, {packed}": values(
        client.infer(
            "feed",
            inputs(sent),
            outputs=outputs(wanted),
            request_compression_algorithm=packed,
            response_compression_algorithm=packed,
        )
    )
    for sent in (True, False)
    for wanted in (True, False)
    for packed in (None, "gzip", "deflate")
}
scores["all outputs"] = values(client.infer("feed", inputs(True)))
version = client.infer("feed", inputs(True), model_version=metadata["versions"][-1], request_id="r1", timeout=10**7)
scores["version"] = values(version)
waiting = [client.async_infer("feed", inputs(True), outputs=outputs(True)) for _ in range(4)]
scores |= {f"async {number}": values(call.get_result()) for number, call in enumerate(waiting)}
scores |= asyncio.run(asynchronous())
short = inputs(True)
short[0].set_shape([1, *short[0].shape()[1:]])
print(
    json.dumps(
        {
            "scores": scores,
            "live": client.is_server_live(),
            "ready": client.is_server_ready(),
            "model ready": [client.is_model_ready("feed"), client.is_model_ready("other")],
            "server": client.get_server_metadata(),
            "metadata": metadata,
            "id": version.get_response()["id"],
            "one output": [
                output["name"]
                for output in client.infer("feed", inputs(True), outputs=outputs(True)[2:]).get_response()["outputs"]
            ],
            "errors": {
                "model": error(client.infer, "other", inputs(True)),
                "version": error(client.infer, "feed", inputs(True), model_version="none"),
                "output": error(client.infer, "feed", inputs(True), outputs=[http.InferRequestedOutput("lik")]),
                "missing": error(client.infer, "feed", inputs(True)[1:]),
                "shape": error(client.infer, "feed", short),
                "classification": error(
                    client.infer, "feed", inputs(True), outputs=[http.InferRequestedOutput("like", class_count=1)]
                ),
            },
        }
    )
)
client.close()
