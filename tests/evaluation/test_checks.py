"""Each check speaks on data made to trip it, and is silent on data that does not."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from support import Recorder, feed_config, feed_table, write_feed

from recap.config.recap import RecapConfig
from recap.evaluation.checks.evidence import Evidence
from recap.evaluation.checks.finding import CHECKS, SEVERITIES, Finding
from recap.evaluation.checks.gather import gather
from recap.evaluation.checks.run import failing, find
from recap.evaluation.drift import drift, read_sample
from recap.evaluation.importance import FeatureImportance
from recap.evaluation.metrics.estimate import Difference, Estimate
from recap.evaluation.result import SplitResult
from recap.evaluation.run import evaluate_run
from recap.evaluation.slices import SliceResult, Slices
from recap.model.directory import open_model
from recap.model.scorer import Scorer
from recap.runs import Run, find_model_directory
from recap.runtime import start_runtime
from recap.training.trainer import train

Metrics = Mapping[str, Mapping[str, float]]
GOOD: Metrics = {
    task: {"count": 10_000, "positives": 1000, "auc": 0.8, "rce": 12.0, "calibration": 1.01}
    for task in ("like", "share")
}
ERROR = {"auc": 2e-4, "rce": 0.05, "calibration": 1e-3}


def config(**training: Any) -> RecapConfig:
    folder = Path("/nowhere")
    return feed_config(folder, folder / "run", training=training)


def estimates(metrics: Metrics) -> dict[str, dict[str, Estimate]]:
    noise = np.random.default_rng(0).normal(size=64)
    return {
        task: {name: Estimate(value, value + ERROR[name] * noise) for name, value in values.items() if name in ERROR}
        for task, values in metrics.items()
    }


def like(**changed: float) -> Metrics:
    """Good metrics, but for those of like."""
    return {**GOOD, "like": {**GOOD["like"], **changed}}


def evidence(metrics: Metrics = GOOD, training: Metrics = GOOD, **more: Any) -> Evidence:
    result = SplitResult(metrics, estimates=estimates(metrics), **more.pop("result", {}))
    return Evidence(more.pop("config", config()), "validation", result, estimates(training), **more)


def losses(course: Sequence[float], **values: float) -> list[dict[str, Any]]:
    noise = np.random.default_rng(1).normal(size=len(course)) * 1e-3
    return [
        {"step": step, "split": "train", "loss": float(loss + more), "rate/backbone": 1e-3, **values}
        for step, (loss, more) in enumerate(zip(course, noise, strict=True), start=1)
    ]


def evaluations(aucs: Sequence[float]) -> list[dict[str, Any]]:
    return [{"step": step, "split": "validation", "task": "like", "auc": auc} for step, auc in enumerate(aucs, start=1)]


def permuted(name: str, value: float, error: float = 1e-4) -> FeatureImportance:
    loss = Difference(value, value - error, value + error, 0.5, error)
    return FeatureImportance(name, [name], {"like": {"auc": loss, "rce": loss}})


SLICE = SliceResult(
    "calibration", "like", "language", "pt", 900, 80, 1.6, (1.4, 1.8), 1.0, 3.0, (1.0, 5.0), 12.0, p=1e-6
)
FLAT = [0.5] * 20 + [0.3] * 60
FALLING = list(np.linspace(0.5, 0.3, 80))
SCHEDULE = {"kind": "linear_ramp_to_constant", "learning_rate": 1e-3, "num_ramp_steps": 5000}


@pytest.mark.parametrize(
    ("code", "subject", "tripped", "silent"),
    [
        ("R001", "like", evidence(training=like(auc=0.86)), evidence(training=like(auc=0.81))),
        ("R002", "like", evidence(like(rce=-0.5), like(rce=0.0)), evidence(like(rce=1.0), like(rce=1.5))),
        ("R003", "like", evidence(like(calibration=1.4)), evidence(like(calibration=1.04))),
        ("R003", "like", evidence(like(calibration=0.3)), evidence(like(calibration=1.4, positives=20))),
        (
            "R004",
            "like",
            evidence(slices=Slices((SLICE,), 9)),
            evidence(slices=Slices((replace(SLICE, kind="rce"),), 9)),
        ),
        ("R005", "like", evidence(like(auc=0.999)), evidence(like(auc=0.99))),
        (
            "R006",
            "",
            evidence(importance=[permuted("age", 0.0), permuted("vector", 0.1)]),
            evidence(importance=[permuted("age", 0.001), permuted("vector", 0.1)]),
        ),
        ("R009", "like", evidence(like(positives=99)), evidence(like(positives=101))),
        ("R009", "like", evidence(like(positives=9950)), evidence(like(positives=9000))),
        (
            "R011",
            "like",
            evidence(trees={"like": Difference(-0.01, -0.012, -0.008, 1e-6, 2e-3)}),
            evidence(trees={"like": Difference(-0.01, -0.025, 0.005, 0.2, 2e-2)}),
        ),
        (
            "R011",
            "like",
            evidence(trees={"like": Difference(-0.01, -0.0195, -0.0005, 0.04, 1e-2)}),
            evidence(trees=dict.fromkeys(("like", "share"), Difference(-0.01, -0.0195, -0.0005, 0.04, 1e-2))),
        ),
        ("R012", "", evidence(records=losses(FALLING)), evidence(records=losses(FLAT))),
        ("R013", "", evidence(records=losses(FLAT)), evidence(records=losses(FALLING))),
        (
            "R014",
            "like",
            evidence(conflicts={"like": {"like": 1.0, "share": -0.4}, "share": {"like": 0.1, "share": 1.0}}),
            evidence(conflicts={"like": {"like": 1.0, "share": 0.4}, "share": {"like": 0.4, "share": 1.0}}),
        ),
        (
            "R015",
            "like",
            evidence(result={"score": {"share/like": 0.9, "share/share": 0.05, "share/report": 0.05}}),
            evidence(result={"score": {"share/like": 0.5, "share/share": 0.3, "share/report": 0.2}}),
        ),
        (
            "R016",
            "language",
            evidence(result={"unknown": {"language": 0.3, "age": 0.3}}),
            evidence(result={"unknown": {"language": 0.1, "age": 0.3}}),
        ),
        (
            "R017",
            "age",
            evidence(result={"unknown": {"language": 0.1, "age": 0.6}}),
            evidence(result={"unknown": {"language": 0.1, "age": 0.4}}),
        ),
        (
            "R018",
            "training.num_train_steps",
            evidence(records=evaluations([0.7, 0.71, 0.72, 0.73])),
            evidence(records=evaluations([0.7, 0.73, 0.72, 0.71])),
        ),
        (
            "R018",
            "training.ema",
            evidence(config=config(ema={"decay": 0.9999})),
            evidence(config=config(num_train_steps=100_000, ema={"decay": 0.9999})),
        ),
    ],
)
def test_a_check_speaks_when_tripped_and_is_silent_otherwise(
    code: str, subject: str, tripped: Evidence, silent: Evidence
) -> None:
    found = [item for item in find(tripped) if item.code == code]
    assert [item.subject for item in found] == [subject]
    assert found[0].text
    assert found[0].advice
    assert not [item for item in find(silent) if item.code == code]


def test_nothing_is_found_without_evidence_of_a_fault() -> None:
    assert find(evidence()) == []
    assert find(Evidence(config(), "validation", SplitResult({}))) == []


def test_a_task_that_is_off_by_more_than_a_factor_of_two_is_an_error() -> None:
    assert [item.severity for item in find(evidence(like(calibration=2.5)))] == ["error"]
    assert [item.severity for item in find(evidence(like(calibration=1.9)))] == ["warning"]


def test_findings_are_sorted_by_severity_and_fail_from_the_one_asked_for() -> None:
    found = find(evidence(like(calibration=2.5, positives=90), records=losses(FALLING)))
    assert [item.severity for item in found] == ["error", "warning", "note"]
    assert [len(failing(found, at)) for at in SEVERITIES] == [1, 2, 3]


def test_every_check_is_documented_with_its_code() -> None:
    page = (Path(__file__).parents[2] / "docs" / "checks.md").read_text(encoding="utf-8")
    for code, spec in CHECKS.items():
        assert f"\n## {code}\n" in page
        assert spec.finds in re.sub(r"\s+", " ", page)
        assert spec.advice in re.sub(r"\s+", " ", page)


def test_a_task_is_miscalibrated_if_that_is_certain_among_all_tasks() -> None:
    noise = np.random.default_rng(0).normal(size=64)
    noise -= noise.mean()
    estimate = Estimate(1.06, 1.06 + 0.0278 * noise / np.sqrt(63 / 64 * (noise**2).sum()))  # 2.16 standard errors off
    for tasks, found in ((["like"], True), (["like", "share"], False)):
        of_tasks = {task: {"calibration": estimate} for task in tasks}
        evidence = Evidence(config(), "validation", SplitResult(GOOD, estimates=of_tasks))
        assert any(item.code == "R003" for item in find(evidence)) is found


def test_an_interval_corrected_for_the_number_of_tasks_says_so() -> None:
    off = {task: {**GOOD["like"], "calibration": 1.4} for task in ("like", "share")}
    texts = [item.text for item in find(evidence(off)) if item.code == "R003"]
    assert len(texts) == 2
    assert all(text.endswith("], interval corrected for 2 tasks") for text in texts)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A feed whose validation rows follow the training rows, and a run on it."""
    folder = tmp_path_factory.mktemp("checks")
    write_feed(folder, train_rows=2000, validation_rows=1000)
    for day, split in enumerate(("train", "validation")):
        for file in (folder / split).glob("*.parquet"):
            rewrite(file, day)
    train(feed_config(folder, folder / "run", training={"num_train_steps": 60, "eval_log_every_n": None}), Recorder())
    return folder


