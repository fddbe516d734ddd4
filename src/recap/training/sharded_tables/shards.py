"""Tensors stored in blocks: each rank writes those it holds, and any number of ranks reads what it needs of them.

`shards/` of a checkpoint holds the blocks in safetensors files and `index.json`: part of the state → tensor → its
global shape, its dtype and its blocks. The shapes are those of the live tensors, because that of a table whose last
shard is empty cannot be told from its blocks.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Annotated, Any, cast

import torch
from pydantic import BaseModel, ConfigDict, Field, RootModel
from safetensors import SafetensorError, safe_open
from torch import Tensor

from recap.errors import CheckpointError
from recap.model.directory import DTYPES, SHARDS_INDEX, read_json
from recap.storage import read_manifest
from recap.text import shorten

READ_BYTES = 1 << 26
"""The most that is read at once of a tensor in blocks, which bounds the memory of reading and consolidating."""
_MAX_INDEX_BYTES = 1 << 28
_ORDER = ("I64", "F64", "F32", "I32", "BF16", "F16")
"""The order of dtypes in a safetensors file: widest first."""

Size = Annotated[int, Field(ge=0, lt=1 << 62)]


class Block(BaseModel):
    """A box of a tensor, in a file."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    file: str
    """Path within the checkpoint."""
    key: str
    """Name in the file."""
    offsets: list[Size]
    """Where the box starts in the tensor, per dimension."""
    shape: list[Size]


class StoredTensor(BaseModel):
    """A tensor in blocks, which tile it."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    dtype: str
    """As safetensors names it, such as F32."""
    shape: list[Size]
    blocks: list[Block]

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype as torch's."""
        return DTYPES[self.dtype]

    def problem(self) -> str | None:
        """Why the blocks do not tile the tensor, None if they do."""
        if self.dtype not in DTYPES:
            return f"its dtype is {shorten(self.dtype)}"
        ends: list[list[int]] = []
        for block in self.blocks:
            if not len(block.offsets) == len(block.shape) == len(self.shape) > 0 or not all(block.shape):
                return f"block {shorten(block.key)} is not a box of it"
            ends.append([start + size for start, size in zip(block.offsets, block.shape, strict=True)])
            if any(end > size for end, size in zip(ends[-1], self.shape, strict=True)):
                return f"block {shorten(block.key)} exceeds its shape {self.shape}"
        if sum(math.prod(block.shape) for block in self.blocks) != math.prod(self.shape):
            return f"its blocks do not add up to its shape {self.shape}"
        open_: list[int] = []  # blocks that reach the first row of the current one
        for index in sorted(range(len(self.blocks)), key=lambda index: self.blocks[index].offsets):
            start = self.blocks[index].offsets
            open_ = [other for other in open_ if ends[other][0] > start[0]]
            for other in open_:
                if all(
                    s < other_end and other_start < e
                    for s, e, other_start, other_end in zip(
                        start, ends[index], self.blocks[other].offsets, ends[other], strict=True
                    )
                ):
                    return f"blocks {shorten(self.blocks[index].key)} and {shorten(self.blocks[other].key)} overlap"
            open_.append(index)
        return None


class _Index(RootModel[dict[str, dict[str, StoredTensor]]]):
    """The content of `index.json`."""


def read_index(folder: Path) -> dict[str, dict[str, StoredTensor]]:
    """Part → name → tensor in blocks of a verified checkpoint; empty for one that is whole. Raises CheckpointError."""
    listed = read_manifest(folder).files
    if SHARDS_INDEX not in listed:
        return {}
    file = folder / SHARDS_INDEX
    index = read_json(file, _Index, _MAX_INDEX_BYTES).root
    for part, tensors in index.items():
        for name, tensor in tensors.items():
            if (problem := tensor.problem()) is not None:
                raise CheckpointError(f"{file}: damaged ({shorten(part)}, {shorten(name)}: {problem})")
            for block in tensor.blocks:
                if block.file not in listed:
                    raise CheckpointError(f"{file}: names {shorten(block.file)}, which the manifest does not list")
    return index


def index_text(index: Mapping[str, Mapping[str, StoredTensor]]) -> str:
    """The content of `index.json`."""
    values = {part: {name: stored.model_dump() for name, stored in of.items()} for part, of in index.items()}
    return json.dumps(values) + "\n"


