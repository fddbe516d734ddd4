"""The Python API, as a notebook or a service imports it."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import Recorder, feed_config

import recap


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, feed: Path) -> recap.Run:
    folder = tmp_path_factory.mktemp("api")
    return recap.train(feed_config(feed, folder / "run"), reporter=Recorder()).run


@pytest.fixture(scope="module")
def scorer(run: recap.Run) -> recap.Scorer:
    return recap.Scorer.open(run.path)


@pytest.fixture(scope="module")
def rows(feed: Path) -> pa.Table:
    return pq.read_table(next((feed / "validation").glob("*.parquet"))).slice(0, 20)


def test_importing_recap_loads_nothing_heavy() -> None:
    heavy = "[name for name in ('torch', 'pyarrow', 'pydantic') if name in sys.modules]"
    script = f"import sys, recap; dir(recap); print({heavy})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_every_name_of_the_api_exists() -> None:
    for name in recap.__all__:
        assert getattr(recap, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'tarin'"):
        recap.tarin  # noqa: B018


def test_a_run_gives_its_configuration_checkpoints_and_metrics(run: recap.Run) -> None:
    assert run.config.tasks == ["like", "share"]
    assert list(run.checkpoints) == [4, 8, 12]
    assert run.checkpoint() == run.checkpoints[12]
    assert recap.Run(str(run.path)) == run
    assert run.best is None
    assert recap.Run(run.path / "absent").best is None
    assert run.metrics[-1]["step"] == 12
    with pytest.raises(recap.CheckpointError, match="no checkpoint of step 5; available: 4, 8, 12"):
        run.checkpoint(5)


def test_arguments_of_another_type_are_refused_by_name(run: recap.Run, tmp_path: Path) -> None:
    assert recap.Run(run) == run
    file = run.config_file
    for value in (None, 3, [3], {"training.seed": 2}):
        for use in (
            lambda wrong: recap.load_config(file, wrong),
            lambda wrong: recap.evaluate(run, overrides=wrong),
            lambda wrong: recap.Scorer.open(run, overrides=wrong or 3),
        ):
            with pytest.raises(recap.InputError, match="overrides: expected text or a list of texts, found "):
                use(value)
        with pytest.raises(recap.InputError, match="data: expected text or a list of texts, found "):
            recap.evaluate(run, data=value)  # type: ignore[arg-type]
        for open_ in (recap.Run, recap.evaluate, recap.Scorer.open):
            with pytest.raises(recap.InputError, match="run: expected the folder of a run, found a value of type "):
                open_(value)  # type: ignore[operator]
    with pytest.raises(recap.ConfigError, match="split: unknown split 3"):
        recap.evaluate(run, split=3)  # type: ignore[arg-type]


def test_a_run_that_is_missing_or_damaged_is_refused(run: recap.Run, tmp_path: Path) -> None:
    nowhere = recap.Run(tmp_path / "nowhere")
    assert (nowhere.metrics, nowhere.evaluation, nowhere.latest, nowhere.best) == ([], None, None, None)
    for use in (lambda: nowhere.config, lambda: recap.evaluate(nowhere)):
        with pytest.raises(recap.CheckpointError, match="nowhere: no run; give the folder of one"):
            use()
    with pytest.raises(recap.CheckpointError, match="step: expected a whole number or 'best', found '12'"):
        run.checkpoint("12")  # type: ignore[arg-type]
    nowhere.path.mkdir()
    nowhere.metrics_file.write_text('{"step": 1}\n{"step"\n')
    with pytest.raises(recap.CheckpointError, match=r"metrics.jsonl:2: damaged, not a JSON object"):
        nowhere.metrics  # noqa: B018
    nowhere.evaluation_file.write_text("[]")
    with pytest.raises(recap.CheckpointError, match=r"evaluation.json: damaged"):
        nowhere.evaluation  # noqa: B018


def test_one_override_may_be_given_as_text(run: recap.Run) -> None:
    assert recap.load_config(run.config_file, "training.seed=5").training.seed == 5


def test_a_finished_run_says_so(run: recap.Run) -> None:
    reporter = Recorder()
    result = recap.train(run.config, reporter=reporter)
    assert (result.trained, result.finished, result.steps) == (False, True, 12)
    assert reporter.messages == [
        f"{run.path} is already finished: it reached training.num_train_steps: 12; nothing to do"
    ]


def test_what_cannot_be_trained_or_report_is_refused(run: recap.Run) -> None:
    for config in ({"training": {}}, None):
        with pytest.raises(recap.InputError, match="config: expected a RecapConfig or the path of a configuration"):
            recap.train(config)  # type: ignore[arg-type]
    with pytest.raises(recap.InputError, match=r"reporter: expected an object, found the class Recorder; add \(\)"):
        recap.train(run.config, reporter=Recorder)  # type: ignore[arg-type]
    with pytest.raises(recap.InputError, match=r"reporter: expected a recap.Reporter, found a value of type int"):
        recap.train(run.config, reporter=3)  # type: ignore[arg-type]


def test_an_evaluation_is_returned_and_written(run: recap.Run) -> None:
    report = recap.evaluate(run)
    written = run.evaluation
    assert written is not None
    assert set(written["splits"]) == set(report.splits) == {"validation"}
    assert 0 < report.splits["validation"].metrics["like"]["auc"] < 1


def test_every_kind_of_table_gets_the_same_scores_in_its_own_kind(scorer: recap.Scorer, rows: pa.Table) -> None:
    arrow = scorer(rows)
    assert isinstance(arrow, pa.Table)
    assert arrow.column_names[-3:] == ["like", "share", "score"]
    frame = rows.to_pandas().set_index(pd.Index(range(100, 120)))
    scored = scorer(frame)
    assert isinstance(scored, pd.DataFrame)
    assert list(scored.index) == list(range(100, 120))
    assert list(scored["score"]) == arrow["score"].to_pylist()
    polars = scorer(pl.DataFrame(pl.from_arrow(rows)))
    assert isinstance(polars, pl.DataFrame)
    assert polars["score"].to_list() == arrow["score"].to_pylist()
    dicts = scorer(rows.to_pylist())
    assert dicts == arrow.to_pylist()


def test_scores_agree_with_the_predictions_of_files(run: recap.Run, rows: pa.Table, tmp_path: Path) -> None:
    from recap.inference.files import predict_files
    from recap.inference.predictor import Predictor

    pq.write_table(rows, tmp_path / "rows.parquet")
    predictor = Predictor.open(run.checkpoint())
    (target,) = predict_files(predictor, [str(tmp_path / "rows.parquet")], tmp_path / "out").files
    assert recap.Scorer.open(run.path)(rows).equals(pq.read_table(target))


def test_no_rows_give_no_scores(scorer: recap.Scorer, rows: pa.Table) -> None:
    assert scorer(rows.slice(0, 0)).num_rows == 0
    assert scorer([]) == []


def test_columns_that_are_not_read_may_hold_anything(scorer: recap.Scorer, rows: pa.Table) -> None:
    expected = scorer(rows)["score"].to_pylist()
    frame = rows.to_pandas()
    frame["junk"] = [1, "a", None, 2j, [3]] * 4
    assert list(scorer(frame)["score"]) == expected
    dicts = [{**row, "junk": 1 if number else "a", 3: object()} for number, row in enumerate(rows.to_pylist())]
    assert [row["score"] for row in scorer(dicts)] == expected


def test_missing_values_of_pandas_are_null_in_columns_of_integers_too(scorer: recap.Scorer, rows: pa.Table) -> None:
    frame = rows.to_pandas()
    frame["hour"] = frame["hour"].astype("float64")
    frame.loc[frame.index[1], "hour"] = None
    arrow = rows.to_pylist()
    arrow[1]["hour"] = None
    assert list(scorer(frame)["score"]) == [row["score"] for row in scorer(arrow)]


def test_a_wrong_value_is_refused_with_its_row(scorer: recap.Scorer, rows: pa.Table) -> None:
    number = scorer.config.features.continuous[0].name
    first, second = rows.slice(0, 2).to_pylist()
    for values in ([first, {**second, number: "oops"}], pd.DataFrame([first, {**second, number: "oops"}])):
        with pytest.raises(recap.DataError, match=f"table: column {number!r}, row 1: found 'oops', which does not fit"):
            scorer(values)
    with pytest.raises(recap.DataError, match=r"column 'hour', row 1: found 1\.9, expected a whole number"):
        scorer([first, {**second, "hour": 1.9}])
    with pytest.raises(recap.DataError, match="column 'hour', row 1: is missing; use None where there is no value"):
        scorer([first, {name: value for name, value in second.items() if name != "hour"}])
    doubled = pd.concat([rows.to_pandas(), rows.to_pandas()[["hour"]]], axis=1)
    with pytest.raises(recap.DataError, match="column 'hour': appears twice"):
        scorer(doubled)


def test_what_is_no_table_is_refused_by_its_type(scorer: recap.Scorer, rows: pa.Table) -> None:
    number = scorer.config.features.continuous[0].name
    with pytest.raises(recap.DataError, match=f"table: column {number!r}: "):
        scorer(rows.drop_columns([number]))
    with pytest.raises(recap.InputError, match=r"cannot score a value of type str; give a pyarrow\.Table, a pandas"):
        scorer("rows.parquet")
    with pytest.raises(recap.InputError, match="type dict; put it in a list"):
        scorer(rows.slice(0, 1).to_pylist()[0])
    with pytest.raises(recap.InputError, match="row 1: cannot score a value of type NoneType"):
        scorer([rows.slice(0, 1).to_pylist()[0], None])


def test_a_path_is_opened_with_open(run: recap.Run) -> None:
    for wrong in (run, run.path, str(run.path)):
        with pytest.raises(recap.InputError, match=r"open a model directory or a run with recap\.Scorer\.open"):
            recap.Scorer(wrong)  # type: ignore[arg-type]


def test_a_missing_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(recap.CheckpointError, match="no such folder"):
        recap.Scorer.open(tmp_path / "nowhere")
