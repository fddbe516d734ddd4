"""Rivals of boards that are programs: what they share, and each of them where its package is installed."""

import subprocess
import sys
from argparse import ArgumentTypeError
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.metrics import roc_auc_score
from support import RECIPES, feed_config, load_script

from recap.config.file.load import config_of, dump_config
from recap.config.recap import RecapConfig
from recap.data.batch import Batch
from recap.errors import InputError

FOLDER = RECIPES / "rivals"
rival = load_script(FOLDER / "rival.py")
PACKAGES = {"rechub": ("torch_rechub", "torch-rechub"), "fuxi": ("fuxictr", "fuxictr")}
MODELS = {"rechub": ("MMOE", "SharedBottom", "PLE", "AITM"), "fuxi": ("DCNv2", "FinalMLP")}
SMALL = ("--epochs", "8", "--rate", "0.01", "--embedding", "4", "--widths", "16", "8")
needs_package = pytest.mark.parametrize(
    ("program", "model"),
    [
        pytest.param(
            program,
            model,
            marks=pytest.mark.skipif(find_spec(module) is None, reason=f"{package} is not installed"),
        )
        for program, (module, package) in PACKAGES.items()
        for model in MODELS[program]
    ],
)


@pytest.fixture
def config(feed: Path, tmp_path: Path) -> RecapConfig:
    return feed_config(feed, tmp_path / "run")


def with_regression(config: RecapConfig) -> RecapConfig:
    values = config.model_dump()
    values["model"]["tasks"]["share"] = {"tower": {"kind": "mlp"}, "objective": {"kind": "regression"}}
    return config_of(values)


def start(program: str, config: RecapConfig, folder: Path, *more: str) -> "subprocess.CompletedProcess[str]":
    (folder / "config.yaml").write_text(dump_config(config))
    given = ["--config", str(folder / "config.yaml"), "--split", "validation", "--output", str(folder / "out"), *more]
    return subprocess.run([sys.executable, str(FOLDER / f"{program}.py"), *given], capture_output=True, text=True)


@pytest.mark.parametrize("program", PACKAGES)
def test_without_its_package_a_program_says_what_to_install(program: str, config: RecapConfig, tmp_path: Path) -> None:
    module, package = PACKAGES[program]
    if find_spec(module) is not None:
        pytest.skip(f"{package} is installed")
    done = start(program, config, tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"{package} cannot be imported (No module named ")
    assert done.stderr.endswith(f"): pip install {package}\n")


@needs_package
def test_a_model_learns_every_task(program: str, model: str, config: RecapConfig, feed: Path, tmp_path: Path) -> None:
    """Of which one is a regression, whose label is whether something happens, if the model can do that."""
    numbers = with_regression(config)
    if model == "AITM":
        done = start(program, numbers, tmp_path, "--model", model)
        assert (done.returncode, done.stderr) == (2, "AITM predicts probabilities alone; choose another --model\n")
        numbers = config
    done = start(program, numbers, tmp_path, "--model", model, *SMALL)
    assert done.returncode == 0, done.stderr
    predicted, truth = pq.read_table(tmp_path / "out"), pq.read_table(feed / "validation")
    assert predicted.column_names == ["like", "share"]
    assert all(roc_auc_score(truth[task].to_numpy(), predicted[task].to_numpy()) > 0.6 for task in ("like", "share"))


def given(folder: Path, *more: str, split: str = "validation") -> list[str]:
    return ["rival", "--config", str(folder / "config.yaml"), "--split", split, "--output", str(folder / "out"), *more]


def run(fit: Any, module: str = "torch") -> int:
    code: int = rival.run("torch", module, rival.options("A rival.", ["A", "B"], 8, [4]), fit)
    return code


