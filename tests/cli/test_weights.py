"""`recap weights`, and the final score in `recap evaluate`."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from support import Recorder, feed_values, write_feed
from typer.testing import CliRunner

from recap.cli.main import app
from recap.config.file.load import load_config
from recap.errors import InputError
from recap.evaluation.result import SCORE, EvaluationReport
from recap.runs import Run
from recap.training.trainer import train


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A feed, and a run over it in which shares count against a post; `very_short` has lists of few rows."""
    folder = write_feed(tmp_path_factory.mktemp("feed"), validation_rows=400)
    values = feed_values(folder, folder / "run")
    values["training"] |= {"num_train_steps": 20, "checkpoint_every_n": 20, "eval_log_every_n": None}
    values["scoring"] = {"weights": {"like": 1.0, "share": -2.0}}
    pq.write_table(pq.read_table(folder / "validation").slice(0, 4), folder / "alone.parquet")
    values["validation_data"]["very_short"] = {"source": {"inputs": str(folder / "alone.parquet")}}
    (folder / "ranker.yaml").write_text(yaml.safe_dump(values))
    train(load_config(folder / "ranker.yaml"), Recorder())
    return folder


def recap(*arguments: str | Path) -> str:
    """The standard output of a command."""
    done = CliRunner().invoke(app, [*map(str, arguments)])
    if done.exception is not None:
        raise done.exception
    return done.stdout


def test_suggested_weights_are_shown_and_written_for_set_file(folder: Path) -> None:
    output = folder / "weights" / "less.yaml"
    text = recap("weights", "suggest", folder / "run", "--at-least", "like=1.01x", "--output", output)
    assert "expected engagements per 1,000 impressions" in text
    assert output.read_text() in text
    config = load_config(folder / "ranker.yaml", [], [str(output)])
    assert config.scoring.weights["like"] > 1
    assert config.scoring.weights["share"] == -2
    arguments = ["weights", "suggest", folder / "ranker.yaml", "--at-least", "like=1.01x", "--split", "validation"]
    found = json.loads(recap(*arguments, "--json"))
    assert found["weights"] == config.scoring.weights
    like = next(task for task in found["tasks"] if task["task"] == "like")
    assert like["new_expected"] >= 1.01 * like["expected"]
    assert "the current ranking reaches this already" in recap("weights", "suggest", folder / "run", "--keep=like")
    doubled = json.loads(recap(*arguments[:3], "scoring.weights.share=-4", *arguments[3:], "--json"))
    assert doubled["weights"]["share"] == -4
    with pytest.raises(InputError, match=r"weights\.safetensors: would be overwritten"):
        recap(
            *arguments[:2], folder / "run", "--keep=like", "--overwrite", "--output", next(folder.rglob("weights.s*"))
        )
    with pytest.raises(InputError, match=r"unknown task 'zzz.*…\. Known: like"):
        recap("weights", "suggest", folder / "run", "--keep", "z" * 500)
    with pytest.raises(InputError, match=r"less\.yaml already exists; add --overwrite"):
        recap(*arguments, "--output", output)


def test_a_weight_that_changes_its_sign_is_named_in_the_output_and_in_the_file(folder: Path) -> None:
    output = folder / "weights" / "signs.yaml"
    arguments = ["weights", "suggest", folder / "run", "--at-most", "like=0.91x"]
    text = recap(*arguments, "--output", output)
    new = load_config(folder / "ranker.yaml", [], [str(output)]).scoring.weights["like"]
    note = f"like: the weight changes its sign, from 1 to {new:g}, so the score now counts it against a row"
    assert new < 0
    assert f"\nnote: {note}\n" in text
    assert output.read_text().startswith(f"# {note}\nscoring:")
    done = CliRunner().invoke(app, [*map(str, arguments), "--json"])
    assert (f"note: {note}\n" in done.stderr, json.loads(done.stdout)["weights"]["like"]) == (True, new)
    assert "sign" not in recap(*arguments[:3], "--at-least", "like=1.01x")


def test_a_front_is_shown_as_a_table_and_as_json(folder: Path) -> None:
    text = recap("weights", "pareto", folder / "run", "--tasks", "like, share")
    assert text.splitlines()[2].startswith("current")
    front = json.loads(recap("weights", "pareto", folder / "run", "--tasks", "like,share", "--json"))
    rates = np.array([[point["expected"][task] for task in ("like", "share")] for point in front["points"]])
    assert len(rates) > 2
    assert (np.diff(rates, axis=0) < 0).all()


REFUSED = {
    "no target": ([], "no target; add --at-most TASK=RATE, --at-least TASK=RATE or --keep TASK"),
    "an unknown task": (["--keep=likes"], "unknown task 'likes'. Known: like, share. Did you mean 'like'?"),
    "out of reach": (["--at-most=share=0"], "share at most 0 is out of reach"),
    "a factor without its x": (["--at-most=like=0.99"], "; did you mean like=0.99x?"),
    "short lists": (["--keep=like", "--split=very_short"], "very_short: no list has 5 rows or more"),
    "an unknown split": (["--keep=like", "--split=al"], "split: unknown split 'al'"),
}


@pytest.mark.parametrize(("arguments", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_suggested_is_refused(folder: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(InputError) as error:
        recap("weights", "suggest", folder / "run", *arguments)
    assert message in str(error.value)


def test_evaluate_reports_the_order_of_the_score(folder: Path) -> None:
    text = recap("evaluate", folder / "run", "--split=validation")
    assert "final score, validation" in text
    result = EvaluationReport.read(Run(folder / "run")).splits["validation"]
    low, high = result.intervals[SCORE]["ndcg"]
    assert low < result.score["ndcg"] < high
    assert f"NDCG {result.score['ndcg']:.4f} ± " in text
    assert result.score["share/like"] + result.score["share/share"] == pytest.approx(1)
    assert "lists" not in result.intervals[SCORE]


def test_a_run_without_weights_or_users_says_what_is_missing(tmp_path: Path) -> None:
    folder = write_feed(tmp_path)
    values: dict[str, Any] = feed_values(folder, folder / "run")
    values["training"] |= {"num_train_steps": 2, "checkpoint_every_n": 2, "eval_log_every_n": None}
    (folder / "ranker.yaml").write_text(yaml.safe_dump(values | {"scoring": {"weights": {}}}))
    train(load_config(folder / "ranker.yaml"), Recorder())
    assert "no metrics of the final score, because scoring.weights is empty" in recap("evaluate", folder / "run")
    with pytest.raises(InputError, match=r"scoring\.weights: no task has a weight"):
        recap("weights", "suggest", folder / "run", "--keep=like")
    del values["features"]["user"]
    values["training"]["save_dir"] = str(folder / "other")
    (folder / "ranker.yaml").write_text(yaml.safe_dump(values))
    train(load_config(folder / "ranker.yaml"), Recorder())
    text = recap("evaluate", folder / "other")
    assert "no NDCG of the score, because there are no lists (features.user, features.request)" in text
    with pytest.raises(InputError, match=r"neither features\.user nor features\.request is set"):
        recap("weights", "pareto", folder / "other", "--tasks=like,share")
