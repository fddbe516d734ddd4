"""Hashed ids, and codes of shared tables."""

import re
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from data.encoders import LOCATION, make_encoder
from hypothesis import given
from hypothesis import strategies as st

from recap.data.encoding.hashing import buckets_of, hash_text, ids_of
from recap.errors import DataError

HASH = {"buckets": 1000, "hashes": 2}


def codes(values: pa.Array, **config: int) -> list[list[int]]:
    features = {"discrete": {"x": {"hash": HASH | config}}}
    return make_encoder(features).encode(pa.table({"x": values}), LOCATION).discrete.tolist()  # type: ignore[no-any-return]


def test_hashes_never_change_since_models_depend_on_them() -> None:
    ids = np.array([0, 1, -1, 123456789, 2**63 - 1], np.int64)
    expected = [[195, 285, 264], [414, 650, 525], [652, 524, 90], [835, 327, 198], [531, 724, 833]]
    assert buckets_of(ids, 1000, 3, 0).tolist() == expected
    assert buckets_of(ids, 1000, 2, 7).tolist() == [[724, 900], [743, 481], [228, 343], [85, 0], [209, 37]]
    texts = [hash_text(text) for text in ("", "en", "日本")]
    assert texts == [-5426141060434712860, -9196629378344080727, 4223062404410717160]
    assert codes(pa.array([0, 1])) == [[196, 286], [415, 651]]
    assert codes(pa.array(["en"])) == (buckets_of(np.array([texts[1]]), 1000, 2, 0) + 1).tolist()


def slow_buckets(value: int, buckets: int, hashes: int, seed: int) -> list[int]:
    golden, ones = 0x9E3779B97F4A7C15, (1 << 64) - 1

    def mix(state: int) -> int:
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & ones
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & ones
        return state ^ (state >> 31)

    mixed = mix((value + golden) & ones)
    keys = [(seed * golden + (number + 1) * golden**2) & ones for number in range(hashes)]
    return [mix(mixed ^ mix(key)) % buckets for key in keys]


@given(
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=20),
    st.integers(1, 2**31 - 1),
    st.integers(1, 8),
    st.integers(0, 2**31 - 1),
)
def test_vectorised_hashes_equal_hashes_one_by_one(ids: list[int], buckets: int, hashes: int, seed: int) -> None:
    expected = [slow_buckets(value, buckets, hashes, seed) for value in ids]
    assert buckets_of(np.array(ids, np.int64), buckets, hashes, seed).tolist() == expected


def test_hashes_are_uniform_and_independent() -> None:
    codes = buckets_of(np.arange(100_000), 1000, 2, 0)
    for column in codes.T:
        assert abs(np.bincount(column, minlength=1000).std() - 10) < 1  # √100, for 100 random values per bucket
    assert abs(np.corrcoef(codes.T)[0, 1]) < 0.02
    assert len(set(map(tuple, buckets_of(np.arange(2_000), 10_000, 2, 0).tolist()))) == 2_000


def test_integers_hash_by_value_whatever_their_width() -> None:
    kinds = [pa.int8(), pa.int16(), pa.uint8(), pa.int32(), pa.uint32(), pa.int64(), pa.uint64()]
    assert len({str(codes(pa.array([5, 0, None], kind))) for kind in kinds}) == 1
    assert codes(pa.array([2**64 - 1], pa.uint64())) == codes(pa.array([str(2**64 - 1)])) != codes(pa.array([-1]))


def test_text_bytes_and_dictionaries_hash_as_the_same_text() -> None:
    texts = ["a", None, "日本", "a"]
    expected = codes(pa.array(texts))
    assert expected[0] == expected[3] != expected[2]
    assert codes(pa.array(texts, pa.large_string())) == expected
    assert codes(pa.array(texts).dictionary_encode()) == expected
    assert codes(pa.array([None if text is None else text.encode() for text in texts])) == expected
    damaged = pa.array([b"a\xff", None, b"b"])  # strings in Parquet may hold any bytes
    assert codes(pa.Array.from_buffers(pa.string(), 3, damaged.buffers())) == codes(damaged)


def test_only_null_is_the_unknown_bucket() -> None:
    assert codes(pa.array([None, 3]))[0] == [0, 0]
    assert codes(pa.array(["", None]))[1] == [0, 0]
    assert all(min(row) >= 1 for row in codes(pa.array(range(500)), buckets=3))
    assert codes(pa.nulls(2)) == [[0, 0], [0, 0]]
    assert codes(pa.array([np.nan, 3.0])) == codes(pa.array([None, 3]))


def test_the_seed_changes_the_hash() -> None:
    ids = pa.array(range(100))
    assert codes(ids, seed=1) != codes(ids) == codes(ids, seed=0)


