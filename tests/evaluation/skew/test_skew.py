"""Two sets of files are compared column by column, by key or by distribution."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import feed_table
from typer.testing import CliRunner

from recap.cli.main import app
from recap.errors import InputError, RunError
from recap.evaluation.skew.by_key import compare
from recap.evaluation.skew.distributions import distribution
from recap.evaluation.skew.run import compare_files
from recap.evaluation.skew.values import alike, values_in


def write(folder: Path, name: str, table: pa.Table) -> str:
    pq.write_table(table, folder / f"{name}.parquet", row_group_size=100)
    return str(folder / f"{name}.parquet")


def changed(table: pa.Table, name: str, values: Any) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, pa.array(values))


def pair_of(one: Any, other: Any) -> Any:
    values = [values_in(pa.chunked_array([array])) for array in (one, other)]
    assert values[0] is not None
    assert values[1] is not None
    return alike(values[0], values[1])


def test_rows_of_a_key_are_compared_whatever_their_order_and_types(tmp_path: Path) -> None:
    table = feed_table(300)
    age = table["age"].to_numpy().copy()
    age[:30] += 1.0
    shifted = np.flatnonzero(~np.isnan(age[:30]))
    other = changed(table, "age", age.astype(np.float64))
    other = changed(other, "hour", table["hour"].cast(pa.string()).to_pylist())
    other = other.take(pa.array(np.random.default_rng(0).permutation(300))).drop_columns(["share"])
    skew = compare_files(write(tmp_path, "one", table.slice(0, 200)), write(tmp_path, "other", other), ["post_id"])
    by_name = {column.column: column for column in skew.columns}
    assert skew.rows == (200, 200)
    assert skew.columns[0].column == "age"
    assert by_name["age"].share == len(shifted) / 200
    assert by_name["age"].largest == pytest.approx(1.0, rel=1e-2)
    assert by_name["age"].example[0] in {str(row) for row in shifted}
    assert {name for name, column in by_name.items() if column.share} == {"age"}
    assert skew.only == (["share"], [])
    assert skew.above(0.01) == ["age"]


def test_distributions_of_the_same_rows_are_equal_and_a_shift_stands_out(tmp_path: Path) -> None:
    table = feed_table(2000)
    one = write(tmp_path, "one", table)
    assert compare_files(one, one).worst == 0
    other = changed(table, "followers", table["followers"].to_numpy() * 20)
    other = changed(other, "language", ["xx"] * 1000 + ["new"] * 1000)
    skew = compare_files(one, write(tmp_path, "other", other))
    columns = {column.column: column for column in skew.columns}
    assert {column.column for column in skew.columns[:2]} == {"followers", "language"}
    assert columns["language"].new == 0.5
    assert columns["followers"].mean[1] == pytest.approx(20 * columns["followers"].mean[0], rel=1e-3)
    assert columns["age"].missing[0] == columns["age"].missing[1] > 0
    assert columns["vector"].length == (4, 4)
    assert [column.psi for column in skew.columns[2:]] == [0] * (len(skew.columns) - 2)


NUMBERS = st.lists(st.none() | st.floats(width=32), min_size=1, max_size=20)


@given(NUMBERS, NUMBERS)
def test_a_psi_is_never_negative_and_zero_for_the_same_values(
    one: list[float | None], other: list[float | None]
) -> None:
    ours, theirs = pair_of(pa.array(one, pa.float32()), pa.array(other, pa.float32()))
    assert distribution("x", ours, theirs).psi >= 0
    assert distribution("x", ours, ours).psi == 0


LISTS = st.lists(st.none() | st.lists(st.none() | st.integers(-3, 3), max_size=3), min_size=1, max_size=8)


@given(LISTS, LISTS)
def test_lists_differ_where_their_plain_values_do(one: list[Any], other: list[Any]) -> None:
    count = min(len(one), len(other))
    kind = pa.list_(pa.int64())
    differs, largest = compare(*pair_of(pa.array(one[:count], kind), pa.array(other[:count], kind)))
    pairs = [(ours or [], theirs or []) for ours, theirs in zip(one, other, strict=False)]
    assert differs.tolist() == [ours != theirs for ours, theirs in pairs]
    distances = [
        abs(a - b)
        for ours, theirs in pairs
        if len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True)
        if None not in (a, b) and a != b
    ]
    assert largest == (max(distances) if distances else None)


@given(st.lists(st.none() | st.integers(-(2**53), 2**53), min_size=1))
def test_a_value_equals_itself_in_every_type(values: list[int | None]) -> None:
    integers = pa.array(values, pa.int64())
    texts = pa.array([None if value is None else str(value) for value in values])
    for other in (texts, integers.cast(pa.float64()), texts.dictionary_encode(), pa.chunked_array([integers]).chunk(0)):
        differs, _ = compare(*pair_of(integers, other))
        assert not differs.any()
    assert not compare(*pair_of(texts, texts.cast(pa.binary())))[0].any()


def test_the_command_prints_a_table_or_json_and_fails_above_a_limit(tmp_path: Path) -> None:
    table = feed_table(400)
    one = write(tmp_path, "one", table)
    other = write(tmp_path, "other", changed(table, "age", [math.pi] * 400))
    shown = CliRunner().invoke(app, ["data", "compare", one, other])
    assert shown.exit_code == 0
    assert [line.split()[0] for line in shown.stdout.splitlines() if line.split()][2:4] == ["column", "age"]
    failed = CliRunner().invoke(app, ["data", "compare", one, other, "--key=post_id", "--fail-above=0.1", "--json"])
    assert isinstance(failed.exception, RunError)
    assert str(failed.exception) == "above 0.1: age"
    content = json.loads(failed.stdout)
    assert content["columns"][0]["column"] == "age"
    assert content["columns"][0]["share"] == 1.0
    assert content["rows"] == [400, 400]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"key": ["user"]}, r"--key: .*one\.parquet has no column 'user'\. Known: .* Did you mean 'user_id'\?"),
        ({"columns": ["nothing"]}, "--column: .* has no column 'nothing'"),
        ({"key": ["age"]}, "--key: column 'age' of .* holds float; a key is integers or text"),
        ({"key": ["in_network"]}, "--key: .* rows of .* have the key (0|1), and 1 other keys repeat; add a --key"),
    ],
)
def test_keys_and_columns_that_cannot_be_used_are_named(tmp_path: Path, options: Any, message: str) -> None:
    one = write(tmp_path, "one", feed_table(100))
    with pytest.raises(InputError, match=message):
        compare_files(one, one, **options)


def test_keys_without_partners_and_with_several_are_named(tmp_path: Path) -> None:
    table = feed_table(50)
    one = write(tmp_path, "one", table)
    twice = write(tmp_path, "twice", pa.concat_tables([table, table]))
    with pytest.raises(InputError, match=r"several rows of .*twice\.parquet have the key 0; add a --key"):
        compare_files(one, twice, ["post_id"])
    later = write(tmp_path, "later", changed(table, "post_id", np.arange(1000, 1050)))
    with pytest.raises(InputError, match=r"none of the 50 rows of .*one\.parquet has a row with the same post_id"):
        compare_files(one, later, ["post_id"])
    other = write(tmp_path, "x", pa.table({"post_id": [1], "x": [1]}))
    with pytest.raises(InputError, match="have no column in common besides the key; nothing to compare"):
        compare_files(one, other, ["post_id"])


def test_keys_may_be_bytes_that_are_no_text(tmp_path: Path) -> None:
    table = pa.table({"key": [b"\xff", b"\xfe"], "x": [1, 2]})
    skew = compare_files(write(tmp_path, "one", table), write(tmp_path, "other", table.slice(1)), ["key"])
    assert (skew.rows, skew.worst) == ((2, 1), 0.0)
