"""Another server of the Open Inference Protocol, aiSSEMBLE's, with the same model: `MODEL HTTP_PORT GRPC_PORT`."""

import asyncio
import os
import sys
from typing import Any

model, http_port, grpc_port = sys.argv[1:]
os.environ |= {"AUTH_ENABLED": "false", "FASTAPI_PORT": http_port, "FASTAPI_RELOAD": "false", "GRPC_PORT": grpc_port}
os.environ |= {"GRPC_HOST": "127.0.0.1"}

import pyarrow as pa  # noqa: E402
import uvicorn  # noqa: E402
from aissemble_open_inference_protocol_fastapi.aissemble_oip_fastapi import AissembleOIPFastAPI  # noqa: E402
from aissemble_open_inference_protocol_grpc.aissemble_oip_grpc import AissembleOIPgRPC  # noqa: E402
from aissemble_open_inference_protocol_shared.handlers.model_handler import ModelHandler  # noqa: E402
from aissemble_open_inference_protocol_shared.types.dataplane import (  # noqa: E402
    InferenceRequest,
    InferenceResponse,
    MetadataTensor,
    ModelMetadataResponse,
    ResponseOutput,
    TensorData,
)

import recap  # noqa: E402

OUTPUTS = {"like": "FP32", "share": "FP32", "score": "FP64"}


class Handler(ModelHandler):
    """Scores as recap.Scorer does."""

    def __init__(self) -> None:
        self._scorer = recap.Scorer.open(model)

    def infer(self, payload: InferenceRequest, model_name: str, model_version: str | None = None) -> InferenceResponse:
        rows = max(tensor.shape[0] for tensor in payload.inputs)
        columns = {tensor.name: pa.array(_values(tensor, rows)) for tensor in payload.inputs}
        table = self._scorer(pa.table(columns))
        outputs = [
            ResponseOutput(name=name, shape=[rows], datatype=datatype, data=TensorData(table[name].to_pylist()))
            for name, datatype in OUTPUTS.items()
        ]
        return InferenceResponse(model_name=model_name, model_version="1", id=payload.id, outputs=outputs)

    def model_metadata(self, model_name: str, model_version: str | None = None) -> ModelMetadataResponse:
        outputs = [MetadataTensor(name=name, datatype=kind, shape=[-1]) for name, kind in OUTPUTS.items()]
        inputs = [MetadataTensor(name="age", datatype="FP32", shape=[-1])]
        return ModelMetadataResponse(name=model_name, versions=["1"], platform="recap", inputs=inputs, outputs=outputs)

    def model_load(self, model_name: str) -> bool:
        return True


def _values(tensor: Any, rows: int) -> list[Any]:
    flat = [value.decode() if isinstance(value, bytes) else value for value in tensor.data.root]
    if len(tensor.shape) == 2 and not isinstance(flat[0], list):
        width = tensor.shape[1]
        flat = [flat[row * width : (row + 1) * width] for row in range(tensor.shape[0])]
    return flat * rows if tensor.shape[0] == 1 else flat


async def main() -> None:
    handler = Handler()
    rest, rpc = AissembleOIPFastAPI(model_handler=handler), AissembleOIPgRPC(model_handler=handler)
    await rpc.server.start()
    config = uvicorn.Config(rest.server, host="127.0.0.1", port=int(http_port), log_level="warning")
    await uvicorn.Server(config).serve()


asyncio.run(main())
