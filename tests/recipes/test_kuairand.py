"""The KuaiRand recipe: joins, and no feature from after the impression."""

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import RECIPES, load_script

from recap.config.file.load import load_config
from recap.errors import DataError

RECIPE = RECIPES / "kuairand"
DATA = Path(os.environ.get("RECAP_DATA", Path(__file__).parents[3] / "shared" / "data")) / "kuairand_pure"
DAY_MS = 86_400_000


kuairand = load_script(RECIPE / "prepare.py")


def impression(user: int, video: int, day: int, **values: Any) -> dict[str, Any]:
    """A row of the log on `day` of 2022-04-25 and after; labels are 0 unless given."""
    row = {"user_id": user, "video_id": video, "time_ms": 1_650_816_000_000 + day * DAY_MS + video, "hourmin": 1300}
    row |= {"date": 20220425 + day, "tab": 1, "duration_ms": 18_000, "is_repeat_row": 0, "play_time_ms": 777}
    return row | dict.fromkeys(kuairand.LABELS, 0) | values


ROWS = [
    impression(0, 0, 0, is_click=1),
    impression(0, 1, 0),
    impression(1, 1, 0, is_click=1, is_like=1),
    impression(1, 1, 0, is_click=1, is_like=1, is_repeat_row=1),
    impression(0, 0, 1),
    impression(1, 2, 1, is_click=1),
    impression(7, 2, 2),  # a user without a profile
]


