"""The wire format of data servers: encoded rows as bytes. Nothing received is executed.

A response is a stream of messages. For each requested chunk it has one with JSON, which lists the bad rows of the chunk
and their errors, or has the error that ends the response; then messages with the good rows: of each tensor in turn, the
bytes of every row. While a chunk is being read, `HEARTBEAT` shows that the server is alive. The messages are the
metadata of Arrow record batches without columns, because Arrow decompresses columns to any size before a client sees
them. A client knows the size of every message, checks every value before it uses it, and limits what it receives: a
server may be another program.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from hashlib import sha256
from itertools import pairwise
from typing import Annotated, Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from recap.config.base import BaseConfig
from recap.config.histories import NumberEvents
from recap.data.batch import Batch
from recap.data.encoding.assets import discrete_columns, largest_codes
from recap.data.encoding.encoder import RowEncoder
from recap.data.stream.source import Source
from recap.native.buffers import new_array
from recap.text import plural

PROTOCOL = 4
"""Version of the wire format; client and server must have the same."""
FULL = b"full"
"""The extra information of the error of a server that has as many requests as it takes."""
HEARTBEAT = b"alive"
"""A message before the header of a chunk, while the server still reads it. A client ends a connection that stays silent
although it asks for signs of life; gRPC servers refuse to be asked often without sending anything."""
_MAX_MESSAGE_BYTES = 16 * 2**20
MAX_HEADER_BYTES = 16 * 2**20
"""Of the metadata of a chunk, and of the description of a server."""
_MAX_TEXT = 2000
"""Characters of a message from a server."""
_PATH_FIELDS = {"vocabulary", "mask", "inputs", "schema_path", "num_files_to_keep"}
"""Fields about paths, which may differ between hosts; the contents of the files are compared instead."""

SCHEMA = pa.schema([])
"""Of every response."""

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


def message(content: bytes | pa.Buffer) -> tuple[pa.RecordBatch, bytes | pa.Buffer]:
    """A message of a response."""
    return pa.RecordBatch.from_arrays([], schema=SCHEMA), content


class RowCodec:
    """Batches of one encoder ↔ messages. `compression`: none, lz4 or zstd."""

    def __init__(self, encoder: RowEncoder) -> None:
        self._limits = _code_limits(encoder)
        self.template = encoder.empty()
        tensors = self.template.tensors().items()
        self.bytes = {name: tensor.element_size() * math.prod(tensor.shape[1:]) for name, tensor in tensors}
        """Name of a tensor → bytes per row."""
        self.row_bytes = sum(self.bytes.values())
        self._step = max(1, _MAX_MESSAGE_BYTES // max(1, self.row_bytes))
        self.max_received = max(MAX_HEADER_BYTES, _MAX_MESSAGE_BYTES, self.row_bytes) + 2**20
        """Bytes of a message that a client accepts."""

    def rows_of_messages(self, rows: int) -> Iterator[int]:
        """The number of rows in each of the messages with `rows` rows."""
        for start in range(0, rows, self._step):
            yield min(self._step, rows - start)

    def encode(self, batch: Batch, compression: str) -> Iterator[bytes | pa.Buffer]:
        """The rows of a batch as messages of limited size."""
        start = 0
        for rows in self.rows_of_messages(len(batch)):
            tensors = batch.rows(slice(start, start + rows)).tensors()
            flat = [tensors[name].contiguous().view(-1).view(torch.uint8) for name in self.bytes]
            content = torch.cat(flat).numpy().tobytes()
            yield content if compression == "none" else pa.compress(content, compression)
            start += rows

    def received(self, content: pa.Buffer, rows: int, compression: str) -> npt.NDArray[np.uint8]:
        """The bytes of a message with `rows` rows. Raises ValueError if it has more or fewer."""
        size = rows * self.row_bytes
        if compression != "none":
            try:
                with pa.CompressedInputStream(pa.BufferReader(content), compression) as stream:
                    content = stream.read_buffer(size + 1)
            except (pa.ArrowException, OSError):
                raise ValueError("a damaged message") from None
        if content.size != size:
            more = "more" if content.size > size else "fewer"
            raise ValueError(f"{more} bytes than those of {plural(rows, 'row')}")
        return np.frombuffer(content, np.uint8) if size else np.empty(0, np.uint8)

    def decode(self, contents: Sequence[npt.NDArray[np.uint8]], rows: int) -> Batch:
        """The `rows` rows of the `contents` of some messages, concatenated in new memory.

        Raises ValueError for codes and booleans out of their range.
        """
        decoded: dict[str, Tensor] = {}
        before = 0
        for name, like in self.template.tensors().items():
            size = self.bytes[name]
            values = new_array((rows, size), np.uint8)
            start = 0
            for content, count in zip(contents, self.rows_of_messages(rows), strict=True):
                part = content[count * before : count * (before + size)]
                values[start : start + count] = part.reshape(count, size)
                start += count
            before += size
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
    limits = _own_code_limits(encoder)
    for number, teacher in enumerate(encoder.teachers):
        own = _own_code_limits(teacher)
        limits += [(f"teacher_inputs/{number}/{name}", columns, largest) for name, columns, largest in own]
    return limits


def _own_code_limits(encoder: RowEncoder) -> list[tuple[str, slice | None, int]]:
    """`_code_limits` of the encoder's own features."""
    features, largest = encoder.features, largest_codes(encoder.features, encoder.assets)
    limits: list[tuple[str, slice | None, int]] = [
        ("discrete", columns, largest[features.table_of(name, features.discrete[name])])
        for name, columns in discrete_columns(features).items()
    ]
    for name, history in features.histories.items():
        limits.append((f"histories/{name}/length", None, history.max_length))
        coded = {f"{name}/ids": history.ids}
        for key, attribute in history.attributes.items():
            if not isinstance(attribute, NumberEvents):
                coded[f"{name}/attributes/{key}"] = attribute
        limits += [(f"histories/{key}", None, largest[features.table_of(key, of)]) for key, of in coded.items()]
    return limits
