"""What goes over the wire: encoded rows as Arrow record batches, and which rows they are. Nothing of it is executed.

An answer is a stream. For each chunk that was asked for it holds a message of no rows whose metadata, JSON, says which
rows of the chunk are not there and why, or what went wrong; behind it stand its rows, some at a time. A column is a
tensor, its value in a row the bytes of that row.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
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
"""Both ends must speak the same."""
_MESSAGE_BYTES = 16 * 2**20
"""About how large a message is at the most."""
_ELSEWHERE = {"vocabulary", "mask", "inputs", "schema_path", "num_files_to_keep"}
"""Fields that name files, which may lie in other places on another host; what they hold is compared instead."""

Fingerprint = Mapping[str, str]
"""`rows`: how rows are encoded; `files`: which chunks there are, in which order."""


def fingerprint(source: Source) -> Fingerprint:
    """What must be the same at both ends, so that chunk k holds the same rows, encoded in the same way."""
    encoder, loader = source.loader.encoder, source.loader
    unread = sorted(set(encoder.features.discrete) - set(encoder.read.discrete))
    rows = [
        loader.config,
        loader.skip,
        encoder.features,
        encoder.tasks,
        encoder.labels,
        encoder.rectify,
        encoder.weigh_samples,
        unread,
        encoder.regressions,
        {name: _digest(values) for name, values in encoder.assets.items()},
    ]
    files = [source.contents, [(source.names[chunk.file], chunk.number, chunk.rows) for chunk in source.chunks]]
    return {"rows": _sha(json.dumps(_plain(rows))), "files": _sha(json.dumps(files))}


def _plain(value: Any) -> Any:
    """As JSON has it, without what names files."""
    if isinstance(value, BaseConfig):
        value = value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items() if key not in _ELSEWHERE}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _digest(values: pa.Array) -> str:
    return sha256(pa.record_batch([values], ["value"]).serialize()).hexdigest()


def _sha(text: str) -> str:
    return sha256(text.encode()).hexdigest()


class RowCodec:
    """Batches of one encoder ↔ record batches."""

    def __init__(self, encoder: RowEncoder) -> None:
        self.template = encoder.empty()
        self.bytes = {name: _row_bytes(tensor) for name, tensor in self.template.tensors().items()}
        self.bytes = {name: size for name, size in self.bytes.items() if size}
        self.schema = pa.schema([(name, pa.binary(size)) for name, size in self.bytes.items()])

    def nothing(self) -> pa.RecordBatch:
        """A message of no rows, which carries metadata."""
        return pa.RecordBatch.from_pylist([], self.schema)

    def encode(self, batch: Batch) -> Iterator[pa.RecordBatch]:
        """The rows of a batch, some at a time."""
        step = max(1, _MESSAGE_BYTES // sum(self.bytes.values()))
        for start in range(0, len(batch), step):
            tensors = batch.rows(slice(start, start + step)).tensors()
            arrays = [_as_bytes(tensors[name], size) for name, size in self.bytes.items()]
            yield pa.RecordBatch.from_arrays(arrays, schema=self.schema)

    def decode(self, messages: Sequence[pa.RecordBatch]) -> Batch:
        """The rows of some messages end to end, in memory of their own. Raises ValueError for what is no such row."""
        rows = sum(message.num_rows for message in messages)
        made: dict[str, Tensor] = {}
        for name, like in self.template.tensors().items():
            size = self.bytes.get(name, 0)
            values = new_array((rows, size), np.uint8)
            start = 0
            for message in messages if size else ():
                if message.schema != self.schema or message.column(name).null_count:
                    raise ValueError(f"found {message.schema} where {self.schema} was expected")
                column, end = message.column(name), start + message.num_rows
                first = column.offset * size
                whole = np.frombuffer(column.buffers()[1], np.uint8, message.num_rows * size, first)
                values[start:end] = whole.reshape(-1, size)
                start = end
            made[name] = torch.from_numpy(values.reshape(-1)).view(like.dtype).reshape(rows, *like.shape[1:])
        return self.template.with_tensors(made)


def _row_bytes(tensor: Tensor) -> int:
    return tensor.element_size() * int(np.prod(tensor.shape[1:]))


def _as_bytes(tensor: Tensor, size: int) -> pa.Array:
    flat = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
    return pa.Array.from_buffers(pa.binary(size), len(tensor), [None, pa.py_buffer(flat)])
