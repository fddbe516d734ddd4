"""The result of an evaluation as an object, as JSON and as records."""

import json
import math
from pathlib import Path

import pytest

from recap.errors import InputError
from recap.evaluation.result import EvaluationReport, SplitResult, records
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


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"model": "a", "splits": {"test": 3}, "gates": []}'])
def test_a_damaged_file_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "evaluation.json").write_text(content)
    with pytest.raises(InputError, match=r"evaluation\.json: damaged"):
        EvaluationReport.read(Run(tmp_path))


def test_each_task_is_one_record() -> None:
    assert list(records(6, "validation", METRICS)) == [
        {"step": 6, "split": "validation", "task": "like", "count": 3.0, "auc": None},
        {"step": 6, "split": "validation", "task": "share", "count": 3.0, "auc": 0.75},
    ]
