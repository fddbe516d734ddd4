"""`recap data`, run as a command."""

import json
from pathlib import Path
from subprocess import CompletedProcess

import pyarrow.parquet as pq
import pytest
from processes import run_recap
from support import write_feed

VALID = Path(__file__).parents[1] / "config" / "valid"


def run(folder: Path, *arguments: str) -> CompletedProcess[str]:
    done = run_recap(*arguments, folder=folder)
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_feed(tmp_path_factory.mktemp("feed"))


def test_converting_back_and_forth_gives_the_same_rows(folder: Path) -> None:
    forth = run(folder, "data", "convert", "train/*.parquet", "--to", "tfrecord", "--output", "records")
    assert (forth.returncode, forth.stdout.splitlines()[-1]) == (0, "written: 3 files in records")
    again = run(folder, "data", "convert", "train/*.parquet", "--to", "tfrecord", "--output", "records")
    assert again.stdout.splitlines()[-1] == "written: 0 files in records; 3 files already exist"
    back = ["data", "convert", "records/*.gz", "--schema", "records/schema.json", "--output", "back"]
    assert run(folder, *back).returncode == 0
    before, after = pq.read_table(folder / "train"), pq.read_table(folder / "back")
    assert after.column("post_id").to_pylist() == before.column("post_id").to_pylist()
    assert after.column("followers").to_pylist() == before.column("followers").to_pylist()


def test_convert_packs_lists_of_parquet_only(folder: Path) -> None:
    packed = run(folder, "data", "convert", "train/*.parquet", "--pack", "--output", "packed")
    assert (packed.returncode, packed.stdout.splitlines()[-1]) == (0, "written: 3 files in packed")
    other = run(folder, "data", "convert", "train/*.parquet", "--to", "arrow", "--pack", "--output", "out")
    assert (other.returncode, other.stderr) == (
        2,
        "--pack: only works with --to parquet, found --to arrow; leave out --pack\n",
    )


def test_convert_refuses_unknown_formats_and_missing_files(folder: Path) -> None:
    unknown = run(folder, "data", "convert", "train/*.parquet", "--to", "parqet", "--output", "out")
    assert unknown.returncode == 2
    assert unknown.stderr.startswith("--to: unknown format 'parqet'. Known: ")
    assert unknown.stderr.endswith("Did you mean 'parquet'?\n")
    assert run(folder, "data", "convert", "nowhere/*", "--output", "out").returncode == 2
    (folder / "x.tfrecord").write_bytes(b"")
    schemaless = run(folder, "data", "convert", "x.tfrecord", "--output", "out")
    assert "TFRecord needs a JSON file that lists the columns; add --schema FILE" in schemaless.stderr


def test_inspect_prints_a_table_or_json(folder: Path) -> None:
    table = run(folder, "data", "inspect", "train/*.parquet").stdout
    assert "600 rows of Parquet in 3 files" in table
    assert any(line.split()[:2] == ["like", "int8"] and line.rstrip().endswith("%)") for line in table.splitlines())
    content = json.loads(run(folder, "data", "inspect", "train/*.parquet", "--json").stdout)
    assert (content["rows"], len(content["columns"])) == (600, 12)


def test_vocabulary_writes_a_parquet_file_for_each_column_and_replaces_none(folder: Path) -> None:
    command = ["data", "vocabulary", "train/*.parquet", "--column", "language", "--min-count", "2", "--output"]
    made = run(folder, *command, "words.parquet")
    assert made.stdout.splitlines()[-1] == "written: words.parquet, 4 values; a 'vocabulary' for column 'language'"
    again = run(folder, *command, "words.parquet")
    assert again.stderr == "--output: words.parquet already exists; add --overwrite to replace it\n"
    text = run(folder, *command, "words.csv")
    assert text.stderr == "--output: words.csv would be a Parquet file; name it words.parquet\n"
    assert (text.returncode, (folder / "words.csv").exists()) == (2, False)
    assert run(folder, *command, "made", "--column", "like").returncode == 0
    assert sorted(file.name for file in (folder / "made").iterdir()) == ["language.parquet", "like.parquet"]


def test_analysis_writes_a_file_that_z_score_log_reads(folder: Path) -> None:
    lines = (VALID / "inputs.yaml").read_text().replace("analysis.parquet", "made.parquet")
    (folder / "inputs.yaml").write_text(lines)
    made = run(folder, "data", "analysis", "inputs.yaml", "--output", "made.parquet")
    assert made.stdout.splitlines()[-1] == (
        "written: made.parquet, 2 values; for model.featurization.analysis of z_score_log"
    )
    assert pq.read_table(folder / "made.parquet").column("name").to_pylist() == ["age", "followers"]
    assert run(folder, "config", "check", "inputs.yaml", "--data").returncode == 0
    again = run(folder, "data", "analysis", "inputs.yaml", "--output", "made.parquet")
    assert again.stderr == "--output: made.parquet already exists; add --overwrite to replace it\n"
    (folder / "made.parquet").unlink()
    assert (
        "analysis of continuous values: no such file" in run(folder, "config", "check", "inputs.yaml", "--data").stderr
    )