def rewrite(file: Path, day: int) -> None:
    """Move the rows of a file by `day` days, and give all of them a known language."""
    table = pq.read_table(file)
    changed = {
        "served_at_ms": pc.add(table["served_at_ms"], day * 86_400_000),
        "language": pc.replace_substring(table["language"], "xx", "en"),
    }
    for name, values in changed.items():
        table = table.set_column(table.column_names.index(name), name, values)
    pq.write_table(table, file)


def found_on(folder: Path, validation: pa.Table | None = None, tmp_path: Path | None = None) -> list[Finding]:
    """The findings on other validation rows."""
    values: dict[str, Any] = {}
    if validation is not None and tmp_path is not None:
        pq.write_table(validation, tmp_path / "rows.parquet")
        values = {"validation": {"source": {"kind": "parquet", "inputs": [str(tmp_path / "rows.parquet")]}}}
    asked = [f"validation_data.validation.source.inputs={values['validation']['source']['inputs']}"] if values else []
    run = Run(folder / "run")
    cfg = run.config_with(asked)
    result = evaluate_run(cfg, run.path, output=folder / "result.json").splits["validation"]
    model = open_model(find_model_directory(run.path))
    scorer = Scorer.of(cfg, model.ranker)
    shift = drift(
        cfg, model.assets, scorer, read_sample(cfg, model.assets), read_sample(cfg, model.assets, "validation")
    )
    gathered = gather(
        cfg, model.assets, scorer, "validation", result, start_runtime(), run.metrics, drift=shift, trees=False
    )
    return find(gathered)


