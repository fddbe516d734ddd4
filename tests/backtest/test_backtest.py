"""`recap backtest`: models trained on the past, evaluated on what comes next."""

import json
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from backtest.days import config_for, write_days
from support import Recorder, feed_values

from recap.backtest.chart import chart
from recap.backtest.record import RECORD, Fold, Record, open_record
from recap.backtest.run import NEXT, backtest, evaluate_holdout
from recap.backtest.windows import find_windows, plan_folds
from recap.cli.main import app
from recap.config.file.load import config_of, dump_config
from recap.config.recap import RecapConfig
from recap.errors import CheckpointError, DataError, InputError, Interrupted
from recap.evaluation.result import EvaluationReport
from recap.reporting import Reporter
from recap.runs import Run


@pytest.fixture(scope="module")
def days(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("days")
    write_days(folder)
    return folder


def names(config: RecapConfig) -> list[tuple[list[str], str]]:
    folds = plan_folds(config, find_windows(config))
    return [([window.name[-1] for window in fold.train], fold.evaluate.name[-1]) for fold in folds]


def test_each_fold_trains_on_what_is_earlier_than_its_gap(days: Path) -> None:
    assert names(config_for(days)) == [
        (["1"], "2"), (["1", "2"], "3"), (["1", "2", "3"], "4"), (["1", "2", "3", "4"], "5")
    ]  # fmt: skip
    assert names(config_for(days, first=2, gap=1, holdout=1)) == [(["1", "2"], "4")]
    assert names(config_for(days, first=2, mode="continue")) == [(["1", "2"], "3"), (["3"], "4"), (["4"], "5")]
    assert names(config_for(days, gap=2, mode="continue")) == [(["1"], "4"), (["2"], "5")]


@pytest.fixture(scope="module")
def finished(days: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Record]:
    """A backtest with a hold-out, which continues its models."""
    folder = tmp_path_factory.mktemp("finished") / "backtest"
    config = config_for(days, first=2, mode="continue", holdout=1)
    return folder, backtest(config, folder, Reporter())


def test_no_fold_reads_its_window_before_it_is_evaluated_nor_the_hold_out(
    finished: tuple[Path, Record], days: Path
) -> None:
    folder, record = finished
    assert [fold.window for fold in record.folds] == ["2024-05-03", "2024-05-04"]
    for fold in record.folds:
        config = Run(folder / fold.window).config
        read = [*config.train_data.source.inputs, *config.validation_data[NEXT].source.inputs]
        assert max(read) == str(days / f"feed-{fold.window}.parquet")
        assert max(config.train_data.source.inputs) < max(read)
        assert NEXT not in {line.get("split") for line in Run(folder / fold.window).metrics}  # in training
    first, second = (Run(folder / fold.window).config for fold in record.folds)
    assert first.training.initial_checkpoint_dir is None
    assert second.training.initial_checkpoint_dir == str(folder / "2024-05-03")


def test_a_fold_has_what_evaluate_reports_of_its_run(finished: tuple[Path, Record]) -> None:
    folder, record = finished
    for fold in record.folds:
        result = EvaluationReport.read(Run(folder / fold.window)).splits[NEXT]
        np.testing.assert_equal(dict(fold.metrics), dict(result.metrics))
        assert fold.intervals.keys() == result.intervals.keys() - {"(score)"}
        assert fold.metrics["like"]["count"] == fold.rows == 120
        trained, evaluated = fold.predictions["like"]
        assert 0 < trained < 1
        assert evaluated == pytest.approx(fold.metrics["like"]["pctr"], rel=1e-4)
        assert set(fold.features) == {"age", "followers", "in_network", "hour", "language"}
        assert list(fold.features.values()) == sorted(fold.features.values(), reverse=True)


def test_a_finished_backtest_has_nothing_to_do_and_its_record_reads_back(
    finished: tuple[Path, Record], days: Path
) -> None:
    folder, record = finished
    before = (folder / RECORD).read_bytes()
    again = backtest(config_for(days, first=2, mode="continue", holdout=1), folder, recorder := Recorder())
    assert recorder.steps == []
    assert json.dumps(again.to_json()) == json.dumps(record.to_json())
    assert (folder / RECORD).read_bytes() == before


def test_the_hold_out_is_evaluated_once(finished: tuple[Path, Record], days: Path) -> None:
    folder, record = finished
    config = config_for(days, first=2, mode="continue", holdout=1)
    record = evaluate_holdout(config, folder, record, Reporter(), again=False)
    (use,) = record.holdout_uses
    assert use.windows == ("2024-05-05",)
    assert use.metrics["like"]["count"] == 120
    assert use.model.startswith("2024-05-04/")
    assert next(iter(use.features)) == "followers"  # whose scale changed on that day
    with pytest.raises(CheckpointError, match=r"\(2024-05-05\) was evaluated at .* UTC with 2024-05-04/.*--again"):
        evaluate_holdout(config, folder, Record.read(folder / RECORD), Reporter(), again=False)
    record = evaluate_holdout(config, folder, record, Reporter(), again=True)
    assert len(Record.read(folder / RECORD).holdout_uses) == 2


def test_a_stopped_backtest_continues_as_if_it_had_not_stopped(days: Path, tmp_path: Path) -> None:
    config = config_for(days, first=3)
    with pytest.raises(Interrupted) as interrupted:
        backtest(config, tmp_path / "stopped", Recorder({2: lambda: signal.raise_signal(signal.SIGINT)}))
    assert interrupted.value.exit_code == 130
    assert Record.read(tmp_path / "stopped" / RECORD).folds == ()
    stopped, whole = (backtest(config, tmp_path / name, Reporter()) for name in ("stopped", "whole"))
    assert json.dumps(stopped.to_json()) == json.dumps(whole.to_json())


def test_new_days_are_new_folds_unless_there_is_a_hold_out(days: Path, tmp_path: Path) -> None:
    def of_days(count: int, **section: Any) -> RecapConfig:
        files = [str(days / f"feed-2024-05-0{day + 1}.parquet") for day in range(count)]
        config = config_for(days, first=2, **section)
        source = config.train_data.source.model_copy(update={"inputs": files})
        return config.model_copy(update={"train_data": config.train_data.model_copy(update={"source": source})})

    assert len(plan_folds(of_days(3), find_windows(of_days(3)))) == 1

    for holdout, folder in ((0, tmp_path / "open"), (1, tmp_path / "held")):
        config = of_days(4, holdout=holdout).model_copy(update={"train_data": of_days(5).train_data})
        open_record(config, folder, find_windows(of_days(4)))
        if holdout:
            with pytest.raises(CheckpointError, match="2024-05-05 is new, but this backtest has a hold-out"):
                open_record(config, folder, find_windows(config))
        else:
            assert len(open_record(config, folder, find_windows(config)).windows) == 5
        with pytest.raises(CheckpointError, match="2024-05-04 of this backtest has no files"):
            open_record(config, folder, find_windows(of_days(3)))
        with pytest.raises(CheckpointError, match=r"began with another configuration.*\n.*backtest.first: 2 → 1"):
            open_record(config_for(days, holdout=holdout), folder, find_windows(of_days(4)))


def copy(days: Path, folder: Path, renamed: Sequence[str]) -> Path:
    """The first days under other names."""
    folder.mkdir()
    for day, name in enumerate(renamed, start=1):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((days / f"feed-2024-05-0{day}.parquet").read_bytes())
    return folder


@pytest.mark.parametrize(
    ("files", "windows"),
    [
        (["date=20240501/feed-0.parquet", "date=20240502/feed-0.parquet"], ["2024-05-01", "2024-05-02"]),
        (["2024/05/01/feed-0.parquet", "2024/05/02/feed-1.parquet"], ["2024-05-01", "2024-05-02"]),
        (["feed-b.parquet", "feed-a.parquet"], ["2024-05-01", "2024-05-02"]),  # by their times
        (["feed-99999999.parquet", "feed-20240502.parquet"], ["2024-05-01", "2024-05-02"]),
    ],
)
def test_a_window_is_the_day_in_the_path_or_else_of_the_times(
    days: Path, tmp_path: Path, files: list[str], windows: list[str]
) -> None:
    copy(days, tmp_path / "in", files)
    config = config_for(days, inputs=[str(tmp_path / "in" / "**" / "feed-*.parquet")])
    found = find_windows(config)
    assert [window.name for window in found] == windows
    assert [window.files for window in found] == [(str(tmp_path / "in" / file),) for file in files]
    assert [window.rows for window in found] == [120, 120]


def without_times(config: RecapConfig) -> RecapConfig:
    return config.model_copy(update={"features": config.features.model_copy(update={"timestamp": None})})


def test_files_are_windows_in_the_order_of_time(days: Path, tmp_path: Path) -> None:
    copy(days, tmp_path / "in", ["feed-b.parquet", "feed-a.parquet"])
    config = config_for(days, inputs=[str(tmp_path / "in" / "feed-*.parquet")], window="file")
    assert [window.name for window in find_windows(config)] == ["feed-b", "feed-a"]
    assert [window.name for window in find_windows(without_times(config))] == ["feed-a", "feed-b"]


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"first": 5}, r"5 windows of time \(2024-05-01 to 2024-05-05\) are too few: first 5 \+ gap 0 \+ holdout 0"),
        ({"gap": 4}, "are too few: first 1 .* gap 4"),
        ({"holdout": 4}, "are too few"),
        ({"holdout": 9}, "are too few"),
    ],
)
def test_too_few_windows_are_an_error(days: Path, tmp_path: Path, section: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        backtest(config_for(days, **section), tmp_path / "out", Reporter())
    assert not (tmp_path / "out").exists()


def test_files_without_an_order_are_an_error(days: Path, tmp_path: Path) -> None:
    copy(days, tmp_path / "in", ["feed-a.parquet", "feed-b.parquet"])
    config = config_for(days, inputs=[str(tmp_path / "in" / "*.parquet")])
    with pytest.raises(DataError, match=r"feed-a.parquet: has no date in its path, and features.timestamp is not set"):
        find_windows(without_times(config))
    both = [pq.read_table(tmp_path / "in" / f"feed-{name}.parquet") for name in "ab"]
    pq.write_table(pa.concat_tables(both), tmp_path / "in" / "feed-c.parquet")
    with pytest.raises(DataError, match=r"feed-c.parquet: spans 2 days, from 2024-05-01 .* recap data split"):
        find_windows(config)
    files = config.model_copy(update={"backtest": config.backtest.model_copy(update={"window": "file"})})
    with pytest.raises(DataError, match=r"its rows begin at 2024-05-01 00:00:00 UTC, before those of .* end"):
        find_windows(files)


def test_only_an_empty_folder_or_that_of_the_backtest_is_written_to(days: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match=r"is not empty, and holds no backtest.json"):
        backtest(config_for(days), tmp_path, Reporter())
    values = config_for(days).model_dump()
    values["train_data"]["source"]["inputs"] = [str(days / "**" / "*.parquet")]
    with pytest.raises(InputError, match=r"--output: .*out is where .* looks for data"):
        backtest(config_of(values), days / "out", Reporter())
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / RECORD).write_text("{}")
    with pytest.raises(InputError, match=r"backtest.json: damaged"):
        backtest(config_for(days), tmp_path / "damaged", Reporter())


