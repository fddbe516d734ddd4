"""Caches block indexes on disk between runs, one small file each in the user's cache folder."""

import json
import os
from collections.abc import Callable
from dataclasses import astuple
from hashlib import sha256
from pathlib import Path
from typing import Any

from recap.data.formats import blocks
from recap.data.formats.blocks import Block, BlockIndex
from recap.storage import atomic_write


def cached_index(file: str, stamp: tuple[int, int], kind: str, find: Callable[[], BlockIndex]) -> BlockIndex:
    """The block index of a file with this `stamp`, from the cache or computed by `find` and then cached.

    `kind`: how the file is divided into blocks. A cache that cannot be read or written is ignored. The cache holds a
    hash in place of the name of the file, since a URL may hold a password or a signature.
    """
    name = file if "://" in file else os.path.abspath(file)
    key = sha256(json.dumps([name, *stamp, kind, blocks.BLOCK_BYTES]).encode()).hexdigest()
    path = _folder() / f"{key[:32]}.json"
    index = _load(path, key)
    if index is None:
        index = find()
        _store(path, {"about": key, "blocks": [astuple(block) for block in index.blocks], "torn": index.torn})
    return index


def _folder() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(home, "recap", "blocks")


def _load(path: Path, key: str) -> BlockIndex | None:
    """The index in a cache file; None if the file is missing, invalid or of another key."""
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
        index = BlockIndex(tuple(Block(*block) for block in entry["blocks"]), entry["torn"])
        if entry["about"] != key or not (index.torn is None or isinstance(index.torn, str)):
            return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    end = index.blocks[0].offset if index.blocks else 0
    row = 0
    for block in index.blocks:
        numbers = astuple(block)
        if any(type(number) is not int or number < 0 for number in numbers) or block.rows == 0:
            return None
        if (block.offset, block.first_row) != (end, row):
            return None
        end, row = block.offset + block.length, row + block.rows
    return index


def _store(path: Path, entry: dict[str, Any]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(entry), encoding="utf-8")
    except OSError:
        return
