"""The log of requests: what was served can be scored again, and logging never fails a request."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving.watch.requests import answer, log_files, make_request, read_log
from typer.testing import CliRunner

from recap.cli.main import app
from recap.config.serving.server import RequestLogConfig, ServerConfig
from recap.errors import InputError
from recap.inference.requests import RequestScorer
from recap.serving.contract import RankRequest
from recap.serving.watch.request_log import RequestLog, is_logged, positions, rows_of
from recap.serving.watch.watch import Watch


def config(folder: Path, **fields: Any) -> ServerConfig:
    return ServerConfig(request_log=RequestLogConfig(folder=str(folder), **{"share": 1.0, **fields}))


def log_one(scorer: RequestScorer, log: RequestLog, seed: int = 0, rows: int = 5) -> None:
    request = make_request(rows, seed)
    log.write(rows_of(request, answer(scorer, request), datetime.now(UTC), returned=True), "feed")


def retyped(request: RankRequest, types: dict[str, pa.DataType]) -> RankRequest:
    """The same values as other types."""
    user, candidates = (
        pa.table({name: table[name].cast(types.get(name, table[name].type)) for name in table.column_names})
        for table in (request.user, request.candidates)
    )
    return replace(request, user=user, candidates=candidates)


FORMS: list[Callable[[RankRequest], RankRequest]] = [
    lambda request: request,
    lambda request: retyped(request, {"age": pa.float32(), "hour": pa.string(), "post_id": pa.string()}),
    lambda request: retyped(request, {"hour": pa.float64(), "user_id": pa.string(), "language": pa.large_binary()}),
    lambda request: retyped(request, {"followers": pa.float64(), "vector": pa.large_list(pa.float64())}),
    lambda request: replace(request, user=request.user.drop_columns(["user_id"])),
    lambda request: replace(
        request,
        user=request.user.drop_columns(["language"]),
        candidates=request.candidates.append_column(
            "language", request.user["language"].take(pa.array([0] * request.candidates.num_rows))
        ),
    ),
]


def test_predictions_of_the_log_are_those_that_were_served(model: Path, scorer: RequestScorer, tmp_path: Path) -> None:
    served = []
    with Watch(config(tmp_path / "log")) as watch:
        watch.loaded("feed", "1", model, scorer)
        for seed, form in enumerate(FORMS):
            request = form(make_request(seed + 1, seed))
            response = answer(scorer, request)
            watch.log(request, response)
            served.append(response)
    done = CliRunner().invoke(
        app, ["predict", str(model), str(tmp_path / "log" / "*.parquet"), f"--output={tmp_path}/p"]
    )
    assert done.exit_code == 0, done.output
    assert len(log_files(tmp_path / "log")) == 1, "one schema, in whichever form clients send a column"
    predicted = pa.concat_tables(pq.read_table(file) for file in sorted((tmp_path / "p").rglob("*.parquet")))
    logged = read_log(tmp_path / "log")
    assert logged["served.score"].to_numpy().tolist() == predicted["score"].to_numpy().tolist()
    for index, task in enumerate(scorer.config.tasks):
        expected = np.concatenate([response.probabilities[:, index] for response in served])
        assert logged[f"served.probability.{task}"].to_numpy().tobytes() == expected.tobytes()
        assert predicted[task].to_numpy().tobytes() == expected.tobytes()


def test_a_row_tells_request_position_and_version(scorer: RequestScorer, tmp_path: Path) -> None:
    request = make_request(4, id_="client's")
    response = replace(answer(scorer, request), scores=np.array([0.5, np.nan, 2.0, 0.5]), candidates=9)
    with Watch(config(tmp_path)) as watch:
        watch.log(request, response, returned=False)
    rows = read_log(tmp_path)
    assert rows["served.position"].to_pylist() == [2, None, 1, 3]
    assert rows["served.propensity"].to_pylist() == [1.0] * 4
    assert rows["served.request"].to_pylist() == [request.key] * 4
    (row,) = rows.slice(0, 1).to_pylist()
    assert (row["served.id"], row["served.model"], row["served.version"]) == ("client's", "feed", "1")
    assert (row["served.returned"], row["served.candidates"]) == (False, 9)
    assert row["served.time"].tzinfo is not None
    assert rows["language"].to_pylist() == request.user["language"].to_pylist() * 4
    assert rows["vector"].to_pylist() == request.candidates["vector"].to_pylist()


def test_shed_candidates_and_left_out_columns_are_not_logged(scorer: RequestScorer, tmp_path: Path) -> None:
    request = make_request(5)
    request = replace(request, user=request.user.append_column("served.score", pa.array([7.0])))
    response = answer(scorer, make_request(3))
    with Watch(config(tmp_path, leave_out=["user_id", "post_id"])) as watch:
        watch.log(request, response)
    rows = read_log(tmp_path)
    assert rows["age"].to_pylist() == request.candidates["age"].to_pylist()[:3]
    assert {"user_id", "post_id"}.isdisjoint(rows.column_names)
    assert rows["served.score"].to_pylist() == response.scores.tolist()


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=1, max_size=20))
def test_positions_order_finite_scores(scores: list[float]) -> None:
    found = positions(np.array(scores)).to_pylist()
    finite = [index for index, score in enumerate(scores) if np.isfinite(score)]
    order = sorted(finite, key=lambda index: -scores[index])
    assert [found[index] for index in order] == list(range(1, len(finite) + 1))
    assert all(found[index] is None for index in set(range(len(scores))) - set(finite))


@given(st.text(min_size=1), st.floats(0, 1), st.floats(0, 1))
def test_a_larger_share_logs_every_request_of_a_smaller_one(key: str, one: float, other: float) -> None:
    assert is_logged(key, min(one, other)) <= is_logged(key, max(one, other))
    assert is_logged(key, 1.0)
    assert not is_logged(key, 0.0)


def test_the_share_of_requests_is_logged() -> None:
    assert sum(is_logged(make_key(number), 0.1) for number in range(10_000)) == pytest.approx(1000, rel=0.1)


def make_key(number: int) -> str:
    return f"{number:032x}"


def test_requests_with_other_types_have_files_of_their_own(scorer: RequestScorer, tmp_path: Path) -> None:
    request = make_request(3)
    wider = request.candidates.set_column(
        request.candidates.column_names.index("age"), "age", request.candidates["age"].cast(pa.float64())
    )
    with Watch(config(tmp_path)) as watch:
        for candidates in (request.candidates, wider, request.candidates):
            other = replace(request, candidates=candidates)
            watch.log(other, answer(scorer, other))
    assert 'recap_request_log_rows_total{result="written"} 9.0' in watch.exposition().decode()
    assert sorted(pq.read_metadata(file).num_rows for file in log_files(tmp_path)) == [3, 6]


def test_files_end_by_age_and_the_oldest_are_deleted(scorer: RequestScorer, tmp_path: Path) -> None:
    (tmp_path / "mine.parquet").write_bytes(b"")
    fields = {"folder": str(tmp_path), "file_mib": 1, "max_gib": 20_000 / 2**30}
    log = RequestLog(RequestLogConfig(**fields, file_minutes=1e-9))
    for seed in range(10):
        log_one(scorer, log, seed)
        log.tick()
    files = [file for file in log_files(tmp_path) if file.name != "mine.parquet"]
    assert 1 <= len(files) < 10, "complete ones, of which the oldest are deleted"
    assert sum(file.stat().st_size for file in files) <= 20_000
    last = read_rows(files[-1])
    assert last["age"].to_pylist() == make_request(5, 9).candidates["age"].to_pylist(), "the newest stay"
    assert (tmp_path / "mine.parquet").exists(), "files of others stay"
    log.close()


def test_files_end_by_size(scorer: RequestScorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recap.serving.watch.request_log._GROUP_BYTES", 1)
    log = RequestLog(RequestLogConfig(folder=str(tmp_path), file_mib=1))
    while len(log_files(tmp_path)) < 2:
        log_one(scorer, log, rows=5000)
    assert all(2**20 <= file.stat().st_size < 2**21 for file in log_files(tmp_path))
    log.close()


def read_rows(file: Path) -> pa.Table:
    return pq.read_table(file)


def test_a_full_disk_fails_no_request_and_is_counted(scorer: RequestScorer, tmp_path: Path) -> None:
    lines: list[str] = []
    request = make_request(4)
    with Watch(config(tmp_path / "log"), say=lines.append) as watch:
        (tmp_path / "log" / ".lock").unlink()
        (tmp_path / "log").rmdir()
        for _ in range(3):
            watch.log(request, answer(scorer, request))
    assert 'recap_request_log_rows_total{result="failed"} 12.0' in watch.exposition().decode()
    assert len(lines) == 1, "one message a minute"
    assert "requests are served on" in lines[0]


def test_rows_of_a_file_that_cannot_be_completed_count_as_failed(scorer: RequestScorer, tmp_path: Path) -> None:
    request = make_request(4)
    with Watch(config(tmp_path / "log"), say=lambda text: None) as watch:
        for _ in range(3):
            watch.log(request, answer(scorer, request))
        watch._worker.submit(lambda: (tmp_path / "log").rename(tmp_path / "gone"), 0)
    counted = watch.exposition().decode()
    assert 'recap_request_log_rows_total{result="failed"} 12.0' in counted
    assert 'result="written"' not in counted


def test_what_the_thread_has_no_time_for_is_dropped_and_counted(
    scorer: RequestScorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recap.serving.watch.worker._BYTES", 0)
    request = make_request(4)
    with Watch(config(tmp_path)) as watch:
        watch.log(request, answer(scorer, request))
    watch.log(request, answer(scorer, request))
    assert 'recap_request_log_rows_total{result="dropped"} 8.0' in watch.exposition().decode()


def test_a_folder_has_one_server_and_leftovers_are_cleared(tmp_path: Path) -> None:
    leftover = tmp_path / "feed-20260101T000000000000Z-1.parquet.unfinished"
    leftover.write_bytes(b"half")
    with Watch(config(tmp_path)):
        assert not leftover.exists()
        with pytest.raises(InputError, match=r"request_log\.folder: another server writes to "):
            Watch(config(tmp_path))
    Watch(config(tmp_path)).close()
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match=r"request_log\.folder: cannot write to .* choose another"):
        Watch(config(tmp_path / "file" / "log"))