@dataclass(frozen=True)
class BlockFiles:
    """The open safetensors files of a checkpoint; close it with its `stack`."""

    folder: Path
    stack: ExitStack
    _open: dict[str, Any] = field(default_factory=dict)

    def whole(self, name: str) -> dict[str, StoredTensor]:
        """The tensors of a file in which each is whole. Raises CheckpointError."""
        with _reading(self.folder / name):
            file = self._file(name)
            slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118 - it is no mapping
            tensors = {}
            for key, part in slices.items():
                shape, dtype = part.get_shape(), part.get_dtype()
                block = Block(file=name, key=key, offsets=[0] * len(shape), shape=shape)
                tensors[key] = StoredTensor(dtype=dtype, shape=shape, blocks=[block])
        return tensors

    def read(self, stored: StoredTensor) -> Tensor:
        """A whole tensor. Raises CheckpointError."""
        tensor = torch.empty(stored.shape, dtype=stored.torch_dtype)
        if not stored.shape:
            (block,) = stored.blocks
            return tensor.copy_(self._slice(block, stored, ()))
        self.read_into(tensor, stored, [0] * len(stored.shape))
        return tensor

    def read_into(self, target: Tensor, stored: StoredTensor, offsets: Sequence[int]) -> None:
        """Fill `target` with the box of a tensor that starts at `offsets`, reading nothing else of it.

        Raises CheckpointError if a block is missing or has another shape or dtype than the index says.
        """
        for block in stored.blocks:
            starts = [max(pair) for pair in zip(offsets, block.offsets, strict=True)]
            ends = [
                min(offset + size, block_offset + block_size)
                for offset, size, block_offset, block_size in zip(
                    offsets, target.shape, block.offsets, block.shape, strict=True
                )
            ]
            shape = [end - start for start, end in zip(starts, ends, strict=True)]
            if any(size <= 0 for size in shape):
                continue
            for first, count in row_ranges(shape, target.element_size(), READ_BYTES):
                at, size = [starts[0] + first, *starts[1:]], [count, *shape[1:]]
                target[_box(at, offsets, size)].copy_(self._slice(block, stored, _box(at, block.offsets, size)))

    def _slice(self, block: Block, stored: StoredTensor, box: tuple[slice, ...]) -> Tensor:
        with _reading(self.folder / block.file):
            part = self._file(block.file).get_slice(block.key)
            if part.get_shape() != block.shape or part.get_dtype() != stored.dtype:
                raise CheckpointError(
                    f"{self.folder / block.file}: damaged ({shorten(block.key)} is {part.get_dtype()} "
                    f"{part.get_shape()}, expected {stored.dtype} {block.shape})"
                )
            return cast(Tensor, part[box or ...])

    def _file(self, name: str) -> Any:
        if name not in self._open:
            self._open[name] = self.stack.enter_context(safe_open(self.folder / name, "pt"))
        return self._open[name]


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    """Turn an error in reading `file` into a CheckpointError that names it."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file}: cannot be read ({error})") from None


def _box(starts: Iterable[int], offsets: Iterable[int], shape: Iterable[int]) -> tuple[slice, ...]:
    """The slices of a box at `starts` in a block at `offsets`, both positions in the whole tensor."""
    return tuple(
        slice(start - offset, start - offset + size) for start, offset, size in zip(starts, offsets, shape, strict=True)
    )


def row_ranges(shape: Sequence[int], element_size: int, limit: int) -> Iterator[tuple[int, int]]:
    """The first row and the number of rows of consecutive pieces of a tensor, each of at most `limit` bytes.

    A row is never divided.
    """
    step = max(limit // (math.prod(shape[1:]) * element_size or 1), 1)
    for first in range(0, shape[0], step):
        yield first, min(step, shape[0] - first)


def write_whole(file: Path, tensors: Mapping[str, Tensor | StoredTensor], blocks: BlockFiles) -> None:
    """Write a safetensors file of whole tensors, the same bytes as `save_file`, reading those in blocks bit by bit."""
    names = {dtype: name for name, dtype in DTYPES.items()}
    dtypes = {name: t.dtype if isinstance(t, StoredTensor) else names[t.dtype] for name, t in tensors.items()}
    header, end = dict[str, Any](), 0
    for name in sorted(tensors, key=lambda name: (_ORDER.index(dtypes[name]), name)):
        shape = list(tensors[name].shape)
        start, end = end, end + math.prod(shape) * DTYPES[dtypes[name]].itemsize
        header[name] = {"dtype": dtypes[name], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for name in header:
            tensor = tensors[name]
            if isinstance(tensor, Tensor) or not tensor.shape:
                whole = tensor if isinstance(tensor, Tensor) else blocks.read(tensor)
                _write_bytes(stream, whole.contiguous())
                continue
            dtype = tensor.torch_dtype
            for first, count in row_ranges(tensor.shape, dtype.itemsize, READ_BYTES):
                rows = torch.empty([count, *tensor.shape[1:]], dtype=dtype)
                blocks.read_into(rows, tensor, [first] + [0] * (len(tensor.shape) - 1))
                _write_bytes(stream, rows)


def _write_bytes(stream: IO[bytes], tensor: Tensor) -> None:
    stream.write(tensor.reshape(-1).view(torch.uint8).numpy().data)
