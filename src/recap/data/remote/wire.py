"""The wire format of data servers: encoded rows as Arrow record batches. Nothing received is executed.

A response is a stream. For each requested chunk it has a message without rows, whose metadata (JSON) list the bad rows
of the chunk and their errors, or the error that ends the response; then messages with the good rows. A column is a
tensor; its value in a row is the bytes of that row.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from hashlib import sha256
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from recap.config.base import BaseConfig
from recap.data.batch import Batch
from recap.data.encoding.encoder import RowEncoder
from recap.data.stream.source import Source
from recap.native.buffers import new_array

PROTOCOL = 2
"""Version of the wire format; client and server must have the same."""
_MAX_MESSAGE_BYTES = 16 * 2**20
_PATH_FIELDS = {"vocabulary", "mask", "inputs", "schema_path", "num_files_to_keep"}
"""Fields about paths, which may differ between hosts; the contents of the files are compared instead."""

Fingerprint = Mapping[str, str]
"""`rows`: a hash of how rows are read and encoded. `files`: a hash of the chunks and their order."""


def fingerprint(source: Source) -> Fingerprint:
    """Equal for a client and a server if chunk k has the same rows, encoded in the same way.

    It covers every field of the loader, its encoder and their configs, except those in `_PATH_FIELDS`.
    """
    files = [source.contents, [(source.names[chunk.file], chunk.number, chunk.rows) for chunk in source.chunks]]
    return {"rows": _sha(json.dumps(_as_json(source.loader))), "files": _sha(json.dumps(files))}


def _as_json(value: Any) -> Any:
    """A loader, or a value in it, as JSON values. Raises TypeError for unknown types."""
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, pa.Array):
        return sha256(pa.record_batch([value], ["value"]).serialize()).hexdigest()
    if isinstance(value, Mapping):
        return {str(key): _as_json(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(map(_as_json, value))
    if isinstance(value, list | tuple):
        return [_as_json(item) for item in value]
    if isinstance(value, BaseConfig):
        names = list(type(value).model_fields)
    elif is_dataclass(value):
        names = [field.name for field in fields(value)]
    else:
        raise TypeError(f"the fingerprint does not cover {type(value).__name__}")
    settings = {name: _as_json(getattr(value, name)) for name in names if name not in _PATH_FIELDS}
    return {"type": type(value).__name__, **settings}


def _sha(text: str) -> str:
    return sha256(text.encode()).hexdigest()


class RowCodec:
    """Batches of one encoder ↔ Arrow record batches."""

    def __init__(self, encoder: RowEncoder) -> None:
        self.template = encoder.empty()
        tensors = self.template.tensors().items()
        sizes = {name: tensor.element_size() * math.prod(tensor.shape[1:]) for name, tensor in tensors}
        self.bytes = {name: size for name, size in sizes.items() if size}
        """Name of a tensor → bytes per row."""
        self.schema = pa.schema([(name, pa.binary(size)) for name, size in self.bytes.items()])

    def header(self) -> pa.RecordBatch:
        """A message without rows, to carry metadata."""
        return pa.RecordBatch.from_pylist([], self.schema)

    def encode(self, batch: Batch) -> Iterator[pa.RecordBatch]:
        """The rows of a batch, in messages of limited size."""
        step = max(1, _MAX_MESSAGE_BYTES // sum(self.bytes.values()))
        for start in range(0, len(batch), step):
            tensors = batch.rows(slice(start, start + step)).tensors()
            arrays = [_as_bytes(tensors[name], size) for name, size in self.bytes.items()]
            yield pa.RecordBatch.from_arrays(arrays, schema=self.schema)

    def decode(self, messages: Sequence[pa.RecordBatch]) -> Batch:
        """The rows of some messages, concatenated in new memory. Raises ValueError for another schema."""
        rows = sum(message.num_rows for message in messages)
        decoded: dict[str, Tensor] = {}
        for name, like in self.template.tensors().items():
            size = self.bytes.get(name, 0)
            values = new_array((rows, size), np.uint8)
            start = 0
            for message in messages if size else ():
                if message.schema != self.schema or message.column(name).null_count:
                    raise ValueError(f"found {message.schema}, expected {self.schema}")
                column, end = message.column(name), start + message.num_rows
                first = column.offset * size
                received = np.frombuffer(column.buffers()[1], np.uint8, message.num_rows * size, first)
                values[start:end] = received.reshape(-1, size)
                start = end
            decoded[name] = torch.from_numpy(values.reshape(-1)).view(like.dtype).reshape(rows, *like.shape[1:])
        return self.template.with_tensors(decoded)


def _as_bytes(tensor: Tensor, size: int) -> pa.Array:
    flat = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
    return pa.Array.from_buffers(pa.binary(size), len(tensor), [None, pa.py_buffer(flat)])
