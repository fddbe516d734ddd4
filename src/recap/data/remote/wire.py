"""The wire format of data servers: encoded rows as Arrow record batches. Nothing received is executed.

A response is a stream. For each requested chunk it has a message without rows, whose metadata (JSON) list the bad rows
of the chunk and their errors, or the error that ends the response; then messages with the good rows. A column is a
tensor; its value in a row is the bytes of that row. A client checks every value before it uses it, and limits what it
receives: a server may be another program.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from hashlib import sha256
from itertools import pairwise
from typing import Annotated, Any, TypeVar

import numpy as np
import pyarrow as pa
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from recap.config.base import BaseConfig
from recap.config.histories import NumberEvents
from recap.data.batch import Batch
from recap.data.encoding.assets import discrete_columns, discrete_sizes
from recap.data.encoding.encoder import RowEncoder
from recap.data.stream.source import Source
from recap.native.buffers import new_array
from recap.text import plural

PROTOCOL = 2
"""Version of the wire format; client and server must have the same."""
_MAX_MESSAGE_BYTES = 16 * 2**20
MAX_HEADER_BYTES = 16 * 2**20
"""Of the metadata of a chunk, and of the description of a server."""
_MAX_TEXT = 2000
"""Characters of a message from a server."""
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


def one_line(text: str) -> str:
    """Text from another host as one line of limited length, without control characters."""
    shown = "".join(letter if letter.isprintable() else " " for letter in text[: 2 * _MAX_TEXT])
    line = " ".join(shown.split())
    return line if len(line) <= _MAX_TEXT else f"{line[:_MAX_TEXT]}…"


class _Answer(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)


Answer = TypeVar("Answer", bound=_Answer)


class Served(_Answer):
    """A fingerprint as a server sends it."""

    rows: str
    files: str


class Description(_Answer):
    """What a server says of itself."""

    protocol: int
    data_sets: dict[str, Served]


class ChunkHeader(_Answer):
    """The metadata of a chunk: its bad rows and their errors, or the error that ends the response."""

    error: str | None = None
    bad_rows: list[Annotated[int, Field(ge=0)]] = []
    bad_data: list[tuple[str, str, str]] = []
    """File, part and message of each `BadData`."""


def parse_description(content: bytes) -> Description:
    """Raises ValueError if `content` is something else."""
    return _parse(Description, content)


def parse_header(content: bytes, rows: int) -> ChunkHeader:
    """The header of a chunk of `rows` rows. Raises ValueError if `content` is something else."""
    header = _parse(ChunkHeader, content)
    bad = header.bad_rows
    if any(row >= rows for row in bad) or any(first >= second for first, second in pairwise(bad)):
        raise ValueError(f"bad rows that are not ascending numbers below {rows}")
    if bool(bad) != bool(header.bad_data) or len(header.bad_data) > len(bad):
        raise ValueError(f"{plural(len(header.bad_data), 'error')} for {plural(len(bad), 'bad row')}")
    return header


def _parse(model: type[Answer], content: bytes) -> Answer:
    if len(content) > MAX_HEADER_BYTES:
        raise ValueError(f"{len(content):,} bytes of metadata")
    try:
        return model.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise ValueError(f"metadata that are not those of a chunk or server ({first['msg']})") from None


class RowCodec:
    """Batches of one encoder ↔ Arrow record batches."""

    def __init__(self, encoder: RowEncoder) -> None:
        self._limits = _code_limits(encoder)
        self.template = encoder.empty()
        tensors = self.template.tensors().items()
        sizes = {name: tensor.element_size() * math.prod(tensor.shape[1:]) for name, tensor in tensors}
        self.bytes = {name: size for name, size in sizes.items() if size}
        """Name of a tensor → bytes per row."""
        self.max_received = max(MAX_HEADER_BYTES, _MAX_MESSAGE_BYTES, sum(self.bytes.values())) + 2**20
        """Bytes of a message that a client accepts."""
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
        """The rows of some messages, concatenated in new memory.

        Raises ValueError for another schema, damaged arrays, and codes and booleans out of their range.
        """
        rows = sum(message.num_rows for message in messages)
        for message in messages:
            if message.schema != self.schema:
                raise ValueError("columns of another schema")
            try:
                message.validate(full=True)
            except pa.ArrowException as error:
                raise ValueError(f"a damaged message ({error})") from None
        decoded: dict[str, Tensor] = {}
        for name, like in self.template.tensors().items():
            size = self.bytes.get(name, 0)
            values = new_array((rows, size), np.uint8)
            start = 0
            for message in messages if size else ():
                if message.column(name).null_count:
                    raise ValueError("null instead of the bytes of a row")
                column, end = message.column(name), start + message.num_rows
                first = column.offset * size
                received = np.frombuffer(column.buffers()[1], np.uint8, message.num_rows * size, first)
                values[start:end] = received.reshape(-1, size)
                start = end
            if like.dtype == torch.bool and size and values.max(initial=0) > 1:
                raise ValueError(f"a byte of {name!r} that is not a boolean")
            decoded[name] = torch.from_numpy(values.reshape(-1)).view(like.dtype).reshape(rows, *like.shape[1:])
        for name, columns, largest in self._limits:
            codes = decoded[name][..., columns].numpy() if columns is not None else decoded[name].numpy()
            if codes.min(initial=0) < 0 or codes.max(initial=0) > largest:
                raise ValueError(f"a code of {name!r} outside 0 to {largest:,}")
        return self.template.with_tensors(decoded)


def _code_limits(encoder: RowEncoder) -> list[tuple[str, slice | None, int]]:
    """For tensors of codes and lengths: the name, some of the columns (None: all), and the largest value in them."""
    features, sizes = encoder.features, discrete_sizes(encoder.features, encoder.assets)
    limits: list[tuple[str, slice | None, int]] = [
        ("discrete", columns, sizes[features.table_of(name, features.discrete[name])])
        for name, columns in discrete_columns(features).items()
    ]
    for name, history in features.histories.items():
        limits.append((f"histories/{name}/length", None, history.max_length))
        coded = {f"{name}/ids": history.ids}
        for key, attribute in history.attributes.items():
            if not isinstance(attribute, NumberEvents):
                coded[f"{name}/attributes/{key}"] = attribute
        limits += [(f"histories/{key}", None, sizes[features.table_of(key, of)]) for key, of in coded.items()]
    return limits


def _as_bytes(tensor: Tensor, size: int) -> pa.Array:
    flat = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
    return pa.Array.from_buffers(pa.binary(size), len(tensor), [None, pa.py_buffer(flat)])
