"""Block indexes cached on disk between runs, each in a small file of the user's cache folder."""

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
    """The block index of a file with this `stamp`: from the cache, or from `find`, whose result is cached.

    `kind` names the way the file is divided. A cache that cannot be read or written is ignored.
    """
    name = file if "://" in file else os.path.abspath(file)
    about = [name, *stamp, kind, blocks.BLOCK_BYTES]
    path = _folder() / f"{sha256(json.dumps(about).encode()).hexdigest()[:32]}.json"
    index = _load(path, about)
    if index is None:
        index = find()
        _store(path, {"about": about, "blocks": [astuple(block) for block in index.blocks], "torn": index.torn})
    return index


def _folder() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(home, "recap", "blocks")


def _load(path: Path, about: list[Any]) -> BlockIndex | None:
    """The index in a cache file, if it is `about` this and consistent."""
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
        index = BlockIndex(tuple(Block(*block) for block in entry["blocks"]), entry["torn"])
        if entry["about"] != about or not (index.torn is None or isinstance(index.torn, str)):
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
