"""Calls of tritonclient over gRPC: `ADDRESS REQUEST.npz`; prints the answers as JSON."""

import asyncio
import json
import sys
from queue import Queue
from typing import Any

import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

address, file = sys.argv[1:]
arrays = dict(np.load(file, allow_pickle=False))


def inputs() -> list[Any]:
    tensors = []
    for name, array in arrays.items():
        values = array.astype(object) if array.dtype.kind == "U" else array
        tensor = triton.InferInput(name, list(array.shape), np_to_triton_dtype(values.dtype))
        tensor.set_data_from_numpy(values)
        tensors.append(tensor)
    return tensors


def values(result: Any) -> dict[str, Any]:
    return {name: result.as_numpy(name).tolist() for name in ("like", "share", "score")}


def error(call: Any, *args: Any, **options: Any) -> list[str]:
    try:
        call(*args, **options)
    except InferenceServerException as failure:
        return [str(failure.status()), failure.message()]
    raise AssertionError("the call succeeded")


async def asynchronous() -> dict[str, Any]:
    async with tritonclient.grpc.aio.InferenceServerClient(address) as client:
        assert await client.is_server_live()
        results = await asyncio.gather(*(client.infer("feed", inputs()) for _ in range(3)))
        return {f"aio {number}": values(result) for number, result in enumerate(results)}


client = triton.InferenceServerClient(address)
metadata = client.get_model_metadata("feed", as_json=True)
scores = {
    f"sync, {packed}": values(client.infer("feed", inputs(), compression_algorithm=packed))
    for packed in (None, "gzip", "deflate")
}
version = client.infer(
    "feed", inputs(), model_version=metadata["versions"][-1], request_id="r1", timeout=10**7, client_timeout=10
)
scores["version"] = values(version)
done: Queue[tuple[Any, Any]] = Queue()
for _ in range(4):
    client.async_infer("feed", inputs(), lambda result, error: done.put((result, error)))
for number in range(4):
    result, failure = done.get(timeout=10)
    assert failure is None, failure
    scores[f"async {number}"] = values(result)
scores |= asyncio.run(asynchronous())
one = client.infer("feed", inputs(), outputs=[triton.InferRequestedOutput("score")])
print(
    json.dumps(
        {
            "scores": scores,
            "live": client.is_server_live(),
            "ready": client.is_server_ready(),
            "model ready": [client.is_model_ready("feed"), error(client.is_model_ready, "other")[0]],
            "server": client.get_server_metadata(as_json=True),
            "metadata": metadata,
            "id": version.get_response(as_json=True)["id"],
            "one output": [output.name for output in one.get_response().outputs],
            "errors": {
                "model": error(client.infer, "other", inputs()),
                "version": error(client.infer, "feed", inputs(), model_version="none"),
                "output": error(client.infer, "feed", inputs(), outputs=[triton.InferRequestedOutput("lik")]),
                "missing": error(client.infer, "feed", inputs()[1:]),
                "classification": error(
                    client.infer, "feed", inputs(), outputs=[triton.InferRequestedOutput("like", class_count=1)]
                ),
                "late": error(client.infer, "feed", inputs(), client_timeout=1e-6),
                "statistics": error(client.get_inference_statistics, "feed"),
            },
        }
    )
)
client.close()
