"""What a running server shows and logs of real requests."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families
from serving.running import running
from serving.watch.requests import make_request, read_log
from typer.testing import CliRunner

from recap.cli.main import app
from recap.inference.requests import RequestScorer


def rank(address: str, rows: int, seed: int, headers: Mapping[str, str] | None = None, **fields: Any) -> Any:
    """The answer, with the id that its header names as `request`."""
    request = make_request(rows, seed)
    body = {
        "user": {name: request.user[name][0].as_py() for name in request.user.column_names},
        "candidates": request.candidates.to_pylist(),
        **fields,
    }
    content = json.dumps(body).replace("NaN", "null").encode()
    headers = {"Content-Type": "application/json", **(headers or {})}
    with urlopen(Request(f"{address}/v1/rank", content, headers), timeout=60) as answer:
        return {**json.loads(answer.read()), "request": answer.headers["X-Request-Id"]}


def test_requests_are_counted_and_their_log_is_whole_when_the_server_ends(
    model: Path, scorer: RequestScorer, tmp_path: Path
) -> None:
    with running(model, request_log={"folder": str(tmp_path / "log"), "share": 1.0}) as addresses:
        answers = [rank(addresses.http, 3 + seed, seed, id=str(seed)) for seed in range(3)]
        answers.append(rank(addresses.http, 6, 3, {"X-Request-Id": "abc"}, id="3"))
        with urlopen(f"{addresses.http}/metrics", timeout=60) as response:
            families = list(text_string_to_metric_families(response.read().decode()))
    values = {(sample.name, *sorted(sample.labels.values())): sample.value for f in families for sample in f.samples}
    version = answers[0]["version"]
    assert values["recap_requests_total", *sorted(["feed", version, "rest", "ok"])] == 4
    for stage in ("decode", "encode", "queue", "model", "respond", "total"):
        assert values["recap_latency_seconds_count", stage] == 4, stage
    assert values["recap_score_count", *sorted(["feed", version])] == 3 + 4 + 5 + 6
    assert values["recap_feature_training_mean", *sorted(["age", "feed", version])] > 0
    assert values["process_resident_memory_bytes",] > 1e6
    log = read_log(tmp_path / "log")
    assert sorted(set(log["served.id"].to_pylist())) == ["0", "1", "2", "3"]
    assert log.num_rows == 18
    assert answers[3]["request"] == "abc"
    assert set(log["served.request"].to_pylist()) == {answer["request"] for answer in answers}
    done = CliRunner().invoke(
        app, ["predict", str(model), str(tmp_path / "log" / "*.parquet"), f"--output={tmp_path / 'predicted'}"]
    )
    assert done.exit_code == 0, done.output
    predicted = read_log_of(tmp_path / "predicted")
    assert log["served.score"].to_pylist() == predicted["score"].to_pylist()
    for task in scorer.config.tasks:
        assert log[f"served.probability.{task}"].to_pylist() == predicted[task].to_pylist()


def read_log_of(folder: Path) -> Any:
    (below,) = {file.parent for file in folder.rglob("*.parquet")}
    return read_log(below)


def test_a_shadow_is_logged_and_marked(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("granian")
    versions = tmp_path / "versions"
    versions.mkdir()
    for name in ("1", "2"):
        (versions / name).symlink_to(model)
    rollout = {"rollout": {"version": "1", "kind": "shadow"}}
    with running(versions, model=rollout, request_log={"folder": str(tmp_path / "log"), "share": 1.0}) as addresses:
        rank(addresses.http, 5, 0)
    log = read_log(tmp_path / "log").sort_by("served.version")
    pairs = list(zip(log["served.version"].to_pylist(), log["served.returned"].to_pylist(), strict=True))
    assert pairs[-5:] == [("2", True)] * 5
    assert pairs[:-5] in ([], [("1", False)] * 5), "unless the server ended before the shadow's turn"
    if len(pairs) == 10:
        assert len(set(log["served.request"].to_pylist())) == 1
