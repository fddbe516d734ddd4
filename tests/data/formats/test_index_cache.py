"""A cached index is used for the same file, unchanged, and for nothing else."""

import json
from pathlib import Path

import pytest

from recap.data.formats.blocks import Block, BlockIndex
from recap.data.formats.index_cache import cached_index

INDEX = BlockIndex((Block(4, 10, 2, 0), Block(14, 6, 3, 2)), "torn")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the cache, empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "recap" / "blocks"


def never() -> BlockIndex:
    raise AssertionError("computed again")


def test_a_cached_index_is_not_computed_again(cache: Path) -> None:
    assert cached_index("x", (1, 2), "lines", lambda: INDEX) == INDEX
    assert cached_index("x", (1, 2), "lines", never) == INDEX
    assert [file.suffix for file in cache.iterdir()] == [".json"]


def test_the_cache_holds_no_name_of_a_file(cache: Path) -> None:
    cached_index("https://someone:password@host/x.csv?signature=secret", (1, 2), "lines", lambda: INDEX)
    (file,) = cache.iterdir()
    assert not any(word in file.name + file.read_text() for word in ("someone", "password", "host", "x.csv", "secret"))


def test_another_file_time_size_or_kind_is_computed_again(cache: Path) -> None:
    cached_index("x", (1, 2), "lines", lambda: INDEX)
    others = [("y", (1, 2), "lines"), ("x", (2, 2), "lines"), ("x", (1, 3), "lines"), ("x", (1, 2), "records")]
    for file, stamp, kind in others:
        with pytest.raises(AssertionError, match="computed again"):
            cached_index(file, stamp, kind, never)


@pytest.mark.parametrize(
    "entry",
    [
        "",
        "[" * 100_000,
        "{}",
        {"about": None},
        {"blocks": [[4, 10, 2, 0], [15, 6, 3, 2]]},
        {"blocks": [[4, 10, 2, 0], [14, 6, 3, 1]]},
        {"blocks": [[4, 10, -2, 0]]},
        {"blocks": [[4, 10, 2.5, 0]]},
        {"blocks": [[4, 10]]},
        {"blocks": [["4", 10, 2, 0]]},
        {"blocks": 3},
        {"torn": 3},
    ],
)
def test_an_invalid_cache_file_is_replaced(entry: object, cache: Path) -> None:
    cached_index("x", (1, 2), "lines", lambda: INDEX)
    (file,) = cache.iterdir()
    file.write_text(entry if isinstance(entry, str) else json.dumps(json.loads(file.read_text()) | entry))
    again = BlockIndex((Block(0, 1, 1, 0),))
    assert cached_index("x", (1, 2), "lines", lambda: again) == again
    assert cached_index("x", (1, 2), "lines", never) == again


def test_a_cache_that_cannot_be_written_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert cached_index("x", (1, 2), "lines", lambda: INDEX) == INDEX