def test_lists_and_single_values_of_lists_are_hashed() -> None:
    lists = pa.array([[1, 2], None, [3, None]], pa.list_(pa.int64(), 2))
    features = {
        "discrete": {
            "all": {"hash": HASH, "length": 2},
            "second": {"table": "all", "of": {"column": "all", "index": 1}},
        }
    }
    encoded = make_encoder(features).encode(pa.table({"all": lists}), LOCATION).discrete.tolist()
    one, two, three = codes(pa.array([1, 2, 3]))
    assert encoded == [[*one, *two, *two], [0] * 6, [*three, 0, 0, 0, 0]]


DECIMAL = re.compile(r"(0|-?[1-9][0-9]{0,18})(\.0)?")


def id_of(text: str) -> int:
    """The id of a text, by definition."""
    number = int(text.removesuffix(".0")) if DECIMAL.fullmatch(text) else None
    return number if number is not None and -(2**63) <= number < 2**63 else hash_text(text)


@given(
    st.lists(
        st.integers(-(2**64), 2**65).map(str)
        | st.sampled_from(
            ["", "007", "-0", "5.0", "5.00", "+5", "5\n", " 5", "0x1f", "1e3", "٣", "9" * 19, "-" + "9" * 19]
        )
        | st.text(max_size=3)
    )
)
def test_text_is_an_integer_only_if_it_is_exactly_its_decimal_form(texts: list[str]) -> None:
    expected = [id_of(text) for text in texts]
    for values in (pa.array(texts, pa.string()), pa.array([text.encode() for text in texts], pa.large_binary())):
        assert ids_of(values, "x", LOCATION)[0].tolist() == expected


@given(st.lists(st.none() | st.integers(-(2**53), 2**53), min_size=1))
def test_an_id_is_the_same_as_an_integer_as_text_as_a_float_and_as_a_decimal(ids: list[int | None]) -> None:
    expected = codes(pa.array(ids, pa.int64()))
    texts = pa.array([None if number is None else str(number) for number in ids], pa.string())
    assert codes(texts) == expected
    for kind in (pa.float64(), pa.decimal128(30, 2)):
        assert codes(pa.array(ids, pa.int64()).cast(kind)) == expected
    pandas_texts = [None if number is None else f"{number}.0" for number in ids]
    assert codes(pa.array(pandas_texts, pa.string())) == expected


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (pa.array([1.0, 1.5]), "row 101: found 1.5, expected text or a whole number"),
        (pa.array([1.0, np.inf]), "row 101: found inf, expected text or a whole number"),
        (pa.array([None, Decimal("2.5")]), "row 101: found 2.5, expected text or a whole number"),
        (
            pa.array([2.0**24 + 2], pa.float32()),
            "row 100: found 16777218.0, expected at most 16,777,216: a float cannot",
        ),
        (pa.array([True]), "column 'x': holds bool, expected ids: integers or text"),
    ],
)
def test_an_id_that_is_neither_an_integer_nor_text_is_refused(values: pa.Array, message: str) -> None:
    with pytest.raises(DataError, match=message):
        codes(values)


def test_a_feature_that_shares_a_table_uses_its_codes() -> None:
    features = {
        "discrete": {
            "last_word": {"table": "word"},
            "word": {"vocabulary": "w"},
            "hour": {"size": 24},
            "last_hours": {"table": "hour", "length": 2},
        }
    }
    table = pa.table({"last_word": ["b", "zz"], "word": ["a", "b"], "hour": [3, 24], "last_hours": [[0, 1], [2, 99]]})
    encoded = make_encoder(features).encode(table, LOCATION)
    assert encoded.discrete.tolist() == [[2, 1, 4, 1, 2], [0, 2, 0, 3, 0]]
    assert make_encoder(features).empty().discrete.shape == (0, 5)


def test_values_of_lists_are_refused_with_their_row() -> None:
    for space in ({"size": 9}, {"hash": HASH}):
        with pytest.raises(DataError, match=r"column 'x', row 102: found 1.5, expected (text or )?a whole number"):
            make_encoder({"discrete": {"x": space | {"length": 2}}}).encode(
                pa.table({"x": [[1.0, 2.0], None, [3.0, 1.5]]}), LOCATION
            )
    lists = pa.array([[b"a", b"b"], None, [b"a", b"\xff"]], pa.list_(pa.binary()))
    encoder = make_encoder({"discrete": {"word": {"vocabulary": "w", "length": 2}}})
    with pytest.raises(DataError, match="column 'word', row 102: holds bytes that are not UTF-8 text"):
        encoder.encode(pa.table({"word": lists}), LOCATION)