DATA_CHECKS = {"R005", "R007", "R008", "R009", "R010", "R016", "R017"}


def test_good_data_pass_the_checks_of_data(trained: Path) -> None:
    found = found_on(trained)
    assert not DATA_CHECKS & {item.code for item in found}, found


def rows_of(folder: Path, **columns: Any) -> pa.Table:
    table = pq.read_table(folder / "validation" / "part-0.parquet")
    for name, values in columns.items():
        table = table.set_column(table.column_names.index(name), name, values)
    return table


@pytest.mark.parametrize("code", sorted(DATA_CHECKS))
def test_data_that_are_made_wrong_are_found(code: str, trained: Path, tmp_path: Path) -> None:
    rows = rows_of(trained)
    size = rows.num_rows
    wrong: dict[str, pa.Table] = {
        "R005": rows_of(trained, age=pc.cast(rows["like"], pa.float32())),
        "R007": rows_of(trained, served_at_ms=pc.subtract(rows["served_at_ms"], 86_400_000 + 1_000_000)),
        "R008": pa.concat_tables([pq.read_table(trained / "train" / "part-0.parquet"), rows]),
        "R009": rows_of(trained, like=pa.array([1] * 50 + [0] * (size - 50), pa.int8())),
        "R010": rows_of(trained, followers=pa.array(np.full(size, 1e6, np.float32))),
        "R016": rows_of(trained, language=pa.array(["xx"] * (size // 2) + ["en"] * (size - size // 2))),
        "R017": rows_of(trained, age=pa.array([None] * (2 * size // 3) + [1.0] * (size - 2 * size // 3), pa.float32())),
    }
    found = [item for item in found_on(trained, wrong[code], tmp_path) if item.code == code]
    assert found
    assert feed_table(1).num_columns == rows.num_columns


def test_boosted_trees_are_compared_on_the_same_rows(trained: Path) -> None:
    pytest.importorskip("lightgbm")
    run = Run(trained / "run")
    cfg, model = run.config, open_model(find_model_directory(run.path))
    scorer = Scorer.of(cfg, model.ranker)
    result = SplitResult(GOOD)
    gathered = gather(cfg, model.assets, scorer, "validation", result, start_runtime())
    assert set(gathered.trees) == {"like", "share"}
    assert all(item.low < item.value < item.high for item in gathered.trees.values())
    for weights in model.ranker.parameters():
        weights.data.mul_(0.01)  # an untrained model is worse than trees
    gathered = gather(cfg, model.assets, scorer, "validation", result, start_runtime())
    assert [item.subject for item in find(gathered) if item.code == "R011"] == ["like", "share"]
