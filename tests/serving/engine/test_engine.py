"""The engine: batching changes no score; deadlines, a full queue and shedding; shadows; what is not finite."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving.running import small_model
from support import feed_table

from recap.config.serving.server import ServedModelConfig, ServerConfig
from recap.inference.predictor import Predictions
from recap.inference.requests import RequestScorer
from recap.serving.contract import RankRequest, RankResponse, Reason, RequestError
from recap.serving.engine.engine import RankingEngine
from recap.serving.models.served import ServedModel
from recap.serving.watch.watch import Watch

TABLE = feed_table(400, seed=5)
FEATURES = ["age", "followers", "in_network", "hour", "language", "vector"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def two_versions(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("versions")
    (root / "v1").symlink_to(folder)
    (root / "v2").symlink_to(folder)
    return root


def ask(start: int = 0, count: int = 10, **fields: Any) -> RankRequest:
    """A request of rows of the feed, with the followers of the first row as the user's."""
    rows = TABLE.slice(start, count)
    return RankRequest("feed", rows.slice(0, 1).select(["followers"]), rows.drop_columns(["followers"]), **fields)


Job = Callable[[RankingEngine, ServedModel, Watch], Awaitable[Any]]


def run(folder: Path, job: Job, model: dict[str, Any] | None = None, **sections: Any) -> Any:
    """The result of `job` with an engine of the model in `folder`."""
    served_config = ServedModelConfig.model_validate({"path": str(folder), **(model or {})})
    config = ServerConfig.model_validate({"models": {"feed": served_config}, **sections})

    async def with_engine() -> Any:
        watch = Watch(config)
        served = ServedModel("feed", served_config, "if_present", print, watch)
        engine = RankingEngine(config, {"feed": served}, watch)
        try:
            return await asyncio.wait_for(job(engine, served, watch), 30)
        finally:
            engine.close()

    return asyncio.run(with_engine())


class Gate:
    """Holds up every forward pass of a scorer until it is opened, and counts them."""

    def __init__(self, scorer: RequestScorer, monkeypatch: pytest.MonkeyPatch) -> None:
        self.passes: list[int] = []
        """Requests in each pass."""
        self.started, self._open, self._score = Event(), Event(), scorer.score
        monkeypatch.setattr(scorer, "score", self._wait)

    def _wait(self, requests: Any) -> list[Predictions]:
        self.passes.append(len(requests))
        self.started.set()
        assert self._open.wait(20)
        return self._score(requests)

    def open(self) -> None:
        self._open.set()


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.002)


async def reason_of(answer: Awaitable[RankResponse]) -> RequestError:
    with pytest.raises(RequestError) as raised:
        await answer
    return raised.value


Arrivals = st.lists(
    st.tuples(st.integers(1, 90), st.sampled_from([0.0, 0.0, 0.001, 0.004]), st.booleans()), min_size=1, max_size=12
)


@pytest.fixture(scope="module")
def alone(folder: Path) -> Callable[[RankRequest], Predictions]:
    """The predictions of a request that shares no forward pass."""
    scorer = RequestScorer.open(folder)
    return lambda request: scorer.score([scorer.encode(request.user, request.candidates)])[0]


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(Arrivals, st.integers(1, 3), st.sampled_from([1, 100, 4096]))
def test_scores_are_the_same_bit_for_bit_however_requests_arrive(
    folder: Path, alone: Any, arrivals: list[tuple[int, float, bool]], threads: int, max_candidates: int
) -> None:
    requests = [
        ask(7 * index, count, weights={"like": 1.0, "share": 5.0} if weighted else None)
        for index, (count, _, weighted) in enumerate(arrivals)
    ]

    async def job(engine: RankingEngine, *_: Any) -> list[RankResponse]:
        tasks = []
        for request, (_, pause, _) in zip(requests, arrivals, strict=True):
            tasks.append(asyncio.ensure_future(engine.rank(request)))
            await asyncio.sleep(pause)
        return list(await asyncio.gather(*tasks))

    batching = {"threads": threads, "max_candidates": max_candidates}
    responses = run(folder, job, {"weights_from_requests": True}, batching=batching)
    for request, response in zip(requests, responses, strict=True):
        expected = alone(request)
        np.testing.assert_array_equal(response.probabilities, expected.probabilities.numpy())
        np.testing.assert_array_equal(response.scores, expected.scores.numpy())


