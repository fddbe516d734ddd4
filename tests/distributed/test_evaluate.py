"""Ranks under torchrun share the rows of an evaluation and of a calibration; the results are those of one process."""

import itertools
import subprocess
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from distributed.evaluations import arguments, config_in, evaluate_all
from distributed.test_ranks import ALL, LAUNCH
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from support import Recorder, feed_table, write_feed
from typer.testing import CliRunner

from recap.cli.main import app
from recap.data.stream import parts as module
from recap.data.stream.parts import plan_parts
from recap.distributed import ONE_RANK
from recap.training.trainer import train


@given(
    chunks=st.lists(st.integers(1, 400), min_size=1, max_size=40),
    begin=st.floats(0, 1),
    end=st.floats(0, 1),
    world_size=st.integers(1, 7),
    part_rows=st.integers(1, 500),
)
def test_the_parts_of_ranks_are_all_rows_in_order(
    chunks: list[int], begin: float, end: float, world_size: int, part_rows: int
) -> None:
    first, last = int(begin * sum(chunks)), int(end * sum(chunks))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PART_ROWS", part_rows)
        rounds = plan_parts(chunks, first, last, world_size)
    assert [row for parts in rounds for part in parts for row in part] == list(range(first, last))
    assert all(len(parts) == world_size for parts in rounds)
    assert all(len(part) <= 2 * (part_rows + max(chunks)) for parts in rounds for part in parts)
    ends = {0, *itertools.accumulate(chunks)}
    assert all(part.stop in ends for parts in rounds[:-1] for part in parts), "only the last round divides chunks"


def write_sets(folder: Path) -> None:
    """Validation sets of many chunks, of a single chunk, and with bad rows, some of them at the ends of parts."""
    for name, files, rows, group in (("many", 2, 1300, 70), ("whole", 1, 450, 450), ("bad", 3, 200, 60)):
        (folder / name).mkdir()
        for number in range(files):
            table = feed_table(rows, seed=10 + number)
            table = table.append_column("request", pa.array([row // 8 for row in range(rows)]))
            if name == "bad" and number < 2:
                values = [9.0 if row in (0, 60, 61, 199) else 1.0 for row in range(rows)]
                table = table.set_column(5, "in_network", pa.array(values))
            pq.write_table(table, folder / name / f"{number}.parquet", row_group_size=group)
    for file in (folder / "train").iterdir():
        table = pq.read_table(file)
        pq.write_table(table.append_column("request", pa.array(range(len(table)))), file, row_group_size=70)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with its data."""
    folder = tmp_path_factory.mktemp("evaluations")
    write_sets(write_feed(folder))
    train(config_in(folder), Recorder())
    return folder


def contents(folder: Path) -> dict[str, Any]:
    """The bytes of each file; of estimates the arrays and what they are of, since the file orders these as it likes."""
    files: dict[str, Any] = {}
    for file in filter(Path.is_file, sorted(folder.rglob("*"))):
        files[str(file.relative_to(folder))] = file.read_bytes()
        if file.parent == folder and file.suffix == ".safetensors":
            with safe_open(file, "numpy") as tensors:
                arrays = {key: tensors.get_tensor(key).tobytes() for key in tensors.keys()}  # noqa: SIM118
                files[file.name] = (tensors.metadata(), arrays)
    return files


@pytest.mark.slow
def test_three_ranks_find_what_one_process_finds_bit_for_bit_and_tell_of_bad_rows_once(folder: Path) -> None:
    script = Path(__file__).parent / "evaluations.py"
    environment = ALL | {"PYTHONPATH": str(Path(__file__).parents[1])}
    command = [*LAUNCH, "3", str(script), str(folder), "three"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    evaluate_all(folder, folder / "one", ONE_RANK)
    shown = CliRunner().invoke(app, arguments(folder, "one"))
    assert shown.exit_code == 0
    one, three = contents(folder / "one"), contents(folder / "three")
    assert one.keys() == three.keys(), done.stderr
    assert {"all.json", "all.safetensors", "some.json", "printed.json", "affine/calibration.json"} <= one.keys()
    assert [name for name in one if one[name] != three[name]] == []
    assert b"skipped (8 of at most 10)" in one["said.json"]
    assert done.stdout == shown.stdout.replace(f"{folder}/one", f"{folder}/three")

    assert done.returncode != 0
    errors = [line for line in done.stderr.splitlines() if line.startswith(str(folder))]
    assert errors
    assert len(errors) == len(set(errors)), "the ranks may meet different ones"
    assert all("column 'in_network', row" in line for line in errors)
    assert "another process of this run" not in done.stderr


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["evaluate", "run", "--follow"], "--follow: evaluates in one process"),
        (["calibrate", "run", "--remove"], "--remove: scores nothing; run it without torchrun"),
        (
            ["report", "run"],
            "only 'recap train', 'recap evaluate', 'recap calibrate' and 'recap predict' can run in several processes",
        ),
        (["predict", "run", "in.parquet", "--output", "-"], "--output -: one process writes standard output"),
        (["serve", "run"], "run this command without torchrun"),
    ],
)
def test_what_one_process_does_is_refused_under_torchrun(command: list[str], message: str) -> None:
    result = CliRunner().invoke(app, command, env={"RANK": "1", "WORLD_SIZE": "2"})
    assert message in str(result.exception)
