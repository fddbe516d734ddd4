from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from recap.errors import CheckpointError, RunError
from recap.storage import (
    MANIFEST,
    atomic_directory,
    atomic_write,
    clear_leftovers,
    remove_directory,
    replace_text,
    set_aside,
    verify,
)


def write(path: Path) -> Path:
    with atomic_directory(path) as folder:
        (folder / "weights").write_bytes(b"\x00" * 100)
        (folder / "below").mkdir()
        (folder / "below" / "words").write_text("a b c")
    return path


def test_a_written_directory_verifies(tmp_path: Path) -> None:
    verify(write(tmp_path / "model"))
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_whoever_may_read_the_manifest_may_read_the_weights(tmp_path: Path) -> None:
    with atomic_directory(tmp_path / "model") as folder:
        save_file({"weight": torch.zeros(1)}, folder / "weights.safetensors")
    modes = {file.name: file.stat().st_mode for file in (tmp_path / "model").iterdir()}
    assert modes["weights.safetensors"] == modes["manifest.json"]


def test_a_failed_write_leaves_the_old_directory_alone(tmp_path: Path) -> None:
    before = write(tmp_path / "model")

    def fail() -> None:
        with atomic_directory(before) as folder:
            (folder / "weights").write_bytes(b"half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    verify(before)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_the_next_write_deletes_the_leftovers_of_a_killed_one(tmp_path: Path) -> None:
    leftover = tmp_path / "model.unfinished"
    leftover.mkdir()
    (leftover / "half").write_text("x")
    verify(write(tmp_path / "model"))
    assert not leftover.exists()


def test_damaged_truncated_and_missing_files_are_refused_by_name(tmp_path: Path) -> None:
    path = write(tmp_path / "model")
    file = path / "below" / "words"
    for damage in (lambda: file.write_text("a b d"), lambda: file.write_text("a b"), file.unlink):
        damage()
        with pytest.raises(CheckpointError, match=r"below/words: (damaged|missing)"):
            verify(path)


def test_a_folder_without_a_valid_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"no {MANIFEST}, so this is not a model"):
        verify(tmp_path)
    (tmp_path / MANIFEST).write_text("{")
    with pytest.raises(CheckpointError, match="damaged"):
        verify(tmp_path)


def test_a_directory_is_replaced_by_a_complete_one(tmp_path: Path) -> None:
    path = write(tmp_path / "model")
    with atomic_directory(path) as folder:
        (folder / "other").write_text("x")
    verify(path)
    assert (path / "other").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("killed", ["before", "between", "after"])
def test_a_kill_during_a_replacement_leaves_a_complete_directory(tmp_path: Path, killed: str) -> None:
    """`between`: after the first of the two renames."""
    path = write(tmp_path / "model")
    write(tmp_path / "new").rename(tmp_path / "model.unfinished")
    if killed != "before":
        path.rename(tmp_path / "model.replaced")
    if killed == "after":
        (tmp_path / "model.unfinished").rename(path)
    clear_leftovers(tmp_path)
    verify(path)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_damaged_directories_get_new_names_and_removed_ones_disappear(tmp_path: Path) -> None:
    for _ in range(2):
        set_aside(write(tmp_path / "model"))
    remove_directory(write(tmp_path / "model"))
    clear_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.damaged", "model.damaged-2"]


def test_a_text_file_that_cannot_be_replaced_is_unchanged_and_named(tmp_path: Path) -> None:
    replace_text(tmp_path / "text", "old")
    (tmp_path / "text.unfinished").mkdir()
    with pytest.raises(RunError, match=r"/text: cannot be written \(Is a directory\)"):
        replace_text(tmp_path / "text", "new")
    assert (tmp_path / "text").read_text() == "old"


def test_an_atomic_write_replaces_the_file_only_on_success(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    with atomic_write(file) as temporary:
        temporary.write_text("old")
        assert temporary.parent == tmp_path
        assert not file.exists()

    def fail() -> None:
        with atomic_write(file) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]
    with atomic_write(file) as temporary:
        temporary.write_text("new")
    assert file.read_text() == "new"
    assert list(tmp_path.iterdir()) == [file]


def test_an_atomic_write_raises_an_oserror_unchanged(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "absent" / "file") as temporary:
        temporary.write_text("x")
    assert not list(tmp_path.iterdir())
