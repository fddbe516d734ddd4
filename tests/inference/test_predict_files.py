"""Bulk prediction writes one complete file per input file."""

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from support import Recorder, feed_config, feed_table, write_feed

from recap.errors import DataError, InputError
from recap.inference.bulk import Progress
from recap.inference.files import predict_files
from recap.inference.predictor import Predictor
from recap.runs import find_model_directory
from recap.training.trainer import train


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    folder = tmp_path_factory.mktemp("model")
    train(feed_config(write_feed(folder), folder / "run", training={"num_train_steps": 1}), Recorder())
    return Predictor.open(find_model_directory(folder / "run"))


def test_every_file_has_its_predictions_row_by_row_even_without_rows(predictor: Predictor, tmp_path: Path) -> None:
    sizes = [100, 0, 1]
    for number, rows in enumerate(sizes):
        pq.write_table(feed_table(rows, seed=number), tmp_path / f"{number}.parquet", row_group_size=30)
    counted: list[int] = []

    class Counter(Progress):
        def advance(self, rows: int) -> None:
            counted.append(rows)

    files = predict_files(predictor, [str(tmp_path / "*.parquet")], tmp_path / "out", progress=Counter()).files
    assert [pq.read_metadata(file).num_rows for file in files] == sizes
    assert counted == [30, 30, 30, 10, 1]
    ids = [pq.read_table(file).column("post_id").to_pylist() for file in (files[0], tmp_path / "0.parquet")]
    assert ids[0] == ids[1]


