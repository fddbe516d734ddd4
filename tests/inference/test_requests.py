"""A request is scored as the same rows in a file: user work once, caches and batching change nothing."""

from collections.abc import Sequence
from functools import cache
from threading import Thread

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model.kinds import BACKBONES, OTHERS
from model.rankers import make_batch, make_config, make_fitted, make_ranker
from support import history_table

from recap.data.encoding.encoder import RowEncoder
from recap.data.formats.location import Location
from recap.errors import DataError
from recap.inference.predictor import Predictions, Predictor
from recap.inference.requests import RequestScorer
from recap.model.directory import SavedModel
from recap.runtime import start_runtime

KINDS = [*OTHERS, *(f"{name}-share_all" for name in BACKBONES), "final_mlp-share_none", "mlp-mmoe"]
EXACT = {
    kind for kind in KINDS if not kind.startswith(("history_din", "history_transformer", "history_hstu", "history_one"))
}

EVENTS = {"watched", "watched_action", "watched_gap"}
HISTORY = [*sorted(EVENTS), "hour"]


@cache
def make_predictor(kind: str) -> Predictor:
    config = make_config(kind)
    ranker = make_ranker(config)
    with torch.no_grad():
        ranker(make_batch(config, rows=50, seed=3))  # moves the running statistics of BatchNorm
        for table in ranker.inputs.embeddings.parameters():
            table.mul_(30)  # so that embeddings, and the histories made of them, matter
    return Predictor(
        SavedModel(config, {"language": pa.array(["en", "ja"])}, ranker, make_fitted(config)), start_runtime()
    )


def make_request(scorer: RequestScorer, users: Sequence[str], rows: int, seed: int) -> tuple[pa.Table, pa.Table]:
    """A user with the columns `users`, and candidates with the others."""
    table = history_table(rows + 1, seed)
    if 0 < len(EVENTS.intersection(users)) < len(EVENTS):  # then all rows need as many events as the user has
        for name in EVENTS:
            table = table.set_column(table.column_names.index(name), name, table[name].take([0] * (rows + 1)))
    table = table.select(list(scorer.schema))
    candidates = table.slice(1).select([name for name in table.column_names if name not in users])
    return table.slice(0, 1).select([name for name in table.column_names if name in users]), candidates


def as_rows(user: pa.Table, candidates: pa.Table) -> pa.Table:
    """The rows of a file that ask the same."""
    for name in user.column_names:
        candidates = candidates.append_column(name, user.column(name).take([0] * candidates.num_rows))
    return candidates


def equal(first: Predictions, second: Predictions) -> bool:
    return torch.equal(first.probabilities, second.probabilities) and torch.equal(first.scores, second.scores)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=4, deadline=None)
@given(st.data())
def test_requests_have_the_scores_of_the_same_rows_in_a_file_alone_together_and_cached(
    kind: str, data: st.DataObject
) -> None:
    predictor = make_predictor(kind)
    scorer, alone = RequestScorer(predictor, cache_bytes=1 << 20), RequestScorer(predictor)
    columns = list(scorer.schema)
    divisions = [data.draw(st.sets(st.sampled_from(columns))) for _ in range(2)]
    sizes = data.draw(st.lists(st.tuples(st.sampled_from(divisions), st.integers(1, 80)), min_size=1, max_size=4))
    requests = [make_request(scorer, list(users), rows, seed) for seed, (users, rows) in enumerate(sizes)]
    together = scorer.score([scorer.encode(*request) for request in requests])
    again = scorer.score([scorer.encode(*request) for request in requests])
    for request, first, second in zip(requests, together, again, strict=True):
        (single,) = alone.score([alone.encode(*request)])
        assert equal(first, single)
        assert equal(second, single)
        expected = predictor.predict(as_rows(*request), Location("rows"))
        if kind in EXACT:
            assert equal(single, expected)
        else:
            torch.testing.assert_close(single.probabilities, expected.probabilities, rtol=1e-5, atol=0)
            torch.testing.assert_close(single.scores, expected.scores, rtol=1e-5, atol=0)
    assert alone.cache.bytes == len(alone.cache) == 0


@pytest.mark.parametrize("kind", [kind for kind in OTHERS if kind.startswith("history_")])
def test_users_without_events_are_scored_like_rows_without_events(kind: str) -> None:
    scorer = RequestScorer(make_predictor(kind))
    user, candidates = make_request(scorer, HISTORY, 3, 0)
    for events in ([], None):
        nothing = {name: pa.array([events], user.schema.field(name).type) for name in EVENTS}
        empty = pa.table(nothing | {"hour": user["hour"]})
        (predictions,) = scorer.score([scorer.encode(empty, candidates)])
        expected = scorer.predictor.predict(as_rows(empty, candidates), Location("rows"))
        torch.testing.assert_close(predictions.probabilities, expected.probabilities, rtol=1e-5, atol=0)


