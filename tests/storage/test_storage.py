from pathlib import Path

import pytest

from recap.errors import CheckpointError, RunError
from recap.storage import (
    MANIFEST,
    atomic_write,
    clear_leftovers,
    remove_directory,
    replace_text,
    set_aside,
    verify,
    whole_directory,
)


def write(path: Path) -> Path:
    with whole_directory(path) as folder:
        (folder / "weights").write_bytes(b"\x00" * 100)
        (folder / "below").mkdir()
        (folder / "below" / "words").write_text("a b c")
    return path


def test_a_written_directory_verifies(tmp_path: Path) -> None:
    verify(write(tmp_path / "model"))
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_writer_that_fails_leaves_nothing_and_what_was_there_stays(tmp_path: Path) -> None:
    before = write(tmp_path / "model")

    def fail() -> None:
        with whole_directory(before) as folder:
            (folder / "weights").write_bytes(b"half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    verify(before)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_what_a_killed_writer_left_is_cleared_by_the_next(tmp_path: Path) -> None:
    leftover = tmp_path / "model.unfinished"
    leftover.mkdir()
    (leftover / "half").write_text("x")
    verify(write(tmp_path / "model"))
    assert not leftover.exists()


def test_a_flipped_byte_a_missing_file_and_a_cut_one_are_refused_by_name(tmp_path: Path) -> None:
    path = write(tmp_path / "model")
    file = path / "below" / "words"
    for damage in (lambda: file.write_text("a b d"), lambda: file.write_text("a b"), file.unlink):
        damage()
        with pytest.raises(CheckpointError, match=r"below/words: (damaged|missing)"):
            verify(path)


def test_a_folder_that_is_no_model_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"no {MANIFEST}, so this is not a model"):
        verify(tmp_path)
    (tmp_path / MANIFEST).write_text("{")
    with pytest.raises(CheckpointError, match="damaged"):
        verify(tmp_path)


def test_a_directory_is_replaced_by_a_whole_one(tmp_path: Path) -> None:
    path = write(tmp_path / "model")
    with whole_directory(path) as folder:
        (folder / "other").write_text("x")
    verify(path)
    assert (path / "other").exists()
    assert [each.name for each in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("killed", ["before", "between", "after"])
def test_killed_while_one_replaces_another_there_is_a_whole_one_after_clearing(tmp_path: Path, killed: str) -> None:
    """`between`: after the first of the two renames."""
    path = write(tmp_path / "model")
    write(tmp_path / "new").rename(tmp_path / "model.unfinished")
    if killed != "before":
        path.rename(tmp_path / "model.replaced")
    if killed == "after":
        (tmp_path / "model.unfinished").rename(path)
    clear_leftovers(tmp_path)
    verify(path)
    assert [each.name for each in tmp_path.iterdir()] == ["model"]


def test_what_is_removed_leaves_its_place_first_and_what_is_damaged_is_kept_beside_it(tmp_path: Path) -> None:
    for _ in range(2):
        set_aside(write(tmp_path / "model"))
    remove_directory(write(tmp_path / "model"))
    clear_leftovers(tmp_path)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["model.damaged", "model.damaged-2"]


def test_a_text_that_cannot_be_written_leaves_the_old_one_and_names_the_file(tmp_path: Path) -> None:
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


def test_an_atomic_write_that_wrote_nothing_raises_its_oserror_unchanged(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "absent" / "file") as temporary:
        temporary.write_text("x")
    assert not list(tmp_path.iterdir())
