"""`--profile`: a table, a trace and the operators of some steps; the run is unchanged."""

import json
import re
from contextlib import nullcontext
from pathlib import Path

import pytest
from support import Recorder, feed_config
from training.runs import assert_same_run

from recap.training.profile import SPANS, WARM_UP, span
from recap.training.trainer import train


def shares(messages: list[str]) -> dict[str, float]:
    """Part of training → its share in percent, from the only table in the messages."""
    (table,) = (text for text in messages if text.startswith("profile of "))
    rows = (re.fullmatch(r"(.*?) +([\d.]+) +([\d.]+)%", line) for line in table.splitlines()[1:])
    return {row[1]: float(row[3]) for row in rows if row is not None}


def test_a_profile_shows_where_time_goes_and_changes_nothing(feed: Path, tmp_path: Path) -> None:
    recorder = Recorder()
    train(feed_config(feed, tmp_path / "run"), recorder, profile_steps=6)
    train(feed_config(feed, tmp_path / "plain"), Recorder())
    assert_same_run(tmp_path / "run", tmp_path / "plain", 12)
    parts = shares(recorder.messages)
    assert list(parts) == [*SPANS, "other", "total"]  # steps 6 to 11 have every part
    assert parts["total"] == 100
    assert sum(parts.values()) == pytest.approx(200, abs=1)
    folder = tmp_path / "run" / "profile"
    names = [event.get("name") for event in json.loads((folder / "trace.json").read_text())["traceEvents"]]
    assert names.count("recap: forward") == names.count("recap: optimizer") == 6
    assert "aten::" in (folder / "operators.txt").read_text()
    assert any(str(folder) in text and "ui.perfetto.dev" in text for text in recorder.messages)


@pytest.mark.parametrize(("steps", "measured"), [(WARM_UP + 3, 3), (WARM_UP + 1, 1)])
def test_a_run_that_ends_within_the_window_reports_the_measured_steps(
    feed: Path, tmp_path: Path, steps: int, measured: int
) -> None:
    recorder = Recorder()
    train(feed_config(feed, tmp_path / "run", training={"num_train_steps": steps}), recorder, profile_steps=20)
    assert any(text.startswith(f"profile of {measured} steps") for text in recorder.messages)
    assert (tmp_path / "run" / "profile" / "trace.json").exists()


@pytest.mark.parametrize("steps", [1, WARM_UP])
def test_a_run_that_ends_before_the_window_reports_it(feed: Path, tmp_path: Path, steps: int) -> None:
    recorder = Recorder()
    train(feed_config(feed, tmp_path / "run", training={"num_train_steps": steps}), recorder, profile_steps=20)
    assert [text for text in recorder.messages if "profile" in text] == [
        "profile: the run ended within the first 5 steps, which are not measured"
    ]
    assert not (tmp_path / "run" / "profile").exists()


def test_an_unwritable_profile_is_reported_and_training_continues(feed: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "profile").write_text("in the way")
    recorder = Recorder()
    assert train(feed_config(feed, tmp_path / "run"), recorder, profile_steps=2).trained
    assert recorder.steps[-1] == 12
    assert any("profile cannot be written (" in text for text in recorder.messages)


def test_spans_cost_nothing_without_a_profile() -> None:
    assert isinstance(span("forward"), nullcontext)