def test_the_cache_recalls_histories_of_the_same_events_within_its_bound() -> None:
    predictor = make_predictor("history_transformer")
    scorer = RequestScorer(predictor, cache_bytes=8_000)
    requests = [scorer.encode(*make_request(scorer, HISTORY, 2, seed)) for seed in range(40)]
    for request in requests[:2] * 2:
        scorer.score([request])
    assert (scorer.cache.hits, scorer.cache.misses, len(scorer.cache)) == (2, 2, 2)
    scorer.score(requests)
    assert 0 < scorer.cache.bytes <= 8_000
    assert 2 < len(scorer.cache) < 40
    known, misses = len(scorer.cache), scorer.cache.misses
    scorer.score(requests[-known:])  # the ones used last
    assert scorer.cache.misses == misses


def test_an_event_more_or_another_attribute_is_another_history() -> None:
    scorer = RequestScorer(make_predictor("history_din"), cache_bytes=1 << 20)
    _, candidates = make_request(scorer, HISTORY, 2, 0)
    for ids, actions, gaps in [([1], [0], [1.0]), ([1], [1], [1.0]), ([1], [0], [2.0]), ([1, 1], [0, 0], [1.0, 1.0])]:
        columns = {"watched": [ids], "watched_action": [actions], "watched_gap": [gaps], "hour": [3]}
        scorer.score([scorer.encode(pa.table(columns), candidates)])
    assert (scorer.cache.hits, len(scorer.cache)) == (0, 4)


def test_threads_share_a_scorer() -> None:
    scorer = RequestScorer(make_predictor("history_din"), cache_bytes=4_000)
    requests = [scorer.encode(*make_request(scorer, HISTORY, 20, seed)) for seed in range(8)]
    expected = [scorer.score([request])[0] for request in requests]
    results: list[bool] = []

    def work() -> None:
        torch.set_num_threads(1)
        for _ in range(5):
            results.extend(map(equal, scorer.score(requests), expected))

    before = torch.get_num_threads()
    threads = [Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    torch.set_num_threads(before)
    assert results == [True] * 3 * 5 * 8


def test_the_vectors_of_candidates_are_not_copied() -> None:
    scorer = RequestScorer(make_predictor("log1p_abs"))
    values = np.ones((3, 4), np.float32)
    user, candidates = make_request(scorer, ["hour"], 3, 0)
    place = candidates.column_names.index("vector")
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), 4)
    encoded = scorer.encode(user, candidates.set_column(place, "vector", vectors))
    address = vectors.flatten().buffers()[1].address
    assert encoded.candidates.vectors["vector"].data_ptr() == address


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda user, candidates: (user.drop_columns(["hour"]), candidates), "'hour': is missing"),
        (lambda user, candidates: (user, candidates.append_column("hour", candidates["age"])), "'hour': appears twice"),
        (lambda user, candidates: (pa.concat_tables([user, user]), candidates), "^request: found 2 users, expected 1"),
        (
            lambda user, candidates: (user.set_column(0, "hour", pa.array([1.5])), candidates),
            "'hour', row 0: found 1.5",
        ),
    ],
)
def test_a_wrong_request_is_refused(change: object, message: str) -> None:
    scorer = RequestScorer(make_predictor("log1p_abs"))
    user, candidates = make_request(scorer, ["hour"], 3, 0)
    with pytest.raises(DataError, match=message):
        scorer.encode(*change(user, candidates))  # type: ignore[operator]


@pytest.mark.parametrize("kind", ["mlp-share_all", "history_din"])
def test_a_part_of_the_features_is_encoded_as_in_the_whole(kind: str) -> None:
    config = make_config(kind)
    encoder = RowEncoder(config.features, {"language": pa.array(["en", "ja"])})
    table = history_table(5)
    whole, part = encoder.encode(table, Location("rows")), encoder.part(["age", "hour"])
    batch = part.encode(table, Location("rows"))
    assert set(part.columns) == {"age", "hour"}
    assert torch.equal(batch.continuous.nan_to_num(), whole.continuous[:, :1].nan_to_num())
    assert torch.equal(batch.discrete[:, 0], whole.discrete[:, 0])
    assert not batch.discrete[:, 1:].any()
