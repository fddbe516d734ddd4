"""A command never writes over a file that it reads, whatever the file is called."""

from pathlib import Path

import pytest
import yaml
from support import feed_values, write_feed
from typer.testing import CliRunner

from recap.cli.main import app
from recap.errors import InputError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_feed(tmp_path_factory.mktemp("feed"))
    (folder / "ranker.yaml").write_text(yaml.safe_dump(feed_values(folder, folder / "run")))
    return folder


@pytest.mark.parametrize(
    ("command", "file"),
    [
        (["data", "vocabulary", "train/*.parquet", "--column=language"], "train/part-0.parquet"),
        (["data", "analysis", "ranker.yaml"], "train/part-1.parquet"),
        (["data", "analysis", "ranker.yaml"], "ranker.yaml"),
        (["config", "new", "--from-data", "train/part-0.parquet"], "train/part-0.parquet"),
    ],
)
@pytest.mark.parametrize("linked", [False, True])
def test_an_input_is_never_replaced(
    folder: Path, command: list[str], file: str, linked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    before, output = (folder / file).read_bytes(), Path(file)
    if linked:
        output = Path(f"link-{command[1]}-{output.name}")
        output.symlink_to(file)
    done = CliRunner().invoke(app, [*command, f"--output={output}", "--overwrite"])
    assert isinstance(done.exception, InputError), done.output
    assert "would be overwritten by its own output; choose another --output" in str(done.exception)
    assert (folder / file).read_bytes() == before


@pytest.mark.parametrize(
    "command",
    [
        ["config", "new"],
        ["data", "simulate"],
        ["data", "convert", "train/part-0.parquet"],
        ["data", "vocabulary", "train/part-0.parquet", "--column=language"],
        ["model", "import", "ranker.yaml", "weights.pt"],
    ],
)
def test_a_url_is_refused_as_output(folder: Path, command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    done = CliRunner().invoke(app, [*command, "--output=s3://bucket/new.parquet"])
    assert isinstance(done.exception, InputError), done.output
    assert "new.parquet is a URL; write to a local folder" in str(done.exception)
    assert not (folder / "s3:").exists()
