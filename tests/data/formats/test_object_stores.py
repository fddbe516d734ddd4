"""URLs work wherever local paths do; tested with a real S3 server on this machine."""

import glob
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any, get_args

import fsspec
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq
import pytest
from data.stream_law import assert_resumes_everywhere, assert_same
from hypothesis import assume, given
from hypothesis import strategies as st
from moto.server import ThreadedMotoServer
from support import Recorder, feed_config, feed_table, write_feed

from recap.config.data import HourlyInputs, SourceKind
from recap.config.features import FeaturesConfig
from recap.config.recap import JobMode
from recap.data.encoding.assets import load_assets
from recap.data.encoding.encoder import RowEncoder
from recap.data.formats import object_stores
from recap.data.formats.files import find_files, open_file, read_bytes, relative_names, stamp
from recap.data.formats.tables import TableFiles
from recap.data.open import open_stream
from recap.data.stream.batch_stream import BatchStream
from recap.data.stream.source import Source
from recap.data.tools.convert import convert_files
from recap.data.tools.guess.columns import guess_columns
from recap.data.tools.inspect import inspect_files
from recap.data.tools.vocabulary import count_values
from recap.errors import DataError
from recap.inference.files import predict_files
from recap.inference.predictor import Predictor
from recap.runs import find_model_directory
from recap.training.trainer import train


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A feed, its scalars in every format, and folders by hour."""
    folder = write_feed(tmp_path_factory.mktemp("feed"))
    pq.write_table(feed_table(90).drop_columns(["vector", "topics", "age"]), folder / "rows.parquet", row_group_size=40)
    for kind in get_args(SourceKind):
        convert_files([str(folder / "rows.parquet")], folder / "formats" / kind, kind)
    for hour in ("22", "23"):
        (folder / "logs/2024/02/29" / hour).mkdir(parents=True)
        pq.write_table(feed_table(10), folder / "logs/2024/02/29" / hour / "a.parquet")
    return folder


@pytest.fixture(scope="module")
def store(folder: Path) -> Iterator[str]:
    """The URL of a bucket that holds the same files."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "someone",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }.items():
            patch.setenv(name, value)
        system = pa.fs.S3FileSystem(endpoint_override=f"{host}:{port}", scheme="http", allow_bucket_creation=True)
        system.create_dir("feed")
        pa.fs.copy_files(str(folder), "feed/of day", destination_filesystem=system)
        yield "s3://feed/of day"
        object_stores._open_store.cache_clear()
    server.stop()


def scalars(folder: str, kind: SourceKind, window_rows: int = 0) -> BatchStream:
    source: dict[str, Any] = {"kind": kind, "inputs": f"{folder}/formats/{kind}/rows*"}
    if kind == "tfrecord":
        source["schema_path"] = f"{folder}/formats/tfrecord/schema.json"
    language = {"vocabulary": f"{folder}/languages.parquet"}
    config = feed_config(
        Path(folder),
        Path("run"),
        features={"continuous": ["followers"], "discrete": {"hour": {"size": 24}, "language": language}, "vectors": {}},
        train_data={"source": source, "global_batch_size": 32, "shuffle_window_rows": window_rows},
        validation_data={},
    )
    return open_stream(config, load_assets(config.features), JobMode.TRAIN)


@pytest.mark.parametrize("kind", get_args(SourceKind))
def test_every_format_reads_the_same_rows_as_from_local_files(kind: SourceKind, folder: Path, store: str) -> None:
    local, remote = scalars(str(folder), kind), scalars(store, kind)
    assert remote.source.contents == local.source.contents
    for _, expected, found in zip(range(4), local, remote, strict=False):
        assert_same(expected, found)


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_a_stream_from_a_store_resumes_exactly_at_every_batch(kind: SourceKind, store: str) -> None:
    assert_resumes_everywhere(lambda: scalars(store, kind, window_rows=60), batches=6)


def test_globs_and_paths_match_the_files(store: str) -> None:
    files = [f"{store}/train/part-{part}.parquet" for part in range(3)]
    assert find_files([f"{store}/train/*.parquet", files[1]]) == files
    assert find_files([f"{store}/**/part-[01].parquet"]) == [*files[:2], f"{store}/validation/part-0.parquet"]
    assert relative_names(files) == ["part-0.parquet", "part-1.parquet", "part-2.parquet"]


def test_a_file_whose_name_looks_like_a_glob_matches_itself(store: str) -> None:
    system = object_stores.locate(store)[0].system
    for name in ("a[1]", "a1"):
        with system.open_output_stream(f"feed/names/{name}.csv") as stream:
            stream.write(b"x")
    assert find_files(["s3://feed/names/a[1].csv"]) == ["s3://feed/names/a[1].csv"]


