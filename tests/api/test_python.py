"""The Python API: what a notebook or a service imports."""

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


def test_a_run_tells_what_it_holds(run: recap.Run) -> None:
    assert run.config.tasks == ["like", "share"]
    assert list(run.checkpoints) == [4, 8, 12]
    assert run.checkpoint() == run.checkpoints[12]
    assert recap.Run(str(run.path)) == run
    assert run.metrics[-1]["step"] == 12
    with pytest.raises(recap.CheckpointError, match="no checkpoint of step 5; there are 4, 8, 12"):
        run.checkpoint(5)


def test_an_evaluation_is_returned_and_written(run: recap.Run) -> None:
    report = recap.evaluate(run)
    written = run.evaluation
    assert written is not None
    assert set(written["splits"]) == set(report.splits) == {"validation"}
    assert 0 < report.splits["validation"].metrics["like"]["auc"] < 1


def test_tables_of_every_kind_get_the_same_scores_and_come_back_as_their_kind(
    scorer: recap.Scorer, rows: pa.Table
) -> None:
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
    (target,) = predict_files(Predictor.open(run.checkpoint()), [str(tmp_path / "rows.parquet")], tmp_path / "out")
    assert recap.Scorer.open(run.path)(rows).equals(pq.read_table(target))


def test_no_rows_give_no_scores(scorer: recap.Scorer, rows: pa.Table) -> None:
    assert scorer(rows.slice(0, 0)).num_rows == 0
    assert scorer([]) == []


def test_a_row_that_lacks_a_key_has_null_there(scorer: recap.Scorer, rows: pa.Table) -> None:
    first, second = rows.slice(0, 2).to_pylist()
    number = scorer.config.features.continuous[0].name
    without = {name: value for name, value in second.items() if name != number}
    assert scorer([first, without])[0] == scorer([first, second])[0]
    assert scorer([first, without])[1] == scorer([first, {**second, number: None}])[1]


def test_what_cannot_be_scored_is_refused_by_name(scorer: recap.Scorer, rows: pa.Table) -> None:
    number = scorer.config.features.continuous[0].name
    with pytest.raises(recap.DataError, match=f"table: column {number!r}: "):
        scorer(rows.drop_columns([number]))
    with pytest.raises(recap.DataError, match=f"table: column {number!r}: cannot be read: .*'many'"):
        scorer([{**rows.slice(0, 1).to_pylist()[0], number: "many"}])
    with pytest.raises(recap.InputError, match=r"a str cannot be scored; give a pyarrow\.Table, a pandas"):
        scorer("rows.parquet")


def test_a_model_that_is_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(recap.CheckpointError, match="no such folder"):
        recap.Scorer.open(tmp_path / "nowhere")
