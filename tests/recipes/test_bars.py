"""The recipe of public CTR benchmarks: preparing the files, and training its models on them."""

import random
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from support import RECIPES, Recorder, load_script

from recap.boards.plan import load_plan
from recap.config.file.load import load_config
from recap.errors import ConfigError, DataError, InputError
from recap.evaluation.run import evaluate_run
from recap.model.ranker import Ranker
from recap.runs import find_model_directory
from recap.training.trainer import train

RECIPE = RECIPES / "bars"
bars = load_script(RECIPE / "prepare.py")
HEADER = "label,user,device,price,mood"
ROWS = ["1,7,phone,0.5,1", "0,7,,1.5,2", "0,007,tablet,,", "1,3,phone,2e1,3"]


def write(folder: Path, **splits: list[str]) -> dict[str, Path]:
    """CSV files of the three splits; by default they equal the training file."""
    folder.mkdir(exist_ok=True)
    files = {}
    for split in ("train", "validation", "test"):
        files[split] = folder / f"{split}.csv"
        files[split].write_text("\n".join([HEADER, *splits.get(split, splits.get("train", ROWS))]) + "\n")
    return files


def prepared(folder: Path, split: str = "train") -> dict[str, list[Any]]:
    return dict(pq.ParquetFile(folder / f"{split}.parquet").read().to_pydict())


def many(count: int, seed: int) -> list[str]:
    """Rows whose label depends on their columns."""
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        user, device, price = draw.randrange(20), draw.choice(["phone", "tablet", ""]), draw.random()
        label = int(draw.random() < (0.8 if user < 8 and device != "tablet" else 0.2))
        rows.append(f"{label},{user},{device},{price:.3f},{draw.randrange(3)}")
    return rows


def test_codes_come_from_the_training_file_and_unknown_ones_are_null(tmp_path: Path) -> None:
    files = write(tmp_path, test=["0,3,watch,1.0,2", "1,7,tablet,,9"])
    assert bars.prepare(files, tmp_path / "out") == {"train": 4, "validation": 4, "test": 2}
    train = prepared(tmp_path / "out")
    assert train["label"] == [1, 0, 0, 1]
    assert train["user"] == [0, 0, 1, 2]  # 7 is the most frequent; 007 is another string
    assert train["device"] == [0, None, 1, 0]
    assert train["price"] == [0.5, 1.5, None, 20.0]
    assert train["mood"] == [0, 1, None, 2]
    test = prepared(tmp_path / "out", "test")
    assert (test["user"], test["device"], test["mood"]) == ([2, 0], [None, 1], [1, None])
    vocabulary = pq.read_table(tmp_path / "out" / "vocabularies" / "device.parquet").to_pydict()
    assert vocabulary == {"value": ["phone", "tablet"], "count": [2, 1]}


def test_rare_codes_are_unknown_and_columns_may_be_numeric_on_request(tmp_path: Path) -> None:
    bars.prepare(write(tmp_path), tmp_path / "out", numeric=["mood"], min_count=2)
    train = prepared(tmp_path / "out")
    assert (train["user"], train["device"], train["mood"]) == ([0, 0, None, None], [0, None, None, 0], [1, 2, None, 3])
    config = load_config(RECIPE / "dnn.yaml", set_files=[str(tmp_path / "out" / "data.yaml")])
    assert [column.name for column in config.features.continuous] == ["price", "mood"]


def test_a_file_in_several_blocks_gives_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = write(tmp_path, train=many(500, 1))
    bars.prepare(files, tmp_path / "whole")
    monkeypatch.setattr(bars, "BLOCK_BYTES", 400)
    bars.prepare(files, tmp_path / "parts")
    assert prepared(tmp_path / "whole") == prepared(tmp_path / "parts")


@pytest.mark.parametrize("model", ["dnn", "dcn", "mask_net", "final_mlp", "dcn_v3", "qnn"])
@pytest.mark.parametrize("numbers", [True, False])
def test_every_model_trains_and_is_evaluated_on_the_test_rows(tmp_path: Path, model: str, numbers: bool) -> None:
    files = write(tmp_path, train=many(600, 1), validation=many(200, 2), test=many(150, 3))
    if not numbers:
        for file in files.values():
            lines = [line.split(",") for line in file.read_text().splitlines()]
            file.write_text("".join(",".join([*line[:3], line[4]]) + "\n" for line in lines))
    bars.prepare(files, tmp_path / "out", batch_size=64)
    run = tmp_path / "run"
    parts = [str(tmp_path / "out" / "data.yaml")]
    small = [f"training.save_dir={run}", "training.num_train_steps=30", "train_data.shuffle_window_rows=100"]
    if model == "final_mlp":  # these rows have no items
        small.append("model.backbone.second.gate.features=[device]")
    config = load_config(RECIPE / f"{model}.yaml", small, parts)
    assert (config.training.eval_log_every_n, bool(config.features.continuous)) == (10, numbers)
    recorder = Recorder()
    train(config, recorder)
    assert {step for step, _ in recorder.evaluated_at} == {10, 20, 30}
    test = load_config(
        find_model_directory(run, "best") / "config.yaml", [], [str(tmp_path / "out" / "test.yaml")], stored=True
    )
    report = evaluate_run(test, run, split="test", step="best")
    assert report.splits["test"].metrics["label"]["count"] == 150
    assert report.splits["test"].metrics["label"]["auc"] > 0.6