def test_a_damaged_record_is_refused_and_so_is_one_without_its_configuration(days: Path, tmp_path: Path) -> None:
    windows = find_windows(config_for(days))
    fold = Fold("model", 9, {"like": {"auc": 0.5}}, {"like": {"auc": (0.4, 0.6)}}, {"hour": 0.1}, {"like": (0.5, 0.5)})
    whole = replace(fold, window=windows[1].name, trained_on=(windows[0].name,))
    file = tmp_path / RECORD
    Record(windows, 0, [whole]).write(tmp_path)
    assert Record.read(file).folds == (whole,)
    changes: list[dict[str, Any]] = [
        {"metrics": 5},
        {"metrics": {"like": {"auc": "high"}}},
        {"intervals": {"like": {"auc": (0.4,)}}},
        {"features": {"hour": "much"}},
        {"predictions": 5},
        {"window": "../elsewhere"},
        {"trained_on": ()},
    ]
    for change in changes:
        Record(windows, 0, [replace(whole, **change)]).write(tmp_path)
        with pytest.raises(InputError, match=r"backtest.json: damaged"):
            Record.read(file)
    Record(windows, 0, [whole]).write(tmp_path)
    with pytest.raises(InputError, match=r"backtest.yaml: no such file; restore it"):
        open_record(config_for(days), tmp_path, windows)


