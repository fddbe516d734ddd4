"""Bad data is reported with its location, or skipped within a budget, also after a resume."""

import gzip
import shutil
import struct
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from data.stream_law import assert_resumes_everywhere, assert_same
from support import feed_config, feed_table, write_feed

from recap.config.recap import JobMode
from recap.data.encoding.assets import load_assets
from recap.data.open import open_stream
from recap.data.stream.batch_stream import BatchStream
from recap.data.tools.convert import convert_files
from recap.errors import DataError


@pytest.fixture
def feed(tmp_path: Path) -> Path:
    """A feed to damage: three files of 200 rows in row groups of 70."""
    return write_feed(tmp_path / "feed")


def part(feed: Path, number: int) -> Path:
    return feed / "train" / f"part-{number}.parquet"


def open_feed(
    feed: Path,
    budget: int = 10,
    messages: list[str] | None = None,
    vectors: dict[str, int] | None = None,
    **train_data: Any,
) -> BatchStream:
    config = feed_config(
        feed,
        feed / "run",
        features={"vectors": {"vector": 4} if vectors is None else vectors},
        train_data={
            "source": {"inputs": str(feed / "train" / "*.parquet")},
            "tasks": {"like": {}, "share": {}},
            "shuffle_window_rows": 0,
            "num_epochs": 2,
            "global_batch_size": 50,
            "on_bad_data": {"kind": "skip", "budget": budget} if budget else {"kind": "stop"},
            **train_data,
        },
    )
    say = messages.append if messages is not None else lambda text: None
    return open_stream(config, load_assets(config.features), JobMode.TRAIN, say=say)


def put(file: Path, column: str, values: dict[int, Any]) -> None:
    """Set the values of some rows of a column."""
    table = pq.read_table(file)
    changed = table.column(column).to_pylist()
    for row, value in values.items():
        changed[row] = value
    index = table.schema.get_field_index(column)
    table = table.set_column(index, table.schema.field(index), pa.array(changed, table.schema.field(index).type))
    pq.write_table(table, file, row_group_size=70)