FRAPPE = {
    "user": 955, "item": 4083, "daytime": 8, "weekday": 8, "isweekend": 3, "homework": 4, "cost": 3, "weather": 10,
    "country": 81, "city": 234,
}  # fmt: skip
"""The codes of Frappe_x1, as its published logs list them."""


@pytest.mark.parametrize(
    ("model", "published"),
    [
        ("dcn", 458_391 - 53_890),
        ("mask_net", 571_691 - 53_890 + 3 * 50),  # and biases of the Linear in its blocks
        ("qnn", 764_369 - 5_383 * 16),
        ("final_mlp", 253_392 - 53_990 - 50_400 + 1),  # without tables of its gates; with a scale instead of a bias
    ],
)
def test_a_network_has_as_many_weights_as_the_published_log_says(model: str, published: int, tmp_path: Path) -> None:
    discrete = {name: {"size": size} for name, size in FRAPPE.items()}
    values = {
        "training": {"num_train_steps": 50, "eval_log_every_n": 50},
        "features": {"discrete": discrete},
        "train_data": {"source": {"inputs": "train.parquet"}, "global_batch_size": 4096},
        "validation_data": {"validation": {"source": {"inputs": "validation.parquet"}}},
    }
    part = tmp_path / "frappe.yaml"
    part.write_text(yaml.safe_dump(values))
    ranker = Ranker(load_config(RECIPE / f"{model}.yaml", [], [str(part)]), {})
    tables = {id(parameter) for parameter in ranker.inputs.embeddings.parameters()}
    assert sum(parameter.numel() for parameter in ranker.parameters() if id(parameter) not in tables) == published


def test_the_board_of_frappe_is_complete_once_its_files_are_prepared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(RECIPE, tmp_path / "recipes" / "bars")
    board = tmp_path / "recipes" / "bars" / "frappe_board.yaml"
    with pytest.raises(ConfigError, match=r"data/frappe/data\.yaml: cannot be read"):
        load_plan(board)
    monkeypatch.chdir(tmp_path)
    files = write(tmp_path, train=["1,7,4", "0,8,5"])
    for file in files.values():
        file.write_text(file.read_text().replace(HEADER, "label,user,item"))
    bars.prepare(files, Path("data/frappe"))
    plan = load_plan(board)
    models = {file.stem for file in RECIPE.glob("*.yaml")} - {"base", "frappe_board"}
    assert {Path(row.config).stem for row in plan.config.rows.values()} == models
    assert len(plan.jobs) == 5 * len(plan.config.rows)


def test_every_model_builds_on_the_shared_settings() -> None:
    for file in RECIPE.glob("*.yaml"):
        text = file.read_text()
        assert file.stem in ("base", "frappe_board") or "base: base.yaml" in text
    with pytest.raises(ConfigError, match="features"):
        load_config(RECIPE / "dnn.yaml")  # complete only with the part of a data set


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("2,7,phone,0.5,1", r"train.csv: row 4: expected a label of 0 or 1, found 2.0"),
        (",7,phone,0.5,1", r"train.csv: row 4: expected a label of 0 or 1, found None"),
        ("1,7,phone,cheap,1", r"train.csv: .*cheap"),
        ("1,7,phone", r"train.csv: .*Expected 5 columns, got 3"),
    ],
)
def test_bad_rows_are_refused_with_file_and_row(tmp_path: Path, row: str, message: str) -> None:
    files = write(tmp_path, train=[*ROWS, row], validation=ROWS, test=ROWS)
    with pytest.raises(DataError, match=message):
        bars.prepare(files, tmp_path / "out", numeric=["price"])
    assert not list((tmp_path / "out").glob("*.unfinished"))


def test_invalid_files_and_options_are_refused(tmp_path: Path) -> None:
    files = write(tmp_path)
    with pytest.raises(InputError, match=r"has no column 'prize'.*Did you mean 'price'"):
        bars.prepare(files, tmp_path / "out", numeric=["prize"])
    with pytest.raises(InputError, match="--min-count and --batch-size must be at least 1"):
        bars.prepare(files, tmp_path / "out", min_count=0)
    files["test"].write_text("label,user\n1,7\n")
    with pytest.raises(DataError, match=r"test.csv: lacks column 'price'"):
        bars.prepare(files, tmp_path / "out")
    with pytest.raises(DataError, match=r"absent\.csv: no such file"):
        bars.prepare({**files, "test": tmp_path / "absent.csv"}, tmp_path / "out")
    files["train"].write_text("label,user,user\n1,7,8\n")
    with pytest.raises(DataError, match="column 'user' appears twice"):
        bars.prepare(files, tmp_path / "out")


def test_the_command_prints_the_next_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = write(tmp_path)
    options = [
        f"--{split}={files[name]}" for split, name in (("train", "train"), ("valid", "validation"), ("test", "test"))
    ]
    bars.main([*options, f"--output={tmp_path / 'out'}"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "train: 4 rows, validation: 4 rows, test: 4 rows"
    assert lines[1] == f"next: recap train recipes/bars/dnn.yaml --set-file {tmp_path}/out/data.yaml"