def test_a_fold_does_not_choose_by_its_own_window(days: Path, tmp_path: Path) -> None:
    values = feed_values(days, tmp_path)
    values["training"] |= {"num_train_steps": 2, "watch": {"metric": "auc", "split": "validation"}}
    values["backtest"] = {"inputs": str(days / "feed-*.parquet"), "first": 4}
    recorder = Recorder()
    record = backtest(config_of(values), tmp_path / "backtest", recorder)
    assert any("training.watch is off" in text for text in recorder.messages)
    assert Run(tmp_path / "backtest" / record.folds[0].window).config.training.watch is None
    assert recorder.evaluated_at == []


def test_the_command_prints_a_table_and_continues(
    finished: tuple[Path, Record], days: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = finished
    file = tmp_path / "ranker.yaml"
    file.write_text(dump_config(config_for(days)))
    options = ["--first", "2", "--mode", "continue", "--holdout", "1", "--output", str(folder)]
    app(["backtest", str(file), *options], standalone_mode=False)
    out = capsys.readouterr().out
    assert out.count("2024-05-03") == 2  # in the table, and its drift
    assert "drift of 2024-05-04: " in out
    assert f"written: {folder}/backtest.json" in out
    app(["backtest", str(file), *options, "--json"], standalone_mode=False)
    assert json.loads(capsys.readouterr().out)["folds"][0]["window"] == "2024-05-03"
    record = Record(tuple(find_windows(config_for(days))), 0)
    with pytest.raises(InputError, match="--holdout-final: this backtest has no hold-out"):
        evaluate_holdout(config_for(days), folder, record, Reporter(), again=False)


def test_the_chart_has_a_point_per_window_and_task(finished: tuple[Path, Record]) -> None:
    folder, record = finished
    drawn = chart(record, regressions=[])
    shown = {(value["window"], value["task"]) for value in drawn["data"]["values"]}
    assert shown == {(fold.window, task) for fold in record.folds for task in ("like", "share")}
    pytest.importorskip("vl_convert")
    assert (folder / "backtest.svg").read_text().startswith("<svg")
