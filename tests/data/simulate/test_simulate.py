"""The simulated feed: its rates, its truth, its columns, and how it is written."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from recap.data.simulate import TASKS, simulate
from recap.data.simulate.world import BLOCK_MS, START_MS, World
from recap.errors import InputError

OUTCOMES = {name for task in TASKS for name in (task, f"{task}_at_ms")}


@pytest.fixture(scope="module")
def feed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200,000 training rows in several files, 40,000 validation rows."""
    folder = tmp_path_factory.mktemp("simulated")
    assert simulate(folder, rows=200_000, validation_rows=40_000, embedding_size=8)
    return folder


def read(folder: Path, *columns: str) -> pa.Table:
    return pq.read_table(folder, columns=list(columns) or None, partitioning=None)


def test_engagements_have_their_rates_from_30_percent_to_1_in_2000(feed: Path) -> None:
    rows = read(feed / "train", *TASKS)
    for name, task in TASKS.items():
        assert pc.mean(rows[name]).as_py() == pytest.approx(task.rate, rel=0.25), name
    assert max(task.rate for task in TASKS.values()) == 0.3
    assert min(task.rate for task in TASKS.values()) == 0.0005


def test_the_truth_matches_the_data_row_by_row_and_is_calibrated(feed: Path) -> None:
    for split in ("train", "validation"):
        names = sorted(file.name for file in (feed / split).iterdir())
        assert names == sorted(file.name for file in (feed / "truth" / split).iterdir())
    rows, truth = read(feed / "train", *TASKS), read(feed / "truth" / "train")
    assert truth.column_names == list(TASKS)
    for task in list(TASKS)[:6]:
        probability, label = truth[task].to_numpy(), rows[task].to_numpy()
        for part in np.array_split(np.argsort(probability), 10):
            expected = probability[part].mean()
            error = np.sqrt(expected * (1 - expected) / len(part))
            assert abs(label[part].mean() - expected) < 5 * error + 1e-4, task


def test_the_stored_metrics_of_the_truth_are_correct(feed: Path) -> None:
    from sklearn.metrics import log_loss, roc_auc_score

    stored = json.loads((feed / "truth.json").read_text())["validation"]
    rows, truth = read(feed / "validation", *TASKS), read(feed / "truth" / "validation")
    for task in TASKS:
        label, probability = rows[task].to_numpy(), truth[task].to_numpy()
        assert stored[task]["positives"] == label.sum()
        assert stored[task]["log_loss"] == pytest.approx(log_loss(label, probability), rel=1e-6)
        assert stored[task]["auc"] == pytest.approx(roc_auc_score(label, probability), abs=1e-4)
        assert 0.75 < stored[task]["auc"] < 0.92, task


def test_engagements_are_correlated_beyond_what_columns_explain(feed: Path) -> None:
    rows, truth = read(feed / "train", *TASKS), read(feed / "truth" / "train")
    clicked, favorited = ("is_clicked", "is_favorited")
    surprise = [rows[task].to_numpy() - truth[task].to_numpy() for task in (clicked, favorited)]
    assert np.corrcoef(*surprise)[0, 1] > 0.02


def test_validation_follows_training_and_positions_count_in_a_request(feed: Path) -> None:
    train, validation = (read(feed / split, "served_at_ms", "user_id", "position") for split in ("train", "validation"))
    assert pc.max(train["served_at_ms"]).as_py() < pc.min(validation["served_at_ms"]).as_py()
    position, user = train["position"].to_numpy(), train["user_id"].to_numpy()
    follows = position[1:] > 0
    assert (position[1:][follows] == position[:-1][follows] + 1).all()
    assert (user[1:][follows] == user[:-1][follows]).all()
    assert position.max() < 20


def test_later_positions_have_fewer_engagements(feed: Path) -> None:
    rows = read(feed / "train", "position", "is_clicked")
    position, clicked = rows["position"].to_numpy(), rows["is_clicked"].to_numpy()
    assert clicked[position == 0].mean() > 1.5 * clicked[position == 12].mean()


def test_columns_have_every_kind(feed: Path) -> None:
    rows = read(feed / "train")
    values = rows["post_views"].to_numpy()
    assert np.log10(values.max() / np.median(values)) > 3
    assert rows["user_favorites_7d"].null_count > 0
    assert pc.min(rows["topic_trend"]).as_py() < 0
    assert rows.schema.field("language").type == pa.string()
    assert rows.schema.field("user_embedding").type == pa.list_(pa.float32(), 8)
    known = set(pq.read_table(feed / "languages.parquet")["value"].to_pylist())
    assert set(rows["language"].unique().to_pylist()) == known


def test_delays_exist_exactly_for_engagements(feed: Path) -> None:
    rows = read(feed / "train")
    for task in TASKS:
        engaged = rows[task].to_numpy() == 1
        at = rows[f"{task}_at_ms"]
        assert (at.is_valid().to_numpy() == engaged).all()
        delay = pc.subtract(at, rows["impressed_at_ms"]).drop_null().to_numpy()
        assert (delay >= 0).all()