def damage(file: Path, row_group: int) -> None:
    """Overwrite the bytes of one column of a row group."""
    column = pq.read_metadata(file).row_group(row_group).column(3)
    data = bytearray(file.read_bytes())
    start = column.dictionary_page_offset or column.data_page_offset
    data[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    file.write_bytes(data)


def break_data(feed: Path) -> None:
    """Break a row group, three rows, a whole file, and the columns of another."""
    damage(part(feed, 0), 1)
    put(part(feed, 1), "like", {3: 7, 150: 9})
    put(part(feed, 1), "user_id", {100: None})
    (feed / "train" / "part-3.parquet").write_text("no parquet")
    pq.write_table(feed_table(70).drop_columns(["hour"]), feed / "train" / "part-4.parquet")


BROKEN = [
    "part-3.parquet",
    "part-4.parquet",
    "part-0.parquet, part 1",
    "part-1.parquet, row 3",
    "part-1.parquet, row 100",
    "part-1.parquet, row 150",
]


def values(stream: BatchStream) -> torch.Tensor:
    return torch.cat([batch.vectors["vector"][:, 0] for batch in stream])


def test_the_smallest_bad_part_is_skipped_and_reported_once(feed: Path) -> None:
    complete = values(open_feed(feed, num_epochs=1, global_batch_size=600))
    break_data(feed)
    messages: list[str] = []
    stream = open_feed(feed, messages=messages, global_batch_size=17)
    good = [row for row in range(600) if not (70 <= row < 140 or row in (203, 300, 350))]
    assert torch.equal(values(stream), complete[good].repeat(2)[: 1054 // 17 * 17])
    assert stream.skipped == BROKEN
    assert len(messages) == 6
    assert messages[0].startswith("skipped (1 of at most 10): ")
    assert "part-3.parquet: not readable as Parquet" in messages[0]
    assert "part-4.parquet: column 'hour': is missing" in messages[1]
    assert "part-0.parquet: row group 1 cannot be read" in messages[2]
    assert "part-1.parquet: column 'like', row 3: found 7, expected 0 or 1" in messages[3]
    assert "part-1.parquet: column 'user_id', row 100: is null" in messages[4]
    assert "part-1.parquet: column 'like', row 150: found 9, expected 0 or 1" in messages[5]


@pytest.mark.parametrize("window_rows", [0, 100])
def test_a_stream_over_bad_data_resumes_exactly_at_every_batch(window_rows: int, feed: Path) -> None:
    break_data(feed)
    assert_resumes_everywhere(lambda: open_feed(feed, shuffle_window_rows=window_rows), batches=21)


def test_processes_and_caches_skip_the_same_bad_data(feed: Path) -> None:
    break_data(feed)
    expected = open_feed(feed, shuffle_window_rows=100)
    rows = values(expected)
    for option in ({"readers": {"kind": "processes", "count": 2}}, {"cache": True}):
        stream = open_feed(feed, shuffle_window_rows=100, **option)
        assert torch.equal(values(stream), rows)
        assert stream.skipped == expected.skipped


def test_one_part_more_than_the_budget_stops_the_run(feed: Path) -> None:
    break_data(feed)
    assert len(values(open_feed(feed, budget=6)))
    with pytest.raises(DataError, match=r"row 150: found 9(.|\n)*\n5 bad parts .* the limit of on_bad_data.budget"):
        values(open_feed(feed, budget=5))


def test_a_resumed_stream_remembers_what_it_skipped(feed: Path) -> None:
    break_data(feed)
    stream = open_feed(feed, budget=6)
    next(batches := iter(stream))
    for _ in range(6):
        next(batches)
    state = stream.state_dict()
    assert len(state["skipped"]) == 6
    messages: list[str] = []
    resumed = open_feed(feed, budget=6, messages=messages)
    resumed.load_state_dict(state)
    assert len(values(resumed))
    assert messages == []


def test_by_default_the_first_bad_data_stops_the_run(feed: Path) -> None:
    put(part(feed, 1), "like", {3: 7})
    with pytest.raises(DataError, match=r"part-1.parquet: column 'like', row 3: found 7"):
        values(open_feed(feed, budget=0))
    damage(part(feed, 0), 2)
    with pytest.raises(DataError, match=r"part-0.parquet: row group 2 cannot be read"):
        values(open_feed(feed, budget=0))
    (feed / "train" / "part-3.parquet").write_text("no parquet")
    with pytest.raises(DataError, match=r"part-3.parquet: not readable as Parquet"):
        open_feed(feed, budget=0)


def test_a_file_that_changes_while_it_is_read_is_reported(feed: Path) -> None:
    for change in (shutil.copy, lambda other, file: file.unlink()):
        stream = open_feed(feed, budget=0)
        batches = iter(stream)
        next(batches)
        change(part(feed, 0), part(feed, 2))
        with pytest.raises(DataError, match=r"part-2.parquet: changed since this job started: "):
            list(batches)
        write_feed(feed)


def test_a_file_that_disappears_can_be_skipped(feed: Path) -> None:
    stream = open_feed(feed)
    batches = iter(stream)
    next(batches)
    part(feed, 2).unlink()
    assert sum(len(batch) for batch in batches) == 750
    assert stream.skipped == [f"part-2.parquet, part {number}" for number in range(3)]


def test_bad_records_and_a_truncated_end_are_skipped(feed: Path) -> None:
    """TFRecord: a damaged record, and a file that ends in the middle of another."""
    convert_files([str(feed / "train" / "*.parquet")], feed / "records", "tfrecord")
    whole = gzip.decompress((feed / "records" / "part-1.tfrecord.gz").read_bytes())
    (length,) = struct.unpack("<Q", whole[:8])
    damaged = whole[:30] + bytes([whole[30] ^ 1]) + whole[31 : 16 + length] + whole[16 + length : -5]
    (feed / "records" / "part-1.tfrecord.gz").write_bytes(gzip.compress(damaged))
    source = {
        "kind": "tfrecord",
        "inputs": str(feed / "records" / "*.gz"),
        "schema_path": str(feed / "records" / "schema.json"),
    }
    stream = open_feed(feed, source=source)
    assert len(values(stream)) == 2 * 598 // 50 * 50
    assert stream.skipped == ["part-1.tfrecord.gz, from row 199", "part-1.tfrecord.gz, row 0"]
    assert_resumes_everywhere(lambda: open_feed(feed, source=source, shuffle_window_rows=100), batches=21)
    with pytest.raises(DataError, match=r"part-1.tfrecord.gz: row 199: the file ends in the middle of the record"):
        open_feed(feed, budget=0, source=source)


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_bad_lines_are_skipped(kind: str, feed: Path) -> None:
    table = pa.concat_tables(pq.read_table(part(feed, number)) for number in range(3))
    (feed / "flat").mkdir()
    pq.write_table(table.drop_columns(["vector", "topics"]), feed / "flat" / "rows.parquet")
    convert_files([str(feed / "flat" / "rows.parquet")], feed / "text", kind)  # type: ignore[arg-type]
    file = feed / "text" / f"rows.{kind}"
    lines = file.read_text().splitlines()
    lines[100], lines[200] = "not a, line", '{"like": '
    file.write_text("\n".join(lines) + "\n")
    source = {"kind": kind, "inputs": str(file)}
    stream = open_feed(feed, source=source, vectors={}, num_epochs=1, global_batch_size=598)
    assert [len(batch) for batch in stream] == [598]
    first = 99 if kind == "csv" else 100  # the header is not a row
    assert stream.skipped == [f"rows.{kind}, row {first}", f"rows.{kind}, row {first + 100}"]
    with pytest.raises(DataError, match=rf"rows.{kind}:101: row {first}: "):
        list(open_feed(feed, budget=0, source=source, vectors={}))


def test_data_without_a_good_file_is_refused(feed: Path) -> None:
    for number in range(3):
        part(feed, number).write_text("no parquet")
    with pytest.raises(DataError, match=r"hold no rows: .*part-0.parquet: not readable as Parquet"):
        open_feed(feed)


def test_data_without_a_good_row_stops_the_stream(feed: Path) -> None:
    for number in range(3):
        put(part(feed, number), "like", dict.fromkeys(range(200), 5))
    for epochs in (None, 3):
        with pytest.raises(DataError, match="and the other files of the same inputs: every row is bad"):
            next(iter(open_feed(feed, budget=1000, num_epochs=epochs)))


def test_a_budget_below_what_was_skipped_stops_at_the_next_bad_data(feed: Path) -> None:
    break_data(feed)
    stream = open_feed(feed, budget=10)
    batches = iter(stream)
    next(batches)
    next(batches)
    state = stream.state_dict()
    assert len(state["skipped"]) == 3
    lowered = open_feed(feed, budget=2)
    lowered.load_state_dict(state)
    with pytest.raises(DataError, match=r"the limit of on_bad_data.budget"):
        values(lowered)


def test_files_keep_their_names_when_folders_are_added(feed: Path) -> None:
    (feed / "days" / "day=1").mkdir(parents=True)
    shutil.copy(part(feed, 0), feed / "days" / "day=1")
    source = {"inputs": str(feed / "days" / "*" / "*.parquet")}
    before = open_feed(feed, source=source)
    (feed / "days" / "day=2").mkdir()
    shutil.copy(part(feed, 1), feed / "days" / "day=2")
    after = open_feed(feed, source=source)
    assert after.source.changes(before.source.contents) == ["day=2/part-1.parquet is new"]


def test_a_stream_resumes_where_the_rest_of_its_only_window_is_bad(feed: Path) -> None:
    for number in (1, 2):
        part(feed, number).unlink()
    put(part(feed, 0), "like", dict.fromkeys(range(190, 200), 5))
    table = pq.read_table(part(feed, 0))
    pq.write_table(table, part(feed, 0), row_group_size=200)
    stream, resumed = (open_feed(feed, budget=10, global_batch_size=19, num_epochs=None) for _ in range(2))
    batches = iter(stream)
    for _ in range(10):
        next(batches)
    assert stream.row == 190
    resumed.load_state_dict(stream.state_dict())
    assert_same(next(iter(resumed)), next(batches))
