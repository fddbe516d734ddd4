"""`recap evaluate`: what is evaluated, what is written, and what is refused."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
import yaml
from support import Recorder, feed_values, write_feed
from typer.testing import CliRunner

from recap.cli.main import app
from recap.config.file.load import load_config
from recap.errors import ConfigError, DataError, InputError
from recap.evaluation.result import estimates_file
from recap.model.directory import verify_model
from recap.runs import Run
from recap.training.trainer import train


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A feed, and a run with two validation sets."""
    folder = write_feed(tmp_path_factory.mktemp("feed"))
    values = feed_values(folder, folder / "run")
    values["training"] |= {"num_train_steps": 2, "checkpoint_every_n": 1, "eval_log_every_n": None}
    values["validation_data"]["again"] = values["validation_data"]["validation"]
    (folder / "ranker.yaml").write_text(yaml.safe_dump(values))
    train(load_config(folder / "ranker.yaml"), Recorder())
    return folder


def evaluate(*arguments: str | Path) -> str:
    """The output of the command."""
    return recap("evaluate", *arguments)


def recap(*arguments: str | Path) -> str:
    """The output of a command."""
    done = CliRunner().invoke(app, [*map(str, arguments)])
    if done.exception is not None:
        raise done.exception
    return done.output


def written(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(file.read_text())
    return content


def test_a_split_keeps_the_results_of_the_others(folder: Path) -> None:
    file = folder / "run" / "evaluation.json"
    text = evaluate(folder / "run")
    both = written(file)
    assert both["splits"].keys() == {"validation", "again"}
    low, high = both["intervals"]["validation"]["like"]["auc"]
    assert f"{(low + high) / 2:.4f} ± {(high - low) / 2:.4f}" in text
    assert both["rows"]["validation"] == both["rows"]["again"]
    assert estimates_file(file).exists()
    assert both["data"] == {name: [str(folder / "validation" / "*.parquet")] for name in both["splits"]}
    evaluate(folder / "run", "--split=again")
    assert written(file)["splits"] == both["splits"]
    assert "models" not in written(file)
    evaluate(folder / "run", "--split=again", "--step=1")
    earlier = written(file)
    assert earlier["splits"]["validation"] == both["splits"]["validation"]
    assert (earlier["model"], earlier["models"]) == ("step_00000001", {"validation": "step_00000002"})


def test_chosen_metrics_are_shown_below_a_title_in_one_line(folder: Path) -> None:
    text = evaluate(folder / "run", "--split=again", 'which_metrics=["hit_at"]')
    title, header, *_ = text.splitlines()
    assert title.startswith("again, step_00000002, ")
    assert header.split() == ["task", "hit_at_1", "hit_at_3", "hit_at_10"]


def test_estimates_replace_no_other_file(folder: Path, tmp_path: Path) -> None:
    data = ["--data", *folder.glob("validation/*.parquet")]
    mine = tmp_path / "model.safetensors"
    mine.write_text("mine")
    with pytest.raises(InputError, match=r"model.safetensors already exists; add --overwrite"):
        evaluate(folder / "run", *data, "--output", tmp_path / "model.json")
    with pytest.raises(InputError, match=r"other.safetensors is the file of the estimates; name a JSON file"):
        evaluate(folder / "run", *data, "--output", tmp_path / "other.safetensors")
    assert (mine.read_text(), list(tmp_path.iterdir())) == ("mine", [mine])


def test_a_run_that_cannot_be_written_to_is_refused_before_it_is_evaluated(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: (str(path), mode) != (str(folder / "run"), os.W_OK))
    with pytest.raises(InputError, match="run: cannot be written to; write the result elsewhere with --output FILE"):
        evaluate(folder / "run")


def test_other_files_are_evaluated_as_a_split_and_written_only_on_request(folder: Path) -> None:
    evaluate(folder / "run")
    before = (folder / "run" / "evaluation.json").read_bytes()
    table = pq.read_table(folder / "validation")
    pq.write_table(table, folder / "new.parquet")
    evaluate(folder / "run", "training.num_eval_steps=1")
    text = evaluate(folder / "run", "--data", folder / "new.parquet")
    assert "not saved, because these are other files; to save it, add --output FILE" in text
    assert (folder / "run" / "evaluation.json").read_bytes() == before
    output = folder / "results" / "new.json"
    evaluate(folder / "run", "--data", folder / "new.parquet", "--output", output, "which_metrics=[count, auc]")
    result = written(output)
    assert result["splits"]["data"]["like"]["auc"] == json.loads(before)["splits"]["validation"]["like"]["auc"]
    assert result["data"] == {"data": [str(folder / "new.parquet")]}
    assert result["overrides"] == ["which_metrics=[count, auc]"]
    assert (folder / "run" / "evaluation.json").read_bytes() == before
    with pytest.raises(InputError, match=r"--output: .*json already exists; add --overwrite to replace it"):
        evaluate(folder / "run", "--output", output)
    for file in ("ranker.yaml", "new.parquet", "run/metrics.jsonl"):
        kept = (folder / file).read_bytes()
        with pytest.raises(InputError, match=f"{file}: would be overwritten by its own output"):
            evaluate(folder / "ranker.yaml", "--data", folder / "new.parquet", "--output", folder / file, "--overwrite")
        assert (folder / file).read_bytes() == kept
    with pytest.raises(InputError, match=r"unexpected argument .*; to evaluate files, write --data .*new.parquet"):
        evaluate(folder / "run", folder / "new.parquet")


def test_more_texts_mean_null_in_csv_files_on_request(folder: Path, tmp_path: Path) -> None:
    values = feed_values(folder, tmp_path / "run")
    values["training"]["num_train_steps"] = 1
    values["features"].pop("vectors")
    (tmp_path / "ranker.yaml").write_text(yaml.safe_dump(values))
    train(load_config(tmp_path / "ranker.yaml"), Recorder())
    table = pq.read_table(folder / "validation")
    table = table.drop_columns([field.name for field in table.schema if pa.types.is_nested(field.type)])
    file = tmp_path / "day.csv"
    pacsv.write_csv(
        table.drop_columns("age").append_column("age", pa.array(["-", *["2.5"] * (table.num_rows - 1)])), file
    )
    run, predict = tmp_path / "run", ["predict", tmp_path / "run", file, "--output", tmp_path / "scored"]
    for command in (["evaluate", run, "--data", file], predict):
        with pytest.raises(DataError, match=r"column 'age', row 0: found '-', expected a number; .*--null-value"):
            recap(*command)
        recap(*command, "--null-value", "-", "--null-value", "?")
    evaluate(run, "--data", file, "--null-value", "-", "--output", tmp_path / "result.json")
    assert written(tmp_path / "result.json")["overrides"] == ["--null-value -"]


def test_files_of_an_expanded_glob_are_all_evaluated(folder: Path) -> None:
    files = sorted((folder / "train").glob("*.parquet"))
    output = folder / "expanded.json"
    evaluate(folder / "run", "--data", *files, "which_metrics=[count]", "--output", output)
    assert written(output)["splits"]["data"]["like"]["count"] == 600


def test_training_files_are_named_as_such_in_one_line(folder: Path, tmp_path: Path) -> None:
    first, *others = sorted((folder / "train").glob("*.parquet"))
    text = evaluate(folder / "run", "--data", first, *others, "which_metrics=[count]")
    which = f"{first.name} and {len(others)} other" + "s" * (len(others) > 1)
    ending = "of this model; expect better values than on new rows"
    assert text.count(f"warning: data: {which} are training files {ending}") == 1
    copy = tmp_path / "copy.parquet"
    copy.write_bytes(first.read_bytes())
    text = evaluate(folder / "run", "--data", copy, "which_metrics=[count]")
    assert f"warning: data: copy.parquet is a training file {ending}" in text
    assert "training file" not in evaluate(folder / "run", 'which_metrics=["count"]')
    text = evaluate(
        folder / "run", f"validation_data.again.source.inputs=[{first}]", "--output", tmp_path / "again.json"
    )
    assert f"warning: again: {first.name} is a training file {ending}" in text
    assert "warning: validation" not in text


def test_a_checkpoint_is_not_changed_by_its_evaluation(folder: Path) -> None:
    checkpoint = Run(folder / "run").checkpoint()
    assert "not saved, because this is a model directory" in evaluate(checkpoint)
    verify_model(checkpoint)
    assert not (checkpoint / "evaluation.json").exists()
    with pytest.raises(InputError, match="is in the model directory"):
        evaluate(checkpoint, "--output", checkpoint / "result.json")


@pytest.mark.parametrize(
    ("source", "override", "message"),
    [
        ("run", "training.seed=3", "an evaluation takes .*leave out these overrides:\n  training.seed: 0 → 3"),
        ("run", "model.backbone.use_parallel=false", "leave out these overrides:\n  model.backbone.use_parallel"),
        ("run", "training.save_dir=x", "leave out these overrides:\n  training.save_dir"),
        ("run", "train_data.global_batch_size=8", "leave out these overrides:\n  train_data.global_batch_size"),
        ("ranker.yaml", "optimizer.towers.default.learning_rate=3", "leave out these overrides"),
    ],
)
def test_overrides_that_an_evaluation_does_not_read_are_refused(
    folder: Path, source: str, override: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        evaluate(folder / source, override)


def test_overrides_that_validation_sets_inherit_are_read(folder: Path) -> None:
    assert "because there are overrides" in evaluate(folder / "ranker.yaml", "train_data.global_batch_size=32")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ranker.yaml", "training.save_dir=none"], "none: no checkpoint of this configuration yet; train it first: "),
        (["run", "--schema=x"], "--schema: requires --data"),
        (["run", "--null-value=-"], "--null-value: requires --data"),
        (["run", "--data=validation/*.parquet", "--null-value=-"], "--null-value: .* is parquet; only CSV has texts"),
        (["run", "run"], "unexpected argument 'run': evaluate one run at a time; docs/comparing.md shows"),
        (["run", "ranker.yaml", "--data=x"], "unexpected argument 'ranker.yaml': evaluate one run at a time"),
        (["run", "--follow", "--data=x"], "--data: --follow evaluates the validation sets only"),
        (["run", "--data=train/part-0.parquet", "--data=rows.csv"], "is csv and .* is parquet; evaluate one format"),
        (["run", "--data=train/part-0.parquet", "--split=no"], "split: unknown split 'no'. Known: again, validation"),
    ],
)
def test_misuse_is_refused(
    folder: Path, arguments: Sequence[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    (folder / "rows.csv").write_text("x\n1\n")
    with pytest.raises(InputError, match=message):
        evaluate(*arguments)