def test_folders_by_hour_are_found_in_the_store(store: str) -> None:
    values = {"kind": "hourly", "data_root": f"{store}/logs", "end_datetime": "2024/03/01/00", "hours": 3}
    with pytest.raises(DataError, match=f"1 of 3 hours have no file.*Missing: {store}/logs/2024/03/01/00$"):
        find_files(HourlyInputs.model_validate(values))
    found = find_files(HourlyInputs.model_validate(values | {"num_missing_hours_tol": 1}))
    assert found == [f"{store}/logs/2024/02/29/{hour}/a.parquet" for hour in (22, 23)]


def test_missing_files_folders_stores_and_packages_are_reported(store: str) -> None:
    fsspec.register_implementation("lacking", "lackingfs.Store", clobber=True, errtxt="Install lackingfs")
    for url, message in (
        (f"{store}/nowhere.parquet", "matches no file; check the path"),
        (f"{store}/nowhere/*.parquet", "matches no file; check the path"),
        (f"{store}/train", rf"is a folder; name its files, such as {store}/train/\*.parquet"),
        (f"{store}/train/", "is a folder"),
        ("s3://nobody/x.parquet", "matches no file: s3://nobody does not exist; check its name and the endpoint"),
        ("s3://nobody/*.parquet", "s3://nobody does not exist"),
        ("nosuch://x/y", "nosuch://x: cannot be opened .*nosuch"),
        (
            "lacking://some/one",
            r"lacking://some: the package that reads it is not installed; install it \(Install lackingfs\)",
        ),
    ):
        with pytest.raises(DataError, match=message) as caught:
            find_files([url])
        assert str(caught.value).count("\n") == 0
    with pytest.raises(DataError, match=r"gone.parquet: cannot be read \(No such file or directory\)"):
        stamp(f"{store}/gone.parquet")
    with pytest.raises(OSError, match="gone"):
        read_bytes(f"{store}/gone.json")


class Forbidden(BaseHTTPRequestHandler):
    """Answers like a store that denies access."""

    def do_GET(self) -> None:
        self.send_error(403)

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


def test_denied_access_is_reported_in_one_line(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Forbidden) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        for ask, message in (
            (lambda: find_files(["s3://closed/*.parquet"]), r"^s3://closed/\*.parquet: cannot be listed \(.*DENIED"),
            (lambda: stamp("s3://closed/x.parquet"), r"^s3://closed/x.parquet: cannot be read \(.*DENIED"),
        ):
            with pytest.raises(DataError, match=message) as caught:
                ask()
            assert "\n" not in str(caught.value)
        server.shutdown()
        thread.join()


def test_a_damaged_file_is_reported_with_its_url(store: str) -> None:
    system = object_stores.locate(store)[0].system
    for name, message in (("x.parquet", "not readable as Parquet"), ("x.arrow", "not readable as Arrow IPC")):
        with system.open_output_stream(f"feed/damaged/{name}") as stream:
            stream.write(b"no such thing")
        url = f"s3://feed/damaged/{name}"
        with pytest.raises(DataError, match=f"^{url}: {message}"):
            TableFiles.open([url]).format.schema(url)


def test_a_missing_vocabulary_is_reported(store: str) -> None:
    config = feed_config(
        Path("feed"), Path("run"), features={"discrete": {"language": {"vocabulary": f"{store}/w.parquet"}}}
    )
    with pytest.raises(DataError, match=f"{store}/w.parquet: vocabulary of 'language': no such file; write"):
        load_assets(config.features)


def test_commands_take_urls(folder: Path, store: str, tmp_path: Path) -> None:
    local, remote = f"{folder}/train/*.parquet", f"{store}/train/*.parquet"
    assert inspect_files([remote]).as_json() == inspect_files([local]).as_json()
    assert guess_columns([remote]).columns == guess_columns([local]).columns
    assert count_values([remote], ["language"]) == count_values([local], ["language"])
    written, _ = convert_files([remote], tmp_path / "out", "arrow")
    assert [path.name for path in written] == ["part-0.arrow", "part-1.arrow", "part-2.arrow"]
    assert convert_files([remote], tmp_path / "out", "arrow")[0] == []
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "recap", "data", "inspect", remote], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "600 rows of Parquet in 3 files" in done.stdout


def test_predictions_from_a_store_are_those_from_local_files(folder: Path, store: str, tmp_path: Path) -> None:
    train(feed_config(folder, tmp_path / "run", training={"num_train_steps": 1}), Recorder())
    predictor = Predictor.open(find_model_directory(tmp_path / "run"))
    local = predict_files(predictor, [f"{folder}/validation/*.parquet"], tmp_path / "local").files
    remote = predict_files(predictor, [f"{store}/validation/*.parquet"], tmp_path / "remote").files
    assert [path.name for path in remote] == [path.name for path in local] == ["part-0.parquet"]
    assert pq.read_table(remote[0]).equals(pq.read_table(local[0]))


