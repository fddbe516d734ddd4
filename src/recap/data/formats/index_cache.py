"""What one pass over a file found, remembered on disk between runs: a small file each in the user's cache folder."""

import json
import os
from collections.abc import Callable
from dataclasses import astuple
from hashlib import sha256
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from recap.data.formats import blocks
from recap.data.formats.blocks import Block, Cut


def remembered(file: str, stamp: tuple[int, int], kind: str, find: Callable[[], Cut]) -> Cut:
    """The blocks of a file of `stamp`, cut in a way that `kind` names: as they were found before, or `find` them.

    A memory that cannot be read or written is done without.
    """
    name = file if "://" in file else os.path.abspath(file)
    about = [name, *stamp, kind, blocks.BLOCK_BYTES]
    path = _folder() / f"{sha256(json.dumps(about).encode()).hexdigest()[:32]}.json"
    cut = _recall(path, about)
    if cut is None:
        cut = find()
        _keep(path, {"about": about, "blocks": [astuple(block) for block in cut.blocks], "torn": cut.torn})
    return cut


def _folder() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(home, "recap", "blocks")


def _recall(path: Path, about: list[Any]) -> Cut | None:
    """What a file of the memory says, if it is `about` this and could have been found."""
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        found = tuple(Block(*block) for block in said["blocks"])
        torn = said["torn"]
        if said["about"] != about or not (torn is None or isinstance(torn, str)):
            return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    end = found[0].offset if found else 0
    row = 0
    for block in found:
        numbers = astuple(block)
        if any(type(number) is not int or number < 0 for number in numbers) or block.rows == 0:
            return None
        if (block.offset, block.first_row) != (end, row):
            return None
        end, row = block.offset + block.length, row + block.rows
    return Cut(found, torn)


def _keep(path: Path, said: dict[str, Any]) -> None:
    """Written beside its place and renamed: another run sees all of it or nothing."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile("w", dir=path.parent, suffix=".unfinished", delete=False, encoding="utf-8") as stream:
            json.dump(said, stream)
        os.replace(stream.name, path)
    except OSError:
        return