def test_no_column_depends_on_the_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    from recap.data.simulate import world

    before = World(0, 8).block(0, 3, START_MS, rows=2000)
    draw = world._labels

    def redraw(random: np.random.Generator, *rest: object) -> dict[str, pa.Array]:
        random.random(17)
        return draw(random, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(world, "_labels", redraw)
    after = World(0, 8).block(0, 3, START_MS, rows=2000)
    assert not all(before.rows[task].equals(after.rows[task]) for task in TASKS)
    for name in before.rows.column_names:
        if name not in OUTCOMES:
            assert before.rows[name].equals(after.rows[name]), name
    assert before.truth.equals(after.truth)


def test_a_block_generated_alone_equals_that_of_the_feed(feed: Path) -> None:
    stored = pq.ParquetFile(feed / "train" / "part-00001.parquet").read_row_group(1)
    alone = World(0, 8).block(0, 5, START_MS + 5 * BLOCK_MS)
    assert alone.rows.equals(stored)


def test_the_seed_determines_every_value(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        simulate(tmp_path / name, rows=500, validation_rows=100, seed=seed, embedding_size=8)
    a, b, c = (read(tmp_path / name / "train") for name in "abc")
    assert a.equals(b)
    assert not a.equals(c)


def test_down_sampling_keeps_positives_and_a_share_of_negatives(feed: Path, tmp_path: Path) -> None:
    simulate(tmp_path, rows=200_000, validation_rows=40_000, embedding_size=8, downsample={"is_reported": 0.1})
    complete, sampled = read(feed / "train", "is_reported"), read(tmp_path / "train", "is_reported")
    positives = pc.sum(complete["is_reported"]).as_py()
    assert pc.sum(sampled["is_reported"]).as_py() == positives
    assert sampled.num_rows - positives == pytest.approx(0.1 * (complete.num_rows - positives), rel=0.05)
    assert read(tmp_path / "truth" / "train").num_rows == sampled.num_rows
    assert read(tmp_path / "validation").equals(read(feed / "validation"))


def test_a_ranked_world_changes_only_the_order_shown() -> None:
    plain, ranked = (World(0, 8, ranked=ranked).block(0, 0, 0, rows=500).rows for ranked in (False, True))
    others = [name for name in plain.column_names if name not in ("position", *TASKS, *(f"{t}_at_ms" for t in TASKS))]
    assert ranked.select(others).equals(plain.select(others))
    request = np.cumsum(plain["position"].to_numpy() == 0)  # rows of a request are consecutive
    views, position = ranked["post_views"].to_numpy(), ranked["position"].to_numpy()
    for number in range(1, request[-1] + 1):
        order = position[request == number].argsort()
        assert position[request == number][order].tolist() == list(range(len(order)))
        assert (np.diff(views[request == number][order]) <= 0).all()


def test_the_same_feed_is_kept_and_another_is_overwritten_only_on_request(tmp_path: Path) -> None:
    sizes = {"rows": 500, "validation_rows": 100, "embedding_size": 8}
    assert simulate(tmp_path, **sizes)  # type: ignore[arg-type]
    assert not simulate(tmp_path, **sizes)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="holds another feed"):
        simulate(tmp_path, **sizes, seed=1)  # type: ignore[arg-type]
    assert simulate(tmp_path, **sizes, seed=1, overwrite=True)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["thesis.txt", "train/part-00000.parquet", "validation/mine.parquet", "truth.json"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_files_that_are_not_of_a_feed_are_kept(tmp_path: Path, name: str, overwrite: bool) -> None:
    mine = tmp_path / name
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("{}")
    with pytest.raises(InputError, match=rf"holds other files \({name}"):
        simulate(tmp_path, rows=500, validation_rows=100, overwrite=overwrite)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [mine]


def test_overwriting_a_feed_keeps_files_beside_it_and_refuses_files_among_its_own(tmp_path: Path) -> None:
    sizes = {"validation_rows": 100, "embedding_size": 8, "overwrite": True}
    assert simulate(tmp_path, rows=150_000, **sizes)  # type: ignore[arg-type]
    (tmp_path / "ranker.yaml").write_text("mine")
    assert simulate(tmp_path, rows=500, **sizes)  # type: ignore[arg-type]
    assert (tmp_path / "ranker.yaml").read_text() == "mine"
    assert [file.name for file in (tmp_path / "train").iterdir()] == ["part-00000.parquet"]
    (tmp_path / "train" / "mine.parquet").write_text("mine")
    with pytest.raises(InputError, match=r"holds other files \(train/mine.parquet"):
        simulate(tmp_path, rows=600, **sizes)  # type: ignore[arg-type]


def test_an_output_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for output in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match=r"--output: .*file is not a folder; choose another --output"):
            simulate(output, rows=500, validation_rows=100)


def test_an_interrupted_write_leaves_no_file_and_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(writer: pq.ParquetWriter, table: pa.Table) -> None:
        raise KeyboardInterrupt

    sizes = {"rows": 500, "validation_rows": 100, "embedding_size": 8}
    with monkeypatch.context() as patched:
        patched.setattr(pq.ParquetWriter, "write_table", fail)
        with pytest.raises(KeyboardInterrupt):
            simulate(tmp_path, **sizes)  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["unfinished.json"]
    assert simulate(tmp_path, **sizes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rows": 0}, "rows: must be at least 1"),
        ({"embedding_size": 4}, "embedding size: must be at least 8"),
        ({"downsample": {"x": 0.5}}, "unknown task 'x'. Known: is_video_watched"),
        ({"downsample": {"is_reported": 0.0}}, r"the rate of is_reported must be in \(0, 1\]"),
    ],
)
def test_invalid_arguments_are_refused(tmp_path: Path, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        simulate(tmp_path, **arguments)  # type: ignore[arg-type]