def test_requests_that_wait_share_a_forward_pass(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def job(engine: RankingEngine, served: ServedModel, watch: Watch) -> list[int]:
        gate = Gate(served.current.scorer, monkeypatch)
        first = asyncio.ensure_future(engine.rank(ask()))
        await until(gate.started.is_set)
        others = [asyncio.ensure_future(engine.rank(ask(count=40))) for _ in range(4)]
        await until(lambda: len(engine._batches._lanes.get(served.current, ())) == 4)
        gate.open()
        await asyncio.gather(first, *others)
        return gate.passes

    assert run(folder, job, batching={"threads": 1, "max_candidates": 120}) == [1, 3, 1]


def test_a_request_whose_deadline_passes_while_it_waits_never_reaches_the_model(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def job(engine: RankingEngine, served: ServedModel, watch: Watch) -> list[int]:
        gate = Gate(served.current.scorer, monkeypatch)
        first = asyncio.ensure_future(engine.rank(ask()))
        await until(gate.started.is_set)
        late = await reason_of(engine.rank(ask(deadline=time.monotonic() + 0.05)))
        assert late.reason is Reason.DEADLINE
        assert min(engine._shedding._latencies) >= 0.04, "a server in which all are late sheds"
        assert b"recap_queue_requests 0.0" in watch.exposition(), "nothing waits any more"
        past = await reason_of(engine.rank(ask(deadline=time.monotonic() - 1)))
        assert past.reason is Reason.DEADLINE
        gate.open()
        await first
        await engine.rank(ask())
        return gate.passes

    assert run(folder, job, batching={"threads": 1}, shedding={"target_ms": 20.0}) == [1, 1]


def test_a_client_that_leaves_takes_its_request_out_of_the_queue(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def job(engine: RankingEngine, served: ServedModel, watch: Watch) -> list[int]:
        gate = Gate(served.current.scorer, monkeypatch)
        first = asyncio.ensure_future(engine.rank(ask()))
        await until(gate.started.is_set)
        leaving = asyncio.ensure_future(engine.rank(ask()))
        await until(lambda: bool(engine._batches._lanes))
        leaving.cancel()
        gate.open()
        await first
        await asyncio.gather(leaving, return_exceptions=True)
        await engine.rank(ask())
        assert engine._batches.waiting == 0
        return gate.passes

    assert run(folder, job, batching={"threads": 1}) == [1, 1]


def test_a_full_queue_refuses_at_once_and_says_when_to_try_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def job(engine: RankingEngine, served: ServedModel, watch: Watch) -> None:
        gate = Gate(served.current.scorer, monkeypatch)
        running = asyncio.ensure_future(engine.rank(ask()))
        await until(gate.started.is_set)
        waiting = [asyncio.ensure_future(engine.rank(ask())) for _ in range(2)]
        await until(lambda: engine._batches.waiting == 2)
        refused = await reason_of(engine.rank(ask()))
        assert (refused.reason, refused.retry_after) == (Reason.OVERLOADED, 1)
        gate.open()
        await asyncio.gather(running, *waiting)
        await engine.rank(ask())

    run(folder, job, batching={"threads": 1, "max_queue": 2})


def test_a_request_that_cannot_be_scored_does_not_fail_those_beside_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def job(engine: RankingEngine, served: ServedModel, watch: Watch) -> None:
        scorer = served.current.scorer
        score = scorer.score

        def fails(requests: Any) -> list[Predictions]:
            if any(request.rows == 3 for request in requests):
                raise RuntimeError("secret detail")
            return score(requests)

        monkeypatch.setattr(scorer, "score", fails)
        answers = await asyncio.gather(*(engine.rank(ask(count=n)) for n in (2, 3, 4)), return_exceptions=True)
        assert [type(answer) for answer in answers] == [RankResponse, RequestError, RankResponse]
        assert str(answers[1]) == "the model failed to score the request"

    run(folder, job, batching={"threads": 1, "window_ms": 50.0})
    assert "RuntimeError: secret detail" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("request_", "reason", "message"),
    [
        (
            lambda: RankRequest("fed", pa.table({}), TABLE),
            Reason.NOT_FOUND,
            r"model 'fed'.*Did you mean 'feed'",
        ),
        (lambda: ask(version="v9"), Reason.NOT_FOUND, "version 'v9' is not loaded; loaded: step_00000001"),
        (lambda: ask(count=0), Reason.INVALID, "no candidates"),
        (
            lambda: RankRequest("feed", pa.table({}), TABLE.drop_columns(["hour"])),
            Reason.INVALID,
            "column 'hour': is missing",
        ),
        (lambda: ask(weights={"likes": 1.0}), Reason.INVALID, r"unknown task 'likes'.*Did you mean 'like'"),
        (lambda: ask(weights={"like": float("nan")}), Reason.INVALID, r"weights\.like: expected a number below"),
    ],
)
def test_a_bad_request_is_told_what_is_wrong(folder: Path, request_: Any, reason: Reason, message: str) -> None:
    async def job(engine: RankingEngine, *_: Any) -> None:
        error = await reason_of(engine.rank(request_()))
        assert error.reason is reason
        with pytest.raises(RequestError, match=message):
            raise error

    run(folder, job, {"weights_from_requests": True})


def test_weights_of_requests_are_refused_unless_allowed_and_then_rank_anew(folder: Path) -> None:
    async def refused(engine: RankingEngine, *_: Any) -> None:
        error = await reason_of(engine.rank(ask(weights={"like": 1.0})))
        assert "takes none from requests" in str(error)

    async def allowed(engine: RankingEngine, *_: Any) -> RankResponse:
        return await engine.rank(ask(weights={"share": -2}))

    run(folder, refused)
    response = run(folder, allowed, {"weights_from_requests": True})
    share = response.probabilities[:, list(response.tasks).index("share")].astype(np.float64)
    np.testing.assert_allclose(response.scores, (2 - 2 * share) / 2 * 0.001)


@pytest.mark.parametrize(("fallback", "score"), [(None, np.nan), (-1.0, -1.0)])
def test_what_is_not_finite_is_named_and_never_returned(
    folder: Path, monkeypatch: pytest.MonkeyPatch, fallback: float | None, score: float
) -> None:
    async def job(engine: RankingEngine, served: ServedModel, watch: Watch) -> RankResponse:
        scorer = served.current.scorer
        score = scorer.score

        def spoilt(requests: Any) -> list[Predictions]:
            (predictions,) = score(requests)
            spoilt = Predictions(predictions.probabilities.clone(), predictions.scores.clone())
            spoilt.probabilities[1, 0] = torch.inf
            spoilt.scores[2] = torch.nan
            return [spoilt]

        monkeypatch.setattr(scorer, "score", spoilt)
        response = await engine.rank(ask())
        assert b'recap_non_finite_predictions_total{model="feed",version="step_00000001"} 2.0' in watch.exposition()
        return response

    response = run(folder, job, {"fallback": fallback})
    assert response.failed.tolist() == [1, 2]
    assert np.isnan(response.probabilities[[1, 2]]).all()
    np.testing.assert_array_equal(response.scores[[1, 2]], score)
    assert np.isfinite(np.delete(response.probabilities, [1, 2], 0)).all()


def test_a_shadow_scores_the_same_candidates_and_its_failure_changes_no_answer(
    two_versions: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def job(engine: RankingEngine, served: ServedModel, watch: Watch) -> None:
        assert served.second is not None
        seen: list[tuple[str, list[float], bool]] = []
        monkeypatch.setattr(
            watch,
            "log",
            lambda _, answer, returned=True: seen.append((answer.version, answer.scores.tolist(), returned)),
        )
        response = await engine.rank(ask(weights={"share": 7.0}))
        await until(lambda: len(seen) == 2)
        assert seen == [("v1", response.scores.tolist(), True), ("v2", response.scores.tolist(), False)]
        monkeypatch.setattr(served.second.scorer, "encode", None)
        assert (await engine.rank(ask())).version == "v1"
        await until(lambda: b'protocol="shadow",reason="internal"} 1.0' in watch.exposition())

    run(two_versions, job, {"rollout": {"kind": "shadow", "version": "v2"}, "weights_from_requests": True})
    assert "the shadow v2 failed to score a request (TypeError" in capsys.readouterr().err


def test_a_shadow_that_is_slow_leaves_requests_out(two_versions: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def job(engine: RankingEngine, served: ServedModel, watch: Watch) -> list[int]:
        assert served.second is not None
        gate = Gate(served.second.scorer, monkeypatch)
        for _ in range(20):
            await engine.rank(ask(count=2))
        gate.open()
        await until(lambda: engine._shadow._waiting == 0)
        left_out = b'recap_request_failures_total{model="feed",protocol="shadow",reason="overloaded"} 4.0'
        assert left_out in watch.exposition()
        return gate.passes

    assert run(two_versions, job, {"rollout": {"kind": "shadow", "version": "v2"}}) == [1] * 16


def test_a_split_answers_a_user_with_one_version_that_the_response_names(two_versions: Path) -> None:
    async def job(engine: RankingEngine, served: ServedModel, watch: Watch) -> list[list[str]]:
        def of(user: int) -> RankRequest:
            return RankRequest("feed", pa.table({"user_id": [user]}), TABLE.slice(0, 2).drop_columns(["user_id"]))

        return [[(await engine.rank(of(user))).version for user in range(20)] for _ in range(2)]

    first, second = run(two_versions, job, {"rollout": {"version": "v2", "kind": "split", "share": 0.5}})
    assert first == second
    assert set(first) == {"v1", "v2"}


def test_a_slow_server_scores_the_first_candidates_and_tells_how_many_there_were(folder: Path) -> None:
    async def job(engine: RankingEngine, served: ServedModel, watch: Watch) -> RankResponse:
        engine._shedding.share = 0.3
        response = await engine.rank(ask(count=100))
        assert b'recap_shed_candidates_total{model="feed"} 70.0' in watch.exposition()
        return response

    response = run(folder, job, shedding={"target_ms": 1e6, "min_candidates": 20})
    assert (len(response.scores), response.candidates) == (30, 100)


def test_a_draining_engine_is_not_ready_and_answers_until_it_is_closed(folder: Path) -> None:
    async def job(engine: RankingEngine, *_: Any) -> None:
        assert engine.ready()
        assert engine.ready("feed")
        assert not engine.ready("feed", "v9")
        engine.drain()
        assert not engine.ready()
        await engine.rank(ask())
        engine.close()
        assert (await reason_of(engine.rank(ask()))).reason is Reason.NOT_READY

    run(folder, job)


def test_versions_change_under_load_without_a_failed_request(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "v1").symlink_to(folder)

    async def job(engine: RankingEngine, served: ServedModel, watch: Watch) -> set[str]:
        seen: set[str] = set()
        reloaded = asyncio.Event()

        async def client() -> None:
            while not reloaded.is_set():
                seen.add((await engine.rank(ask())).version)

        clients = [asyncio.ensure_future(client()) for _ in range(3)]
        for number in range(2, 6):
            (tmp_path / f"v{number}").symlink_to(folder)
            await asyncio.get_running_loop().run_in_executor(None, served.refresh)
            await until(lambda number=number: f"v{number}" in seen)
        reloaded.set()
        await asyncio.gather(*clients)
        return seen

    assert run(tmp_path, job) == {f"v{number}" for number in range(1, 6)}


def test_the_signature_names_columns_tasks_versions_and_the_user(two_versions: Path) -> None:
    async def job(engine: RankingEngine, *_: Any) -> Any:
        return engine.models(), engine.signature("feed")

    models, signature = run(two_versions, job, {"rollout": {"kind": "shadow", "version": "v1"}})
    assert models == ["feed"]
    assert signature.versions == ["v1", "v2"]
    assert set(signature.columns) == set(FEATURES)
    assert (signature.tasks, signature.user) == (["like", "share"], "user_id")
    assert signature.carried == ["user_id", "served_at_ms", "post_id"]
