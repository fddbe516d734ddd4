"""Checkpoints of sharded tables: each rank copies and writes its part with torch.distributed.checkpoint.

A gloo group of its own carries the collectives of writing, which run in the writer's thread while training uses the
others. Ranks exchange plans and errors there as serialized Python objects; files hold tensors and JSON alone.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.distributed._shard.sharded_tensor.api import ShardedTensor

from recap.distributed import Ranks
from recap.errors import CheckpointError, LostRank, RunError
from recap.model.directory import DTYPES, SHARDS
from recap.storage import atomic_directory, failure
from recap.training.sharded_tables.shards import Block, BlockFiles, StoredTensor, row_ranges

PIECE_BYTES = 1 << 30
"""A shard is stored in pieces of at most this many bytes, each in a file of its own if they are that large: the writer
of torch.distributed.checkpoint holds a file in memory."""
_TIMEOUT = timedelta(days=1)
"""How long a rank waits for the slowest to write. A rank that dies is noticed immediately, one that hangs by training.
"""


def is_sharded(value: object) -> bool:
    """Whether a value of a state is a tensor of which each rank holds a part."""
    return isinstance(value, ShardedTensor)


def without_values(tensor: ShardedTensor) -> Tensor:
    """A tensor of the shape and dtype of a sharded one, which takes no memory."""
    metadata = tensor.metadata()
    return torch.empty(metadata.size, dtype=metadata.tensor_properties.dtype, device="meta")


def fill_shards(tensor: ShardedTensor, stored: StoredTensor, files: BlockFiles, what: str) -> None:
    """Copy the stored values into the shards of this rank, and read no others.

    Raises CheckpointError, which starts with `what`, if shapes or dtypes differ.
    """
    metadata = tensor.metadata()
    shape, dtype = list(metadata.size), metadata.tensor_properties.dtype
    if stored.shape != shape or stored.torch_dtype is not dtype:
        raise CheckpointError(
            f"{what} belongs to another model: it is {stored.dtype} {stored.shape}, this model needs {dtype} {shape}"
        )
    for shard in tensor.local_shards():
        files.read_into(shard.tensor.detach(), stored, shard.metadata.shard_offsets)


@dataclass(frozen=True)
class Shards:
    """The sharded tensors of a state."""

    local: Mapping[str, Tensor]
    """Key → the pieces that this rank holds, views of the live tensors."""
    index: Mapping[str, Mapping[str, StoredTensor]]
    """Part → name → shape and pieces on all ranks, without their files."""
    files: Mapping[str, int]
    """Key → the number of the file, counted from 1 on each rank."""
    holders: Mapping[str, int]
    """Key → the rank that holds the piece."""

    @classmethod
    def of(cls, state: Mapping[str, Mapping[str, Any]]) -> "Shards":
        """The sharded tensors of a state: part → name → value."""
        local, files, holders = dict[str, Tensor](), dict[str, int](), dict[str, int]()
        index = dict[str, dict[str, StoredTensor]]()
        written = dict[int, int]()  # rank → bytes
        names = {dtype: name for name, dtype in DTYPES.items()}
        for part, values in state.items():
            for name, tensor in values.items():
                if not isinstance(tensor, ShardedTensor):
                    continue
                blocks, metadata = list[Block](), tensor.metadata()
                element_size = metadata.tensor_properties.dtype.itemsize
                for shard in metadata.shards_metadata:
                    rank = (shard.placement.rank() if shard.placement is not None else None) or 0
                    for offsets, shape in _pieces(shard.shard_offsets, shard.shard_sizes, element_size):
                        key = _key(part, name, offsets)
                        blocks.append(Block(file="", key=key, offsets=offsets, shape=shape))
                        holders[key] = rank
                        files[key] = written.get(rank, 0) // PIECE_BYTES + 1
                        written[rank] = written.get(rank, 0) + torch.Size(shape).numel() * element_size
                for held in tensor.local_shards():
                    start = held.metadata.shard_offsets
                    for offsets, shape in _pieces(start, held.metadata.shard_sizes, element_size):
                        first = offsets[0] - start[0]
                        local[_key(part, name, offsets)] = held.tensor.detach()[first : first + shape[0]]
                dtype = names[metadata.tensor_properties.dtype]
                index.setdefault(part, {})[name] = StoredTensor(dtype=dtype, shape=list(metadata.size), blocks=blocks)
        return cls(local, index, files, holders)

    def located(self, folder: Path) -> dict[str, dict[str, StoredTensor]]:
        """The index with the files in `folder`, a checkpoint. Raises RunError if a rank's pieces are not there."""
        files = dict[str, str]()
        for file in sorted((folder / SHARDS).glob("*.safetensors")):
            try:
                with safe_open(file, "pt") as content:
                    files |= dict.fromkeys(content.keys(), f"{SHARDS}/{file.name}")
            except (OSError, SafetensorError) as error:
                raise RunError(f"{file}: cannot be read ({error})") from None
        missing = sorted({self.holders[key] for key in self.holders.keys() - files.keys()})
        if missing:
            raise RunError(_not_shared(folder, ", ".join(map(str, missing))))
        return {
            part: {
                name: stored.model_copy(
                    update={"blocks": [block.model_copy(update={"file": files[block.key]}) for block in stored.blocks]}
                )
                for name, stored in tensors.items()
            }
            for part, tensors in self.index.items()
        }


