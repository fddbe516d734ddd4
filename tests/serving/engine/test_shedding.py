"""Load shedding, on a clock of its own."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recap.config.serving.server import SheddingConfig
from recap.serving.engine.shedding import Shedding


class Clock:
    """A clock that the test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def shedding(clock: Clock) -> Shedding:
    return Shedding(SheddingConfig(target_ms=50.0, min_candidates=20), clock)


def second(shedding: Shedding, clock: Clock, latency: float, answers: int = 100) -> int:
    """A second in which all answers take `latency`; returns how many of 1,000 candidates are scored then."""
    for _ in range(answers):
        shedding.answered(latency)
    clock.now += 1
    return shedding.candidates(1000)


def test_the_share_falls_in_proportion_and_rises_in_steps(shedding: Shedding, clock: Clock) -> None:
    assert second(shedding, clock, 0.049) == 1000
    assert second(shedding, clock, 0.1) == 500
    assert second(shedding, clock, 0.1) == 250
    assert second(shedding, clock, 0.045) == 250
    assert [second(shedding, clock, 0.01) for _ in range(8)] == [313, 391, 489, 611, 763, 954, 1000, 1000]


def test_the_first_candidates_are_always_scored(shedding: Shedding, clock: Clock) -> None:
    assert second(shedding, clock, 100.0) == 20
    assert shedding.candidates(7) == 7


def test_a_few_slow_answers_change_nothing_for_ten_seconds(shedding: Shedding, clock: Clock) -> None:
    assert [second(shedding, clock, 0.1, 1) for _ in range(10)] == [1000] * 9 + [500]


def test_a_server_that_is_no_longer_asked_recovers(shedding: Shedding, clock: Clock) -> None:
    second(shedding, clock, 0.1)
    clock.now += 10
    assert shedding.candidates(1000) == 625


def test_requests_that_are_given_up_count_if_they_took_longer_than_the_target(shedding: Shedding, clock: Clock) -> None:
    for seconds in (0.001, 0.1):
        for _ in range(100):
            shedding.abandoned(seconds)
    assert second(shedding, clock, 0.1, 0) == 500


def test_one_slow_answer_in_a_hundred_is_below_the_95th_percentile(shedding: Shedding, clock: Clock) -> None:
    shedding.answered(9.0)
    assert second(shedding, clock, 0.049) == 1000


@given(st.lists(st.tuples(st.floats(0, 10), st.integers(0, 30), st.floats(0, 20))), st.integers(1, 5000))
def test_between_the_minimum_and_all_candidates_are_scored(events: list[tuple[float, int, float]], count: int) -> None:
    clock = Clock()
    shedding = Shedding(SheddingConfig(target_ms=50.0, min_candidates=20), clock)
    for latency, answers, seconds in events:
        for _ in range(answers):
            shedding.answered(latency)
        clock.now += seconds
        assert min(20, count) <= shedding.candidates(count) <= count


def test_without_a_target_all_candidates_are_scored(clock: Clock) -> None:
    assert second(Shedding(None, clock), clock, 100.0) == 1000
