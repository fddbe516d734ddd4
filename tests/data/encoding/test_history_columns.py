"""Lists of past events as padded tensors."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from data.encoders import LOCATION, make_encoder
from data.stream_law import assert_resumes_everywhere
from hypothesis import given
from hypothesis import strategies as st
from support import history_table, write_feed

from recap.config.file.load import load_config
from recap.config.recap import JobMode
from recap.data.batch import assemble
from recap.data.encoding.assets import load_assets
from recap.data.open import open_stream
from recap.data.tools.convert import convert_files
from recap.data.tools.guess.columns import guess_columns
from recap.data.tools.inspect import inspect_files
from recap.errors import DataError

SIZES = {"ids": {"column": "ids", "size": 100}, "max_length": 3}
Lists = list[list[int | None] | None]


def history(ids: Any, *, attributes: dict[str, Any] | None = None, **config: Any) -> dict[str, torch.Tensor]:
    """The tensors of one history, `ids` and each attribute given as the array of a column."""
    columns = {"ids": ids, **{name: array for name, (array, _) in (attributes or {}).items()}}
    kinds = {name: {"column": name, **kind} for name, (_, kind) in (attributes or {}).items()}
    features = {"histories": {"h": SIZES | {"attributes": kinds} | config}}
    batch = make_encoder(features).encode(pa.table(columns), LOCATION)
    return {name.removeprefix("h/"): tensor for name, tensor in batch.histories.items()}


def test_events_come_first_and_padding_after_them() -> None:
    encoded = history(pa.array([[1, 2], [], None, [7, None, 100]]))
    assert encoded["length"].tolist() == [2, 0, 0, 3]
    assert encoded["ids"].squeeze(2).tolist() == [[2, 3, 0], [0, 0, 0], [0, 0, 0], [8, 0, 0]]


@pytest.mark.parametrize(("keep", "expected"), [("last", [4, 5, 6]), ("first", [2, 3, 4])])
def test_a_long_history_retains_its_last_or_first_events(keep: str, expected: list[int]) -> None:
    encoded = history(pa.array([[1, 2, 3, 4, 5], [9]]), keep=keep)
    assert encoded["length"].tolist() == [3, 1]
    assert encoded["ids"].squeeze(2).tolist() == [expected, [10, 0, 0]]


@given(
    st.lists(st.none() | st.lists(st.none() | st.integers(0, 120), max_size=6), min_size=1, max_size=8),
    st.integers(1, 7),
    st.sampled_from(["last", "first"]),
    st.sampled_from([pa.list_(pa.int64()), pa.large_list(pa.int32())]),
)
def test_encoding_follows_its_definition(lists: Lists, length: int, keep: str, kind: pa.DataType) -> None:
    encoded = history(pa.array(lists, kind), max_length=length, keep=keep)
    for row, events in enumerate(lists):
        retained = (events or [])[-length:] if keep == "last" else (events or [])[:length]
        codes = [0 if event is None or event >= 100 else event + 1 for event in retained]
        assert encoded["length"][row] == len(retained)
        assert encoded["ids"][row, :, 0].tolist() == codes + [0] * (length - len(retained))


def test_all_list_types_and_slices_encode_the_same() -> None:
    values: Lists = [[1, 2], None, [3, 4]]
    expected = history(pa.array(values))
    for kind in (pa.list_(pa.int8()), pa.large_list(pa.int64()), pa.list_(pa.int64(), 2)):
        encoded = history(pa.array(values, kind))
        assert all(torch.equal(tensor, encoded[name]) for name, tensor in expected.items())
        sliced = history(pa.array([[9, 9], *values], kind).slice(1))
        assert all(torch.equal(tensor, sliced[name]) for name, tensor in expected.items())
    chunked = history(pa.chunked_array([pa.array(values[:1]), pa.array(values[1:], pa.list_(pa.int64()))]))
    assert all(torch.equal(tensor, chunked[name]) for name, tensor in expected.items())
    coded = pa.ListArray.from_arrays(pa.array([0, 2, 3], pa.int32()), pa.array([5, 6, 5]).dictionary_encode())
    assert history(coded)["ids"].squeeze(2).tolist() == [[6, 7, 0], [6, 0, 0]]
    empty = history(pa.nulls(2))
    assert empty["length"].tolist() == [0, 0]
    assert history(pa.array([[None], []]))["length"].tolist() == [1, 0]


def test_attributes_are_codes_or_numbers_in_the_order_of_their_events() -> None:
    encoded = history(
        pa.array([[1, 2, 3, 4], [5]]),
        attributes={
            "action": (pa.array([[0, 1, 7, 1], [None]], pa.list_(pa.int64())), {"size": 2}),
            "gap": (pa.array([[1.0, 2.0, None, 4.0], [5.0]]), {}),
            "hashed": (pa.array([["a", "b", None, "a"], ["b"]]), {"hash": {"buckets": 9, "hashes": 3}}),
        },
    )
    assert encoded["attributes/action"].squeeze(2).tolist() == [[2, 0, 2], [0, 0, 0]]
    assert encoded["attributes/gap"].nan_to_num(-1).tolist() == [[2, -1, 4], [5, 0, 0]]
    hashed = encoded["attributes/hashed"]
    assert hashed.shape == (2, 3, 3)
    assert torch.equal(hashed[0, 0], hashed[1, 0])
    assert hashed[0, 1].tolist() == hashed[1, 1].tolist() == [0, 0, 0]


def test_ids_can_use_the_vocabulary_of_a_feature() -> None:
    features = {
        "discrete": {"word": {"vocabulary": "w"}},
        "histories": {"h": {"ids": {"column": "words", "table": "word"}, "max_length": 2}},
    }
    table = pa.table({"word": ["a"], "words": [["zz", "b"]]})
    encoder = make_encoder(features)
    assert encoder.columns == ["word", "words"]
    assert encoder.types == {"word": pa.string(), "words": pa.list_(pa.string())}
    assert encoder.encode(table, LOCATION).histories["h/ids"].squeeze(2).tolist() == [[0, 2]]


@pytest.mark.parametrize(
    ("ids", "attributes", "message"),
    [
        (
            [[1], [1, 2], [1]],
            [[1], [1], []],
            "column 'gap', row 101: holds 1 values, but 'ids' holds 2 events; each event",
        ),
        ([[1], None, [1]], [None, None, [1]], "column 'gap', row 100: holds 0 values, but 'ids' holds 1 events"),
        ([1], [[1]], "column 'ids': holds int64, expected lists; a history is a list column"),
        ([["a"]], [[1]], "column 'ids', row 100: found 'a', expected integer codes 0 to 99"),
        ([[1]], [["a"]], "column 'gap': holds lists of string, expected numbers; for codes"),
    ],
)
def test_unusable_events_are_refused_with_their_rows(ids: Any, attributes: Any, message: str) -> None:
    with pytest.raises(DataError, match=f"rows.parquet: {message}") as caught:
        history(pa.array(ids), attributes={"gap": (pa.array(attributes), {})})
    if "row 101" in message:
        assert list(caught.value.rows) == [1, 2]


def config(feed: Path, **train_data: Any) -> Any:
    overrides = [f"training.save_dir={feed}/run", *(f"train_data.{key}={value}" for key, value in train_data.items())]
    return load_config(Path(__file__).parents[2] / "config" / "valid" / "histories.yaml", overrides)


@pytest.fixture(scope="module")
def feed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_feed(tmp_path_factory.mktemp("feed"), histories=True)


@pytest.mark.parametrize("options", [{}, {"cache": "true"}, {"readers": "{kind: processes, count: 1}"}])
def test_streams_with_histories_resume_at_every_batch(
    options: dict[str, str], feed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(feed)
    streamed = config(feed, shuffle_window_rows=150, **options)
    assets = load_assets(streamed.features)
    assert_resumes_everywhere(lambda: open_stream(streamed, assets, JobMode.TRAIN), 3 if "readers" in options else 12)


def test_histories_are_selected_and_joined_with_their_rows(feed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(feed)
    streamed = config(feed)
    batch = next(iter(open_stream(streamed, load_assets(streamed.features), JobMode.TRAIN)))
    rows = np.array([5, 3, 5])
    joined = assemble([(batch, slice(0, 2)), (batch, rows)])
    expected = batch.rows(torch.tensor([0, 1, 5, 3, 5]))
    assert batch.histories
    for name, tensor in joined.histories.items():
        assert torch.equal(tensor.nan_to_num(), expected.histories[name].nan_to_num())
    plain = sum(tensor[0].numel() * tensor.element_size() for tensor in batch.histories.values())
    assert batch.row_bytes >= plain > 0


def test_rows_whose_lists_differ_in_length_can_be_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = history_table(50)
    gaps = table.column("watched_gap").to_pylist()
    gaps[7], gaps[9] = [*gaps[7], 1.0], [*gaps[9], 1.0]
    index = table.schema.get_field_index("watched_gap")
    table = table.set_column(index, "watched_gap", pa.array(gaps, pa.list_(pa.float32())))
    write_feed(tmp_path, histories=True)
    pq.write_table(table, tmp_path / "train" / "part-0.parquet")
    monkeypatch.chdir(tmp_path)
    messages: list[str] = []
    streamed = config(tmp_path, num_epochs=1, on_bad_data="{kind: skip, budget: 2}")
    list(open_stream(streamed, load_assets(streamed.features), JobMode.TRAIN, say=messages.append))
    assert [text.partition(": ")[0] for text in messages] == [f"skipped ({n} of at most 2)" for n in (1, 2)]


@pytest.mark.parametrize("kind", ["arrow", "jsonl", "tfrecord"])
def test_all_formats_with_lists_give_the_same_histories(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = ["watched", "watched_action", "watched_language", "watched_gap"]
    pq.write_table(history_table(60).select(["post", "topics", "like", *events]), tmp_path / "rows.parquet")
    write_feed(tmp_path, histories=True)
    convert_files([str(tmp_path / "rows.parquet")], tmp_path / "made", kind)
    monkeypatch.chdir(tmp_path)
    file = next(path for path in (tmp_path / "made").iterdir() if path.name.startswith("rows."))
    schema = f", schema_path: {tmp_path / 'made' / 'schema.json'}" if kind == "tfrecord" else ""
    batches = []
    for source in (f"{{inputs: {tmp_path / 'rows.parquet'}}}", f"{{kind: {kind}, inputs: {file}{schema}}}"):
        read = config(tmp_path, num_epochs=1, shuffle_window_rows=0, global_batch_size=60, source=source)
        batches.append(next(iter(open_stream(read, load_assets(read.features), JobMode.TRAIN))))
    for name, tensor in batches[0].histories.items():
        assert torch.equal(tensor, batches[1].histories[name]), name
    assert torch.equal(batches[0].discrete, batches[1].discrete)


def test_a_guessed_configuration_pools_lists_of_any_length(feed: Path) -> None:
    columns = {column.name: column for column in inspect_files([str(feed / "train" / "*.parquet")]).columns}
    assert (columns["watched"].type, columns["watched"].distinct) == ("list<element: int64>", None)
    guessed = guess_columns([str(feed / "train" / "*.parquet")]).columns
    assert "watched" in {guess.name for guess in guessed.histories}
