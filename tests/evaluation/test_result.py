"""The result of an evaluation as an object, as JSON and as records."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from recap.errors import InputError
from recap.evaluation.metrics.estimate import Estimate
from recap.evaluation.result import SCORE, EvaluationReport, SplitResult, estimates_file, records
from recap.runs import Run

METRICS = {"like": {"count": 3.0, "auc": math.nan}, "share": {"count": 3.0, "auc": 0.75}}
FULL = EvaluationReport(
    "step_00000012",
    {
        "validation": SplitResult(
            METRICS, {"morning": METRICS}, {"like": {"expert_1": 0.25, "expert_2": 0.75}}, {"like": {"share": math.nan}}
        ),
        "test": SplitResult(METRICS),
    },
)


def test_undefined_values_are_null_in_json() -> None:
    content = FULL.to_json()
    assert list(content) == ["model", "splits", "strata", "gates", "conflicts"]
    assert content["splits"]["test"]["like"] == {"count": 3.0, "auc": None}
    assert content["strata"] == {"validation": {"morning": content["splits"]["test"]}}
    assert content["conflicts"] == {"validation": {"like": {"share": None}}}
    json.dumps(content, allow_nan=False)


def test_sections_that_no_split_has_are_left_out() -> None:
    assert list(EvaluationReport("step_00000012", {"test": SplitResult(METRICS)}).to_json()) == ["model", "splits"]


def test_a_report_survives_json() -> None:
    again = EvaluationReport.from_json(FULL.to_json())
    assert again.to_json() == FULL.to_json()
    assert math.isnan(again.splits["validation"].strata["morning"]["like"]["auc"])
    assert again.splits["test"] == SplitResult(again.splits["test"].metrics)


def test_a_report_is_read_from_its_run(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with pytest.raises(InputError, match=r"evaluation\.json: no such file; run 'recap evaluate .*' first"):
        EvaluationReport.read(run)
    FULL.write(run.evaluation_file)
    assert EvaluationReport.read(run).to_json() == run.evaluation == FULL.to_json()
    assert [file.name for file in tmp_path.iterdir()] == ["evaluation.json"]


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "{}",
        "[" * 100_000,
        '{"model": "a", "splits": {"test": 3}}',
        '{"model": "a", "splits": {"test": {"like": {"auc": "high"}}}}',
        '{"model": "a", "splits": {}, "intervals": {"test": {"like": {"auc": [0.1]}}}}',
        '{"model": "a", "splits": {}, "strata": {"test": {"like": {"auc": 0.1}}}}',
        '{"model": "a", "splits": {}, "gates": []}',
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "evaluation.json").write_text(content)
    with pytest.raises(InputError, match=r"evaluation\.json: damaged"):
        EvaluationReport.read(Run(tmp_path))


def test_each_task_is_one_record() -> None:
    assert list(records(6, "validation", METRICS)) == [
        {"step": 6, "split": "validation", "task": "like", "count": 3.0, "auc": None},
        {"step": 6, "split": "validation", "task": "share", "count": 3.0, "auc": 0.75},
    ]


def measured(rows: str) -> SplitResult:
    """A result with intervals and the metrics of the score."""
    replicates = np.array([0.5, math.nan, 0.25])
    return SplitResult(
        METRICS,
        intervals={"share": {"auc": (0.5, math.nan)}, SCORE: {"ndcg": (0.25, 0.75)}},
        users=3,
        rows=rows,
        estimates={"share": {"auc": Estimate(0.75, replicates)}, SCORE: {"ndcg": Estimate(0.5, replicates[::2])}},
        score={"ndcg": 0.5},
    )


def test_intervals_lie_in_the_report_and_replicates_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "results" / "a.json"
    file.parent.mkdir()
    report = EvaluationReport("step_00000012", {"validation": measured("ab"), "test": SplitResult(METRICS)})
    report.write(file)
    content = json.loads(file.read_text())
    assert content["intervals"]["validation"]["share"] == {"auc": [0.5, None]}
    assert (content["users"], content["rows"]) == ({"validation": 3}, {"validation": "ab"})
    assert content["score"] == {"validation": {"ndcg": 0.5}}
    assert sorted(path.name for path in file.parent.iterdir()) == ["a.json", "a.safetensors"]
    read = EvaluationReport.read_estimates(file)
    assert read.to_json() == report.to_json()
    again = read.splits["validation"].estimates
    assert [again["share"]["auc"].value, again[SCORE]["ndcg"].value] == [0.75, 0.5]
    np.testing.assert_array_equal(again["share"]["auc"].replicates, [0.5, math.nan, 0.25])
    assert read.splits["test"].estimates == {}


def test_replicates_of_other_splits_are_kept_and_of_other_rows_are_not_read(tmp_path: Path) -> None:
    file = tmp_path / "evaluation.json"
    EvaluationReport("step_00000012", {"validation": measured("ab")}).write(file)
    EvaluationReport("step_00000012", {"test": measured("cd")}).write(file, keep_others=True)
    read = EvaluationReport.read_estimates(file)
    assert {name: list(split.estimates) for name, split in read.splits.items()} == {
        "test": ["share", SCORE],
        "validation": ["share", SCORE],
    }
    kept = estimates_file(file).read_bytes()
    splits = {name: replace(split, rows=split.rows + "0", estimates={}) for name, split in read.splits.items()}
    EvaluationReport("step_00000012", splits).write(file)
    assert not estimates_file(file).exists()
    estimates_file(file).write_bytes(kept)  # as if the writing of both files had been cut short
    assert all(not split.estimates for split in EvaluationReport.read_estimates(file).splits.values())
    names = {"0": json.dumps({"split": "test", "rows": "cd0", "task": "share", "metrics": ["auc"]})}
    for damaged in (kept[:100], save({"0": np.zeros(1)}), save({"0": np.zeros(1)}, names)):
        estimates_file(file).write_bytes(damaged)
        with pytest.raises(InputError, match=r"evaluation\.safetensors: damaged; run 'recap evaluate"):
            EvaluationReport.read_estimates(file)
    EvaluationReport("step_00000012", {"new": measured("ef")}).write(file, keep_others=True)
    read = EvaluationReport.read_estimates(file)
    assert {name: list(split.estimates) for name, split in read.splits.items()} == {
        "new": ["share", SCORE],
        "test": [],
        "validation": [],
    }
