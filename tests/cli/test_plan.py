"""`recap plan`."""

import json
from pathlib import Path

import pytest
import yaml
from planning.test_plan import RATE
from typer.testing import CliRunner, Result

from recap.cli.main import app
from recap.errors import ConfigError, InputError


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of ten billion rows, divided by rows, and one of a long name."""
    file = tmp_path_factory.mktemp("plan") / "ranker.yaml"
    values = {
        "training": {"precision": "float32", "sharded_tables": {"tables": {"default": "row_wise"}}},
        "features": {
            "continuous": ["age"],
            "discrete": {"post_id": {"size": 10_000_000_000}, "language_of_the_author_and_of_the_post": {"size": 50}},
        },
        "model": {
            "embeddings": {"default": 64},
            "tasks": {"like": {"tower": {"kind": "mlp", "layer_sizes": [8]}}},
        },
        "train_data": {"source": {"inputs": "none"}, "global_batch_size": 65_536, "tasks": {"like": {}}},
        "optimizer": {
            "tables": {"algorithm": {"kind": "rowwise_adagrad"}, "learning_rate": RATE, "sparse": True},
            "backbone": RATE,
            "towers": {"default": RATE},
        },
    }
    file.write_text(yaml.safe_dump(values))
    return file


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["plan", *map(str, arguments)])


def test_a_run_that_fits_exits_with_0_in_80_columns(config: Path) -> None:
    done = run(config, "--world-size", 64)
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0] == "64 ranks on H100 SXM 80 GB, float32, 1,024 examples a rank and step"
    (post,) = (line for line in lines if line.startswith("post_id"))
    assert post.split()[1:6] == ["rows", "/", "64", "37.3", "GiB"]
    assert any(line.startswith("fits: a rank needs 49.") for line in lines)
    assert "assumptions" in lines
    assert " examples/s" in done.stdout


def test_a_run_that_does_not_fit_exits_with_1_and_says_what_would(config: Path) -> None:
    done = run(config, "--world-size", 8)
    assert done.exit_code == 1
    text = " ".join(done.stdout.split())
    assert "does not fit: a rank needs" in text
    assert "are missing, and most is 'post_id'" in text
    assert "would fit: --world-size 40 (5 nodes of 8), with this configuration" in text
    done = run(config, "--world-size", 8, "training.sharded_tables=null")
    assert "would fit: --world-size 40 (5 nodes of 8), with tables divided by rows" in " ".join(done.stdout.split())
    done = run(config, "--world-size", 8, "--memory-gib", 0.001)
    assert "no number of ranks fits: make 'post_id' smaller" in " ".join(done.stdout.split())


def test_small_numbers_are_not_0_and_ranks_without_rows_are_named(config: Path) -> None:
    small = ["features.discrete.post_id.size=6", "train_data.global_batch_size=64", "--world-size", 8]
    lines = run(config, *small, "--device", "cpu", "--memory-gib", 8).stdout.splitlines()
    (post,) = (index for index, line in enumerate(lines) if line.startswith("post_id"))
    assert "rows / 7" in lines[post]
    assert lines[post + 1].split() == ["7", "×", "64", "1", "empty"]
    (flops,) = (line.split() for line in lines if line.startswith("FLOPs"))
    assert flops[-1] == "M"
    assert float(flops[-2]) > 0
    assert not [line for line in lines if line.endswith(" 0.000")]


def test_json_has_the_numbers_of_the_tables(config: Path) -> None:
    found = json.loads(run(config, "--world-size", 64, "--device", "h200", "--json").stdout)
    assert found["fit"]["fits"] is True
    weights = {part["name"]: part["bytes"]["weights"] for part in found["placement"]["parts"]}
    assert weights["post_id"] == -(-10_000_000_001 // 64) * 256
    assert found["work"]["examples"] == 1024
    parts = found["time"]
    total = sum(parts.values()) - 2 * parts["hidden"]
    assert found["examples_per_second"] == pytest.approx(65_536 / total)


def test_a_cpu_is_planned_with_measured_constants_and_says_how_far_they_are_off(config: Path) -> None:
    options = ["--device", "cpu", "--memory-gib", 2, "features.discrete.post_id.size=100000"]
    done = run(config, "--world-size", 2, *options)
    assert done.exit_code == 0
    assert "on other shapes the model was off by" in " ".join(done.stdout.split())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--device", "cpu"], r"--memory-gib: missing"),
        (["--device", "cpu", "--gpus-per-node", 4], r"--gpus-per-node: has no effect on a CPU"),
        (["--measured", "none.json"], r"--measured: holds constants of a CPU, but --device is h100"),
        (["--world-size", 12], r"12 ranks are no whole number of nodes of 8"),
        (["--world-size", 65_536], r"65536 ranks are too many for train_data\.global_batch_size, 65536"),
        (["--memory-gib", 0], r"--memory-gib: must be above 0"),
        (["--memory-gib", "nan"], r"--memory-gib: must be above 0"),
    ],
)
def test_each_misuse_has_its_message(config: Path, options: list[object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        raise run(config, *options).exception or AssertionError


def test_an_unknown_device_is_refused_in_plain_words(config: Path) -> None:
    done = run(config, "--device", "b200")
    assert done.exit_code == 2
    assert "Invalid value for '--device': 'b200' is not one of 'cpu', 'a100', 'h100', 'h200'." in done.output


def test_numbers_with_underscores_are_refused_with_the_number_to_write(config: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected a whole number, found '10_000_000'; write 10000000$"):
        raise run(config, "features.discrete.post_id.size=10_000_000").exception or AssertionError
