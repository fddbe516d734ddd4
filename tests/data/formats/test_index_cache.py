"""What was found of a file is believed for that file as it was, and for nothing else."""

import json
from pathlib import Path

import pytest

from recap.data.formats.blocks import Block, Cut
from recap.data.formats.index_cache import remembered

CUT = Cut((Block(4, 10, 2, 0), Block(14, 6, 3, 2)), "torn")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the memory is, yet empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "recap" / "blocks"


def never() -> Cut:
    raise AssertionError("looked for again")


def test_what_was_found_is_found_once(cache: Path) -> None:
    assert remembered("x", (1, 2), "lines", lambda: CUT) == CUT
    assert remembered("x", (1, 2), "lines", never) == CUT
    assert [file.suffix for file in cache.iterdir()] == [".json"]


def test_another_file_time_size_or_kind_is_looked_at_again(cache: Path) -> None:
    remembered("x", (1, 2), "lines", lambda: CUT)
    others = [("y", (1, 2), "lines"), ("x", (2, 2), "lines"), ("x", (1, 3), "lines"), ("x", (1, 2), "records")]
    for file, stamp, kind in others:
        with pytest.raises(AssertionError, match="looked for again"):
            remembered(file, stamp, kind, never)


@pytest.mark.parametrize(
    "said",
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
def test_nonsense_is_done_without(said: object, cache: Path) -> None:
    remembered("x", (1, 2), "lines", lambda: CUT)
    (file,) = cache.iterdir()
    file.write_text(said if isinstance(said, str) else json.dumps(json.loads(file.read_text()) | said))
    again = Cut((Block(0, 1, 1, 0),))
    assert remembered("x", (1, 2), "lines", lambda: again) == again
    assert remembered("x", (1, 2), "lines", never) == again


def test_where_nothing_can_be_written_nothing_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert remembered("x", (1, 2), "lines", lambda: CUT) == CUT