def test_predictions_are_written_in_the_order_of_the_rows(
    config: RecapConfig, feed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.yaml").write_text(dump_config(config))
    monkeypatch.setattr(sys, "argv", given(tmp_path, "--model", "B", "--epochs", "3"))
    asked: list[Any] = []

    def fit(options: Any, config: RecapConfig) -> Any:
        asked.append(options)
        return lambda batch: batch.discrete[:, :1] * torch.tensor([1, 2])

    assert run(fit) == 0
    assert (asked[0].model, asked[0].epochs, asked[0].embedding, asked[0].widths) == ("B", 3, 8, [4])
    hours = pq.read_table(feed / "validation")["hour"].to_numpy()
    assert pq.read_table(tmp_path / "out").to_pydict() == {
        "like": (hours + 1).tolist(),
        "share": (2 * hours + 2).tolist(),
    }


def test_what_cannot_be_run_is_said_and_ends_with_2(
    config: RecapConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fit(options: Any, config: RecapConfig) -> Any:
        raise InputError("A predicts probabilities alone")

    monkeypatch.setattr(sys, "argv", given(tmp_path))
    assert run(fit) == 2
    assert "config.yaml" in capsys.readouterr().err
    (tmp_path / "config.yaml").write_text(dump_config(config))
    assert run(fit) == 2
    assert capsys.readouterr().err == "A predicts probabilities alone\n"
    assert run(fit, "torch.no_such") == 2
    assert capsys.readouterr().err == "torch cannot be imported (No module named 'torch.no_such'): pip install torch\n"
    monkeypatch.setattr(sys, "argv", given(tmp_path, split="validate"))
    assert run(fit) == 2
    said = "--split validate: no such validation set. Known: validation. Did you mean 'validation'?\n"
    assert capsys.readouterr().err == said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "two"])
def test_a_count_is_a_whole_number_of_at_least_one(text: str) -> None:
    assert rival.count("12") == 12
    with pytest.raises(ArgumentTypeError, match="at least 1, found"):
        rival.count(text)


def test_columns_hold_every_feature(config: RecapConfig) -> None:
    training = rival.rows_of(config)
    columns = rival.Columns(config, training)
    assert len(training) == 600
    assert (columns.sizes, columns.numbers, columns.widths) == ({"code_0": 25, "code_1": 4}, 3, {"vector_0": 4})
    inputs = columns.of(training)
    assert inputs.keys() == {"code_0", "code_1", "numbers", "vector_0"}
    assert torch.equal(inputs["code_1"], training.discrete[:, 1])
    numbers = torch.cat([training.continuous.nan_to_num(0), training.binary], dim=1).log1p()
    assert torch.corrcoef(torch.stack([inputs["numbers"][:, 0], numbers[:, 0]]))[0, 1] > 1 - 1e-5
    assert inputs["numbers"].mean(dim=0).numpy() == pytest.approx(np.zeros(3), abs=1e-5)
    assert inputs["numbers"].std(dim=0, correction=0).numpy() == pytest.approx(np.ones(3), abs=1e-5)


def test_histories_alone_are_refused(config: RecapConfig) -> None:
    training = rival.rows_of(config)
    empty = {name: getattr(training, name)[:, :0] for name in ("continuous", "binary", "discrete")}
    none = {"continuous": (), "binary": (), "discrete": {}, "vectors": {}}
    config = config.model_copy(update={"features": config.features.model_copy(update=none)})
    with pytest.raises(InputError, match="there are only histories, which this program does not read"):
        rival.Columns(config, replace(training, vectors={}, **empty))


def test_a_constant_learns_the_weighted_rate_of_its_task(config: RecapConfig) -> None:
    training = rival.rows_of(config)
    assert training.labels is not None
    weights = torch.rand(600, 2, generator=torch.Generator().manual_seed(0)) * (1 + 3 * training.labels)
    training = replace(training, weights=weights)
    logit = torch.zeros(1, 1, requires_grad=True)

    def predict(batch: Batch) -> torch.Tensor:
        return logit.sigmoid().expand(len(batch), 1)

    torch.manual_seed(0)
    full = config.model_copy(update={"train_data": config.train_data.model_copy(update={"global_batch_size": 600})})
    learn = partial(rival.train, predict, torch.optim.Adam([logit], lr=0.1), full, training, 100, tasks=["share"])
    learn()
    expected = (weights[:, 1] * training.labels[:, 1]).sum() / weights[:, 1].sum()
    assert logit.sigmoid().item() == pytest.approx(expected.item(), abs=1e-3)
    learn(penalty=lambda: 1e3 * logit.sum() ** 2)
    assert logit.sigmoid().item() == pytest.approx(0.5, abs=0.01)


def test_rows_that_fill_no_batch_are_one(config: RecapConfig, capsys: pytest.CaptureFixture[str]) -> None:
    training = rival.rows_of(config).rows(slice(0, 10))
    logit = torch.zeros(1, 2, requires_grad=True)
    rival.train(
        lambda batch: logit.sigmoid().expand(len(batch), 2), torch.optim.SGD([logit], lr=0.1), config, training, 1
    )
    assert logit.abs().min() > 0
    assert capsys.readouterr().out == "like, share: 2 parameters\nepoch 1 of 1: loss 0.69315\n"