def test_a_bad_file_leaves_the_files_before_it_and_no_part_of_its_own(predictor: Predictor, tmp_path: Path) -> None:
    for number in range(2):
        pq.write_table(feed_table(60, seed=number), tmp_path / f"{number}.parquet", row_group_size=30)
    bad = tmp_path / "1.parquet"
    content = bytearray(bad.read_bytes())
    offset = pq.read_metadata(bad).row_group(1).column(0).data_page_offset
    content[offset : offset + 20] = b"\xff" * 20
    bad.write_bytes(content)
    inputs = [str(tmp_path / "*.parquet")]
    lines: list[str] = []
    with pytest.raises(DataError, match=r"1.parquet: row group 1 cannot be read"):
        predict_files(predictor, inputs, tmp_path / "out", say=lines.append)
    assert lines == ["1 of 2 files are written and complete; to continue, run the same command again"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["0.parquet", "_predictions.jsonl"]
    pq.write_table(feed_table(60, seed=1), bad)
    done = predict_files(predictor, inputs, tmp_path / "out")
    assert (len(done.files), done.before, done.rows) == (2, 1, 60)


def test_an_output_that_cannot_be_a_folder_or_a_file_is_refused(predictor: Predictor, tmp_path: Path) -> None:
    pq.write_table(feed_table(10), tmp_path / "day.parquet")
    inputs = [str(tmp_path / "day.parquet")]
    (tmp_path / "file").write_text("mine")
    for output in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match=r"--output: .*file is not a folder; choose another --output"):
            predict_files(predictor, inputs, output)
    assert (tmp_path / "file").read_text() == "mine"
    (tmp_path / "out" / "day.parquet").mkdir(parents=True)
    with pytest.raises(InputError, match=r"day.parquet: is a folder, which is never replaced"):
        predict_files(predictor, inputs, tmp_path / "out", overwrite=True)
    (tmp_path / "other").mkdir()
    os.mkfifo(tmp_path / "other" / "day.parquet")
    with pytest.raises(InputError, match=r"day.parquet: is not a regular file, which is never replaced"):
        predict_files(predictor, inputs, tmp_path / "other", overwrite=True)
    with pytest.raises(InputError, match=r"--output: '.*caf\\udce9' is not UTF-8 text; choose another --output"):
        predict_files(predictor, inputs, tmp_path / "caf\udce9")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["day.csv", "day.csv.gz"], r"day.csv.gz: would become .*day.parquet, as .*day.csv would; give each its own"),
        (["day.csv", "day.parquet/0.csv"], r"0.csv: would become .*, in a folder named as the output of .*day.csv"),
    ],
)
def test_inputs_whose_predictions_would_collide_are_refused_before_anything_is_written(
    predictor: Predictor, tmp_path: Path, names: list[str], message: str
) -> None:
    for name in names:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_text("")
    with pytest.raises(InputError, match=message):
        predict_files(predictor, [str(tmp_path / "in" / name) for name in names], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("link", [None, "symlink", "hardlink", "folder"])
def test_predictions_never_replace_an_input(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, link: str | None
) -> None:
    (tmp_path / "in").mkdir()
    day = tmp_path / "in" / "day.parquet"
    pq.write_table(feed_table(10), day)
    before, out = day.read_bytes(), tmp_path / "out"
    if link == "folder":
        out.symlink_to(tmp_path / "in")
    elif link is not None:
        out.mkdir()
        link_to = Path.symlink_to if link == "symlink" else Path.hardlink_to
        link_to(out / "day.parquet", day)
    monkeypatch.chdir(tmp_path / "in")
    with pytest.raises(InputError, match=r"day.parquet: would be overwritten by its own output; choose another"):
        predict_files(predictor, [str(day)], out if link else Path("../in"), overwrite=True)
    assert day.read_bytes() == before


def test_predictions_do_not_go_into_a_model_directory(predictor: Predictor, tmp_path: Path) -> None:
    pq.write_table(feed_table(10), tmp_path / "day.parquet")
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("manifest.json", "config.yaml"):
        (folder / name).write_text("")
    with pytest.raises(InputError, match=r"is in the model directory .*model, which must not change"):
        predict_files(predictor, [str(tmp_path / "day.parquet")], folder / "new")


def test_user_and_timestamp_are_carried_where_a_file_has_them(predictor: Predictor, tmp_path: Path) -> None:
    whole = feed_table(10)
    pq.write_table(whole, tmp_path / "0.parquet")
    pq.write_table(whole.drop_columns(["user_id"]), tmp_path / "1.parquet")
    files = predict_files(predictor, [str(tmp_path / "*.parquet")], tmp_path / "out").files
    tables = [pq.read_table(file) for file in files]
    assert tables[0].drop_columns(["user_id"]).equals(tables[1])
    pq.write_table(whole.drop_columns(["post_id"]), tmp_path / "1.parquet")
    with pytest.raises(DataError, match=r"1.parquet: column 'post_id': is missing, but predictions carry features.ids"):
        predict_files(predictor, [str(tmp_path / "*.parquet")], tmp_path / "out2")


def test_ids_of_every_type_are_copied_as_they_are_or_refused(predictor: Predictor, tmp_path: Path) -> None:
    table = feed_table(4)
    moments = pa.array([0, 1, None, 3], pa.timestamp("ns", "UTC"))
    kinds = [pa.decimal32(3, 1), pa.string_view(), pa.list_view(pa.int8()), pa.binary(2), pa.uuid(), pa.null()]
    columns = [pa.nulls(4, kind) for kind in kinds] + [moments, moments.dictionary_encode()]
    for values in [*columns, pc.run_end_encode(moments)]:
        write_arrow(table.set_column(table.schema.get_field_index("post_id"), "post_id", values), tmp_path / "x.arrow")
        (file,) = predict_files(predictor, [str(tmp_path / "x.arrow")], tmp_path / "out", overwrite=True).files
        assert pq.read_table(file).column("post_id").to_pylist() == values.to_pylist()
    intervals = pa.nulls(4, pa.month_day_nano_interval())
    write_arrow(table.set_column(table.schema.get_field_index("post_id"), "post_id", intervals), tmp_path / "x.arrow")
    with pytest.raises(DataError, match=r"x.arrow: column 'post_id': holds month_day_nano_interval, which Parquet"):
        predict_files(predictor, [str(tmp_path / "x.arrow")], tmp_path / "out", overwrite=True)


def write_arrow(table: pa.Table, path: Path) -> None:
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table)