segments = st.lists(st.sampled_from(["*", "**", "?", "a*", "[ab]", "[!a]*", ".*", "_*", "a", "b", "*b*"]), min_size=1)


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Files of many names, some hidden, two folders deep, on disk and in another store."""
    root = tmp_path_factory.mktemp("trees")
    memory = fsspec.filesystem("memory")
    leaves = ["a", "b", "ab", "ba", ".a", "_a", "aab", "x"]
    for folder in ("", *(f"{name}.d/" for name in leaves), "a/", "b/", ".b/", "a/b/", "a/.a/", "b/a/a/"):
        for leaf in leaves:
            file = root / f"{folder}{leaf}.f"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
            memory.pipe(f"/trees/{folder}{leaf}.f", b"")
    return root, "memory://trees"


@given(st.lists(st.sampled_from(["a", "b", ".b"]), max_size=2), segments, st.sampled_from(["", ".f", "*.f"]))
def test_globs_match_the_same_files_in_a_store_and_on_disk(
    trees: tuple[Path, str], plain: list[str], patterns: list[str], ending: str
) -> None:
    root, url = trees
    pattern = "/".join([*plain, *patterns]) + ending
    assume(all(segment == "**" or "**" not in segment for segment in pattern.split("/")))
    matches: list[set[str]] = []
    for folder, prefix in ((glob.escape(str(root)), str(root)), (url, url)):
        try:
            files = find_files([f"{folder}/{pattern}"])
        except DataError:  # no match
            files = []
        assert len(set(files)) == len(files)
        matches.append({file.removeprefix(prefix) for file in files})
    assert matches[0] == matches[1]


def test_a_store_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = Event()
    monkeypatch.setattr(object_stores, "CONNECT_SECONDS", 0.1)
    monkeypatch.setattr(object_stores, "_file_system", lambda *_: answer.wait())
    with pytest.raises(DataError, match=r"^gs://silent: does not answer within 0.1 seconds; check the network"):
        find_files(["gs://silent/x/*.parquet"])
    answer.set()


def test_two_stars_inside_a_segment_are_refused(trees: tuple[Path, str]) -> None:
    with pytest.raises(DataError, match=r"a\*\*.f: cannot be listed \(.*'\*\*' can only be an entire path component"):
        find_files([f"{trees[1]}/a**.f"])


def test_stores_that_only_fsspec_knows_are_read(trees: tuple[Path, str]) -> None:
    buffer = pa.BufferOutputStream()
    pq.write_table(feed_table(20), buffer)
    fsspec.filesystem("memory").pipe("/rows/x.parquet", buffer.getvalue().to_pybytes())
    url = "memory://rows/x.parquet"
    assert inspect_files(["memory://rows/*.parquet"]).rows == 20
    assert len(read_bytes(url)) == stamp(url)[1]
    with open_file(url) as stream:
        stream.seek(-4, 2)
        assert (stream.tell(), stream.read()) == (stamp(url)[1] - 4, b"PAR1")


def test_relative_names_begin_below_the_common_folder(tmp_path: Path) -> None:
    assert relative_names(["s3://a/x/1", "s3://a/x/y/2"]) == ["1", "y/2"]
    assert relative_names(["s3://a/x/1", "gs://a/x/1"]) == ["s3/a/x/1", "gs/a/x/1"]
    assert relative_names([f"{tmp_path}/a/1", f"file://{tmp_path}/b/1"]) == ["a/1", "b/1"]
    assert relative_names(["s3://a/x/1", "s3://a/x/../../../../y"]) == ["s3/a/x/1", "y"]
    assert not any(name.startswith("..") for name in relative_names(["s3://a/b/../../../../x", "s3://a/c", "/tmp/d"]))


def test_a_file_url_is_a_local_path(folder: Path) -> None:
    assert find_files([f"file://{folder}/train/*-0.parquet"]) == [f"{folder}/train/part-0.parquet"]
    assert read_bytes(f"file://{folder}/formats/tfrecord/schema.json").startswith(b"{")


def test_a_changed_file_of_a_store_is_reported(store: str) -> None:
    system = object_stores.locate(store)[0].system

    def write(rows: int) -> None:
        with system.open_output_stream("feed/changing/x.parquet") as stream:
            pq.write_table(feed_table(rows), stream)

    write(20)
    source = Source(
        TableFiles.open(["s3://feed/changing/*"]).source, RowEncoder(FeaturesConfig(continuous=["followers"]), {})
    )
    assert len(source.loader.load([source.chunks[0]]).batches[0]) == 20
    write(30)
    with pytest.raises(DataError, match=r"changed since this job started: it holds [\d,]+ bytes instead of"):
        source.loader.load([source.chunks[0]])
    system.delete_file("feed/changing/x.parquet")
    with pytest.raises(DataError, match=r"changed since this job started: cannot be read \(No such file"):
        source.loader.load([source.chunks[0]])