def write_source(folder: Path, rows: list[dict[str, Any]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / "impressions.parquet")
    users: dict[str, list[Any]] = {"user_id": [0, 1], "user_active_degree": ["full_active", "high_active"]}
    users |= {name: [10, 20] for name in kuairand.USER_NUMBERS}
    users |= {name: [1, -124] for name in kuairand.USER_FLAGS}
    users |= {name: [3, None] for name in kuairand.USER_CODES}
    pq.write_table(pa.table(users), folder / "users.parquet")
    videos = {
        "video_id": [0, 1, 2],
        "author_id": [500, 400, 500],
        "video_type": ["NORMAL", "AD", "NORMAL"],
        "upload_type": ["Web", "Web", None],
        "upload_dt": ["2022-04-24", "2022-04-20", None],
        "video_duration": [18_000.0, 36_000.0, None],
        "server_width": [720.0, 720.0, 0.0],
        "server_height": [1280.0, 720.0, 1.0],
        "music_type": [9.0, None, 4.0],
        "tag": ["3,8", "5", None],
    }
    pq.write_table(pa.table(videos), folder / "videos.parquet")
    histories = {
        "user_id": [0, 1],
        "history_len": [4, 1],
        "last_time_ms": [1_650_816_000_000 - DAY_MS, 1_650_816_000_000 - 2 * DAY_MS],
        "watch_seq": [[0, 0, 2, 999], [1]],
        "like_seq": pa.array([[2], []], pa.list_(pa.int64())),
        "long_watch_seq": pa.array([[], [1]], pa.list_(pa.int64())),
    }
    pq.write_table(pa.table(histories), folder / "user_histories.parquet")
    return folder


def prepare(tmp_path: Path, rows: list[dict[str, Any]] = ROWS, name: str = "a") -> dict[str, list[dict[str, Any]]]:
    """Prepare a source of `rows`; return the rows by day."""
    output = tmp_path / f"{name}_output"
    days = kuairand.prepare(write_source(tmp_path / name, rows), output)
    tables = {day: pq.ParquetFile(output / f"date={day}" / "part-00000.parquet").read() for day in days}
    assert all(tables[day].num_rows == count for day, count in days.items())
    return {day: table.to_pylist() for day, table in tables.items()}


def test_each_day_has_a_folder_and_repeats_are_dropped(tmp_path: Path) -> None:
    days = prepare(tmp_path)
    assert {day: len(rows) for day, rows in days.items()} == {"20220425": 3, "20220426": 2, "20220427": 1}


def test_users_and_videos_are_joined_and_unknown_values_are_null(tmp_path: Path) -> None:
    days = prepare(tmp_path)
    first, second = days["20220425"][:2]
    assert (first["fans_user_num"], first["is_live_streamer"], first["onehot_feat4"]) == (10.0, 1, 3)
    assert (first["tag"], second["tag"], first["video_type"], second["video_type"]) == (3, 5, "NORMAL", "AD")
    assert first["video_age_days"] == pytest.approx(1.0, abs=1e-3)  # from midnight to midnight in Beijing
    assert (first["hour"], first["tab"], first["duration_seconds"]) == (13, 1, 18.0)
    unknown = days["20220427"][0]
    assert unknown["fans_user_num"] is None
    assert unknown["history_len"] is None
    assert unknown["user_active_degree"] is None
    assert (unknown["tag"], unknown["video_age_days"], unknown["watch_video_count"]) == (-1, None, 0.0)


def test_each_history_counts_the_video_its_author_and_its_tag(tmp_path: Path) -> None:
    first, second, third = prepare(tmp_path)["20220425"]
    assert (first["watch_video_count"], first["watch_author_count"], first["watch_tag_count"]) == (2.0, 3.0, 2.0)
    assert (first["like_video_count"], first["like_author_count"], first["long_video_count"]) == (0.0, 1.0, 0.0)
    assert (second["watch_video_count"], third["watch_video_count"], third["long_video_count"]) == (0.0, 1.0, 1.0)
    assert (first["watch_length"], first["history_len"], first["days_since_last"]) == (4.0, 4.0, 1.0)


def test_histories_are_lists_of_the_last_videos_oldest_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    days = prepare(tmp_path)
    first, third, unknown = days["20220425"][0], days["20220425"][2], days["20220427"][0]
    assert (first["watched"], first["liked"], first["long_watched"]) == ([0, 0, 2, 999], [2], [])
    assert (third["watched"], third["liked"], third["long_watched"]) == ([1], [], [1])
    assert (unknown["watched"], unknown["liked"], unknown["long_watched"]) == ([], [], [])
    monkeypatch.setattr(kuairand, "MAX_LIST_LENGTH", 2)
    assert prepare(tmp_path)["20220425"][0]["watched"] == [2, 999]
    file = pq.ParquetFile(tmp_path / "a_output" / "date=20220425" / "part-00000.parquet")
    assert {file.schema_arrow.field(name).type.value_type for name in kuairand.LISTS} == {pa.int32()}


def test_shares_compare_the_histories_and_are_drawn_to_their_priors(tmp_path: Path) -> None:
    days = prepare(tmp_path)
    first, third, unknown = days["20220425"][0], days["20220425"][2], days["20220427"][0]
    assert (first["video_watched"], third["video_watched"], unknown["video_watched"]) == (2.0, 1.0, 1.0)
    assert (first["like_share"], third["long_share"]) == pytest.approx(((1 + 5 * 0.03) / 9, (1 + 5 * 0.48) / 6))
    assert (first["video_like_share"], third["video_long_share"]) == pytest.approx((0.6 / 22, (1 + 20 * 0.48) / 21))
    assert first["user_tag_like_share"] == pytest.approx(3 * first["like_share"] / 5)
    assert third["user_duration_long_share"] == pytest.approx((1 + 3 * third["long_share"]) / 4)
    assert (unknown["tag_watched"], unknown["user_tag_like_share"]) == (None, None)


def test_rates_are_smoothed_and_know_labels_after_ten_minutes(tmp_path: Path) -> None:
    days = prepare(tmp_path)
    assert all(row["video_is_click_rate"] == pytest.approx(0.45) for row in days["20220425"])
    assert [row["user_count"] for row in days["20220425"]] == [0.0, 1.0, 0.0]
    assert days["20220425"][1]["user_is_click_rate"] == pytest.approx(0.45)  # a click of a millisecond ago
    later = days["20220426"][0]
    assert (later["user_count"], later["video_count"]) == (2.0, 1.0)
    assert later["user_is_click_rate"] == pytest.approx((1 + 5 * 0.45) / 7)
    assert later["video_is_click_rate"] == pytest.approx((1 + 20 * 0.45) / 21)


def test_rates_within_a_scene_count_only_its_impressions(tmp_path: Path) -> None:
    days = prepare(tmp_path, [*ROWS, impression(0, 1, 1, tab=2)])
    here, elsewhere = (row for row in days["20220426"] if row["user_id"] == 0)
    assert (here["user_count"], here["user_tab_count"], here["video_tab_count"]) == (2.0, 2.0, 1.0)
    assert here["user_tab_is_click_rate"] == pytest.approx((1 + 3 * 0.45) / 5)
    assert (elsewhere["user_count"], elsewhere["user_tab_count"], elsewhere["tab_duration_count"]) == (3.0, 0.0, 0.0)
    assert elsewhere["user_tab_is_click_rate"] == pytest.approx(0.45)


def test_no_outcome_becomes_a_column(tmp_path: Path) -> None:
    row = prepare(tmp_path)["20220425"][0]
    assert not {"play_time_ms", "profile_stay_time", "comment_stay_time"} & row.keys()


def test_features_do_not_depend_on_later_rows_or_labels_of_the_last_ten_minutes(tmp_path: Path) -> None:
    before = prepare(tmp_path)
    outcomes = dict.fromkeys(kuairand.LABELS, 1) | {"play_time_ms": 1}
    changed = [row | outcomes if row["date"] >= 20220426 else row for row in ROWS]
    after = prepare(tmp_path, [*changed, impression(0, 8, 1, **outcomes), impression(1, 1, 5)], "b")
    assert after["20220425"] == before["20220425"]
    assert "20220430" in after
    for old in before["20220426"]:
        new = next(
            row for row in after["20220426"] if (row["user_id"], row["time_ms"]) == (old["user_id"], old["time_ms"])
        )
        assert {name: new[name] for name in old if name not in kuairand.LABELS} == {
            name: old[name] for name in old if name not in kuairand.LABELS
        }


def test_a_second_run_writes_the_same_bytes(tmp_path: Path) -> None:
    prepare(tmp_path)
    files = sorted((tmp_path / "a_output").rglob("*.parquet"))
    before = [file.read_bytes() for file in files]
    prepare(tmp_path)
    assert [file.read_bytes() for file in files] == before


def test_a_missing_file_or_column_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"impressions.parquet: no such file; --source must be the folder"):
        kuairand.prepare(tmp_path, tmp_path / "output")
    source = write_source(tmp_path / "a", ROWS)
    pq.write_table(pa.table({"user_id": [1]}), source / "users.parquet")
    with pytest.raises(DataError, match=r"users.parquet: lacks column 'follow_user_num'; found user_id"):
        kuairand.prepare(source, tmp_path / "output")


def test_the_configuration_reads_prepared_columns(tmp_path: Path) -> None:
    config = load_config(RECIPE / "ranker.yaml")
    row = prepare(tmp_path)["20220425"][0]
    assert (
        set(config.features.inputs) | {column.name for column in config.features.carried} | set(config.tasks)
        <= row.keys()
    )


@pytest.mark.skipif(
    not DATA.is_dir(), reason=f"the real data set is not at {DATA}; set RECAP_DATA to its parent folder"
)
@pytest.mark.slow
def test_the_real_data_keeps_every_impression_but_repeats(tmp_path: Path) -> None:
    days = kuairand.prepare(DATA, tmp_path)
    source = pq.read_table(DATA / "impressions.parquet", columns=["is_repeat_row"])
    repeats = sum(source.column("is_repeat_row").to_pylist())
    assert sum(days.values()) == source.num_rows - repeats
    assert list(days) == [str(20220425 + day) for day in range(6)] + [str(20220501 + day) for day in range(4)]
    labels = pq.ParquetFile(tmp_path / "date=20220503" / "part-00000.parquet").read(columns=["is_click"])
    assert 0.4 < sum(labels.column("is_click").to_pylist()) / labels.num_rows < 0.5