def _pieces(offsets: list[int], shape: list[int], element_size: int) -> Iterator[tuple[list[int], list[int]]]:
    """Offsets and shapes of the pieces of a shard; none of one without elements."""
    if torch.Size(shape).numel():
        for first, count in row_ranges(shape, element_size, PIECE_BYTES):
            yield [offsets[0] + first, *offsets[1:]], [count, *shape[1:]]


def _key(part: str, name: str, offsets: list[int]) -> str:
    """The name of a piece in its file: unique, since a file of torch.distributed.checkpoint holds a name once."""
    return f"{part}/{name}@{','.join(map(str, offsets))}"


def _not_shared(folder: Path, ranks: str) -> str:
    return (
        f"{folder}: rank 0 and rank {ranks} do not see the same folder; training.save_dir must be in a folder that all "
        "machines of the run share"
    )


class JointWriter:
    """The ranks of a run, which write a checkpoint together. All create it, and call its methods, in the same order."""

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        self.group = dist.new_group(backend="gloo", timeout=_TIMEOUT)

    def close(self) -> None:
        """Leave the group."""
        dist.destroy_process_group(self.group)

    @contextmanager
    def directory(self, path: Path) -> Iterator[Path]:
        """As `atomic_directory`, which rank 0 makes; the block of every rank gets the temporary folder.

        After the block all ranks wait until the directory is complete. Raises RunError on all ranks if any fails, and
        LostRank.
        """
        create = self._create if self.ranks.is_first else self._join
        with create(path) as folder:
            yield folder

    @contextmanager
    def _create(self, path: Path) -> Iterator[Path]:
        try:
            with atomic_directory(path) as folder:
                self._share({"folder": str(folder)})
                yield folder
        except LostRank:
            raise
        except Exception as error:
            self._share({"error": str(error)})
            raise
        self._share({})

    @contextmanager
    def _join(self, path: Path) -> Iterator[Path]:
        begun = self._share({})
        if "error" in begun:
            raise RunError(begun["error"])
        failed: RunError | None = None
        try:
            yield Path(begun["folder"])
        except LostRank:
            raise
        except RunError as error:
            failed = error
        ended = self._share({})
        if "error" in ended or failed is not None:
            raise RunError(ended.get("error", str(failed)))

    def _share(self, message: dict[str, str]) -> dict[str, str]:
        """The message of rank 0, on all ranks. Raises LostRank."""
        texts = [json.dumps(message)]
        with _lost_rank():
            dist.broadcast_object_list(texts, src=0, group=self.group)
        content: dict[str, str] = json.loads(texts[0])
        return content

    def write(self, folder: Path, shards: Shards, copies: Mapping[str, Tensor]) -> None:
        """Write the pieces of all ranks into a checkpoint; `copies`: this rank's, by key, contiguous, on the CPU.

        Raises RunError on all ranks if any fails, and LostRank.
        """
        # Importing these takes seconds.
        from torch.distributed.checkpoint.api import CheckpointException
        from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
        from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
        from torch.distributed.checkpoint.state_dict_saver import save

        seen = [False] * self.ranks.world_size
        with _lost_rank():
            dist.all_gather_object(seen, folder.is_dir(), group=self.group)  # torch would create the folder
        if not all(seen):
            raise RunError(_not_shared(folder, str(seen.index(False))))
        writer = HuggingFaceStorageWriter(str(folder / SHARDS), dict(shards.files), save_distributed=True)
        planner = DefaultSavePlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
        try:
            with _lost_rank():
                save(dict(copies), storage_writer=writer, planner=planner, process_group=self.group)
        except CheckpointException as error:
            rank, (cause, _) = min(error.failures.items())
            reason = failure(cause) if isinstance(cause, Exception) else str(cause)
            raise RunError(f"{folder / SHARDS}: rank {rank} cannot write its part of the tables ({reason})") from None


@contextmanager
def _lost_rank() -> Iterator[None]:
    """Turn the RuntimeError of a collective into LostRank."""
    try:
        yield
    except RuntimeError as error:
        raise LostRank(
            f"another process of this run ended or hangs ({str(error).strip().partition(chr(10))[0]}). To resume from "
            "the last checkpoint, run the same command again"
        ) from None
