"""Distillation against its formula, and in runs that read the predictions of a teacher."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from model.rankers import make_batch, make_config
from support import Recorder, feed_config, write_feed
from torch.testing import assert_close
from training.runs import assert_same_run, interrupt

from recap.config.file.load import config_of
from recap.config.loss import ColumnTeacherConfig
from recap.config.recap import JobMode, RecapConfig
from recap.data.encoding.assets import load_assets
from recap.data.open import open_stream
from recap.errors import ConfigError, DataError, Interrupted
from recap.evaluation.run import evaluate_run
from recap.model.calibration import Calibration
from recap.model.objective.distillation import Distillation
from recap.model.objective.objective import Objective
from recap.training.trainer import train

ONE = torch.tensor(1.0)


@pytest.mark.parametrize(("temperature", "pos_weight", "ratio"), [(1.0, 1.0, 1.0), (3.0, 1.0, 1.0), (1.0, 2.0, 0.1)])
def test_the_loss_is_cross_entropy_with_the_softened_probability(
    temperature: float, pos_weight: float, ratio: float
) -> None:
    torch.manual_seed(0)
    output, teacher, weight = torch.randn(20) * 2, torch.rand(20), torch.rand(20)
    teacher[3] = math.nan
    expected = 0.0
    for z, p, w in zip(output.tolist(), teacher.tolist(), weight.tolist(), strict=True):
        if not math.isnan(p):
            odds = p / (1 - p) / ratio  # among the rows that were kept
            soft = 1 / (1 + math.exp(-math.log(odds) / temperature))
            q = 1 / (1 + math.exp(-z / temperature))
            expected -= 0.5 * w * temperature**2 * (pos_weight * soft * math.log(q) + (1 - soft) * math.log(1 - q)) / 20
    loss = Distillation(ColumnTeacherConfig(column="p", weight=0.5, temperature=temperature), ratio=ratio)
    assert loss(output, teacher, weight, torch.tensor(pos_weight)).item() == pytest.approx(expected, rel=1e-4)


@given(st.floats(0.01, 0.99), st.floats(0.2, 5), st.floats(0.05, 1))
def test_a_student_has_learned_when_its_calibrated_probability_is_the_teachers(
    probability: float, temperature: float, ratio: float
) -> None:
    teacher = torch.tensor([probability], dtype=torch.float64)
    output = (teacher.logit() - math.log(ratio)).requires_grad_()
    assert_close(Calibration(torch.tensor([ratio]))(output.sigmoid()), teacher, rtol=1e-5, atol=0)
    config = ColumnTeacherConfig(column="p", temperature=temperature)
    Distillation(config, ratio=ratio)(output, teacher, torch.ones(1), ONE).backward()
    assert_close(output.grad, torch.zeros_like(output))


@pytest.mark.parametrize("sure", [0.0, 1.0])
def test_a_teacher_may_be_sure(sure: float) -> None:
    output = torch.tensor([-200.0, 0.0, 200.0], requires_grad=True)
    Distillation(ColumnTeacherConfig(column="p", temperature=2.0))(
        output, torch.full((3,), sure), torch.ones(3), ONE
    ).backward()
    assert output.grad is not None
    assert output.grad.isfinite().all()


def with_teacher(case: str, task: str, **changes: Any) -> RecapConfig:
    values = make_config(case).model_dump()
    values["model"]["tasks"][task] |= {"distillation": {"column": "teacher"}, **changes}
    return config_of(values)


@pytest.mark.parametrize("case", ["mlp-share_all", "jrc", "self_ensemble", "esmm"])
def test_it_adds_to_the_loss_of_the_tasks_own_output(case: str) -> None:
    config = with_teacher(case, "like", distillation={"column": "teacher", "weight": 0.3})
    batch = make_batch(config)
    teacher = torch.rand(40, 2)
    outputs = list(torch.randn({"jrc": 4, "self_ensemble": 6}.get(case, 2), 40).unbind())
    objective = Objective(config)
    plain, found = (objective(outputs, each).losses for each in (batch, replace(batch, teacher=teacher)))
    expected = torch.nn.functional.binary_cross_entropy_with_logits(outputs[0], teacher[:, 0], batch.weights[:, 0])
    assert_close(found[0] - plain[0], 0.3 * expected)
    assert found[1] == plain[1]


def test_a_regression_learns_the_value_of_its_teacher() -> None:
    config = with_teacher("regressions", "like")
    batch = make_batch(config)
    outputs, teacher = list(torch.randn(2, 40).unbind()), torch.rand(40, 2) * 5
    objective = Objective(config)
    plain, found = (objective(outputs, each).losses for each in (batch, replace(batch, teacher=teacher)))
    error = outputs[0] - teacher[:, 0].log1p()
    assert_close(found[0] - plain[0], (error.square() * batch.weights[:, 0]).mean())


def config_with_column(folder: Path, name: str, predictions: Any = None) -> RecapConfig:
    """A run whose training files, and only they, hold a teacher's predictions; every tenth is null."""
    if not (folder / "train").exists():
        write_feed(folder)
        for file in (folder / "train").iterdir():
            table = pq.read_table(file)
            rows = np.arange(len(table))
            values = rows % 7 / 6 if predictions is None else np.full(len(table), predictions)
            table = table.append_column("teacher", pa.array(values, mask=rows % 10 == 0))
            pq.write_table(table, file, row_group_size=70)
    tower = {"kind": "mlp", "layer_sizes": [8]}
    like = {"tower": tower, "distillation": {"column": "teacher", "temperature": 2.0}}
    return feed_config(
        folder,
        folder / name,
        model={"tasks": {"like": like, "share": {"tower": tower}}},
        training={"num_train_steps": 6, "checkpoint_every_n": 2},
    )


def test_only_training_reads_the_teacher_and_a_run_resumes_exactly(tmp_path: Path) -> None:
    config = config_with_column(tmp_path, "whole")
    batch = next(iter(open_stream(config, load_assets(config.features), JobMode.TRAIN)))
    assert batch.teacher is not None
    assert batch.teacher[:, 1].isnan().all()
    assert 0 < batch.teacher[:, 0].isnan().sum() < 20
    train(config, Recorder())
    with pytest.raises(Interrupted):
        train(config_with_column(tmp_path, "interrupted"), Recorder({3: interrupt}))
    train(config_with_column(tmp_path, "interrupted"), Recorder())
    assert_same_run(tmp_path / "whole", tmp_path / "interrupted", 6)
    evaluate_run(config, tmp_path / "whole")  # its files have no teacher


def test_a_prediction_that_is_no_probability_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"column 'teacher', row.*found 1.5; what a teacher predicts is a probability"):
        train(config_with_column(tmp_path, "run", 1.5), Recorder())


@pytest.mark.parametrize(
    ("case", "distillation", "message"),
    [
        (
            "mlp-share_all",
            {"column": "share"},
            "model.tasks.like.distillation.column: 'share' is the label of 'share'; name the column of the teacher's",
        ),
        (
            "regressions",
            {"column": "p", "temperature": 2.0},
            "model.tasks.like.distillation.temperature: a regression task has no logits to divide; remove it",
        ),
        ("mlp-share_all", {"column": "p", "temperature": 0.0}, "distillation.temperature: must be above 0, found 0"),
    ],
)
def test_a_distillation_that_makes_no_sense_is_refused(case: str, distillation: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        with_teacher(case, "like", distillation=distillation)
    assert message in str(error.value)
