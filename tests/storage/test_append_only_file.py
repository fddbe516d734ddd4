"""Append-only files."""

import subprocess
import sys
from pathlib import Path

from recap.storage import AppendOnlyFile

SCRIPT = """
import resource, sys
from pathlib import Path
from recap.storage import AppendOnlyFile

resource.setrlimit(resource.RLIMIT_FSIZE, (100, -1))
file = AppendOnlyFile(Path(sys.argv[1]))
file.append(b"x" * 60)
try:
    file.append(b"y" * 60)
except OSError as error:
    print(error.strerror)
file.append(b"z" * 40)
"""


def test_data_that_does_not_fit_the_disk_is_not_written_at_all(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT, tmp_path / "file"], capture_output=True, text=True)
    assert done.stdout == "No space left on device\n", done.stderr
    assert (tmp_path / "file").read_bytes() == b"x" * 60 + b"z" * 40


def test_a_file_has_one_header_and_a_recreated_file_has_it_again(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "file"
    path.parent.mkdir()
    file = AppendOnlyFile(path, b"head ")
    assert path.read_bytes() == b""
    file.append(b"one ")
    file.append(b"two")
    assert path.read_bytes() == b"head one two"
    path.unlink()
    path.parent.rmdir()
    file.append(b"three")
    assert path.read_bytes() == b"head three"
    file.close()
    again = AppendOnlyFile(path, b"head ")
    again.append(b" four")
    again.close()
    assert path.read_bytes() == b"head three four"
