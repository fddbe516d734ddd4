"""KuaiRand-Pure → one Parquet folder per day, one impression per row, as `ranker.yaml` reads it.

Every feature is known before the impression: who the user is, what the video is, where and when it is shown, what
users watched up to the day before the first impression, and how often each user, video and tag was engaged with until
ten minutes before the impression. No later outcome and no monthly statistic becomes a feature.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recap.data.aggregate.run import aggregate_files
from recap.data.aggregate.spec import load_spec
from recap.errors import DataError, InputError, RecapError
from recap.storage import atomic_write

LABELS = (
    "is_click",
    "long_view",
    "is_like",
    "is_follow",
    "is_comment",
    "is_forward",
    "is_hate",
    "is_profile_enter",
)
IMPRESSION_COLUMNS = (
    "user_id",
    "video_id",
    "time_ms",
    "date",
    "hourmin",
    "tab",
    "duration_ms",
    "is_repeat_row",
    *LABELS,
)
USER_NUMBERS = ("follow_user_num", "fans_user_num", "friend_user_num", "register_days")
USER_FLAGS = ("is_live_streamer", "is_video_author")  # 1, or another number for no
USER_STRINGS = ("user_active_degree",)
USER_CODES = tuple(f"onehot_feat{index}" for index in range(18))
VIDEO_STRINGS = ("video_type", "upload_type")
HISTORIES = {"watch": "watch_seq", "like": "like_seq", "long": "long_watch_seq"}
LISTS = {"watched": "watch", "liked": "like", "long_watched": "long"}
"""Column of video ids → its history."""
SHARES = {"long": 0.48, "like": 0.03}
"""History → its length over that of the watched videos, of all users together."""
GROUPS = ("duration", "tag")
"""Entities that users meet often enough for shares of their own."""
MAX_LIST_LENGTH = 50
AGGREGATES = Path(__file__).with_name("aggregates.yaml")
"""The counts and rates of earlier impressions."""
BEIJING_MS = 8 * 3_600_000
HISTORY_DAY_MS = 1_650_816_000_000  # 2022-04-25 00:00 in Beijing: histories end before it
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Histories:
    """How often each user met each entity: sorted keys user · entities + entity, and their counts."""

    entities: int
    keys: Array
    counts: Array

    @classmethod
    def count(cls, users: Array, entities: Array, size: int) -> "Histories":
        """Count the pairs; entities below 0 are unknown and left out."""
        known = entities >= 0
        keys, counts = np.unique(users[known].astype(np.int64) * size + entities[known], return_counts=True)
        return cls(size, keys, counts)

    def totals(self) -> Array:
        """How often all users met each entity, [entities] float64."""
        totals: Array = np.bincount(self.keys % self.entities, weights=self.counts, minlength=self.entities)
        return totals

    def of(self, users: Array, entities: Array) -> Array:
        """How often each user met the entity in the same row, [rows] float32."""
        if not len(self.keys):
            return np.zeros(len(users), np.float32)
        wanted = users.astype(np.int64) * self.entities + entities
        index = np.searchsorted(self.keys, wanted).clip(max=len(self.keys) - 1)
        return np.where((self.keys[index] == wanted) & (entities >= 0), self.counts[index], 0).astype(np.float32)


@dataclass(frozen=True)
class Tables:
    """The tables to join with, rows in the order of their ids."""

    users: pa.Table
    videos: pa.Table
    user_rows: Array  # user_id → row of `users`, -1 where unknown
    video_rows: Array
    seen: dict[str, Histories]  # "watch_video", "watch_author", "watch_duration", "watch_tag", "like_…", "long_…"
    history: dict[str, Array]  # by user row
    lists: dict[str, pa.Array]  # by user row, of video ids, oldest first
    popularity: dict[str, dict[str, Array]]  # "video", "duration" or "tag" → column → by code
    video_codes: dict[str, Array]  # "author", "duration" and "tag" by video row; unknown: tag -1, duration 0


def main(arguments: Sequence[str] | None = None) -> None:
    """Prepare the recipe's data; a second run replaces the days it makes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, required=True, help="folder of the KuaiRand-Pure Parquet files")
    parser.add_argument("--output", type=Path, required=True, help="folder for the prepared days")
    options = parser.parse_args(arguments)
    days = prepare(options.source, options.output)
    print(f"written: {len(days)} days, {sum(days.values()):,} impressions in {options.output}")


def prepare(source: Path, output: Path) -> dict[str, int]:
    """Write `date=YYYYMMDD/part-00000.parquet` for every day of `source`, and the vocabularies; day → rows.

    Raises DataError for a missing file or column.
    """
    impressions = _read(source / "impressions.parquet", IMPRESSION_COLUMNS)
    impressions = impressions.filter(pc.equal(impressions["is_repeat_row"], 0)).sort_by("time_ms")
    tables = _read_tables(source)
    for name in USER_STRINGS:
        _write_vocabulary(output, name, tables.users[name])
    for name in VIDEO_STRINGS:
        _write_vocabulary(output, name, tables.videos[name])
    output.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=output) as joined:
        days: dict[str, int] = {}
        for date in sorted(impressions["date"].unique().to_pylist()):
            day = impressions.filter(pc.equal(impressions["date"], date))
            _write(pa.table(_columns(day, tables)), Path(joined) / f"date={date}" / "part-00000.parquet")
            days[str(date)] = day.num_rows
        only_day = output / f"date={next(iter(days))}"
        inputs = [str(Path(joined) / "date=*" / "part-00000.parquet")]
        aggregate_files(load_spec(AGGREGATES), inputs, output if len(days) > 1 else only_day, overwrite=True)
    return days


def _read(path: Path, columns: Sequence[str]) -> pa.Table:
    try:
        names = pq.read_schema(path).names
        missing = [name for name in columns if name not in names]
        if missing:
            raise DataError(f"{path}: lacks column {missing[0]!r}; found {', '.join(names)}")
        return pq.read_table(path, columns=list(columns))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; --source must be the folder of the KuaiRand-Pure files") from None
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: not readable as Parquet ({error})") from None


def _read_tables(source: Path) -> Tables:
    users = _read(source / "users.parquet", ("user_id", *USER_NUMBERS, *USER_FLAGS, *USER_STRINGS, *USER_CODES))
    video_columns = (
        "video_id",
        "author_id",
        *VIDEO_STRINGS,
        "upload_dt",
        "video_duration",
        "server_width",
        "server_height",
    )
    videos = _read(source / "videos.parquet", (*video_columns, "music_type", "tag"))
    histories = _read(
        source / "user_histories.parquet", ("user_id", "history_len", "last_time_ms", *HISTORIES.values())
    )
    user_rows, video_rows = _rows_by_id(users["user_id"]), _rows_by_id(videos["video_id"])
    tags = pc.utf8_slice_codeunits(pc.replace_substring_regex(videos["tag"], ",.*", ""), 0, 9)
    authors = videos["author_id"].to_numpy()
    codes = {
        "video": np.arange(videos.num_rows),
        "author": np.unique(authors, return_inverse=True)[1],
        "duration": _duration_bucket(videos["video_duration"], 2, 24),
        "tag": pc.fill_null(pc.cast(tags, pa.int64()), -1).to_numpy(),
    }
    history_users = _look_up(user_rows, histories["user_id"].to_numpy())
    history, seen, listed = _empty_history(users.num_rows), {}, {}
    known = history_users >= 0
    history["history_len"][history_users[known]] = histories["history_len"].to_numpy()[known]
    quiet_ms = HISTORY_DAY_MS - histories["last_time_ms"].to_numpy()
    history["days_since_last"][history_users[known]] = quiet_ms[known] / 86_400_000
    for name, column in HISTORIES.items():
        lists = histories[column].combine_chunks()
        lengths = pc.list_value_length(lists).to_numpy(zero_copy_only=False)
        listed[name] = _last_ids(lists, _rows_by_code(history_users, users.num_rows))
        viewers = np.repeat(history_users, lengths)
        watched = _look_up(video_rows, lists.flatten().to_numpy())
        known_pairs = (viewers >= 0) & (watched >= 0)
        viewers, watched = viewers[known_pairs], watched[known_pairs]
        history[f"{name}_length"][history_users[known]] = lengths[known]
        for entity, code in codes.items():
            seen[f"{name}_{entity}"] = Histories.count(viewers, code[watched], int(code.max()) + 1)
    for name, prior in SHARES.items():
        history[f"{name}_share"] = _share(history[f"{name}_length"], history["watch_length"], prior, 5)
    popularity = {entity: _popularity(seen, entity) for entity in ("video", *GROUPS)}
    return Tables(users, videos, user_rows, video_rows, seen, history, listed, popularity, codes)


def _popularity(seen: dict[str, Histories], entity: str) -> dict[str, Array]:
    """How often all histories hold each value of `entity`, and with which shares of long views and likes."""
    watched = seen[f"watch_{entity}"].totals()
    columns = {f"{entity}_watched": watched.astype(np.float32)}
    for name, prior in SHARES.items():
        columns[f"{entity}_{name}_share"] = _share(seen[f"{name}_{entity}"].totals(), watched, prior, 20)
    return columns


def _share(part: Array, watched: Array, prior: Array | float, strength: float) -> Array:
    """`part` over `watched`, drawn to the prior where little was watched. Above 1 where `part` reaches further back."""
    share: Array = ((part + prior * strength) / (watched + strength)).astype(np.float32)
    return share


def _last_ids(lists: pa.ListArray, rows: Array) -> pa.ListArray:
    """The last ids of each list, oldest first, in the order of `rows`; empty where a row is -1."""
    offsets, values = lists.offsets.to_numpy(), lists.values.to_numpy()
    starts, ends = offsets[:-1], offsets[1:]
    starts = np.maximum(starts, ends - MAX_LIST_LENGTH)
    starts, ends = np.where(rows >= 0, starts[rows], 0), np.where(rows >= 0, ends[rows], 0)
    lengths = ends - starts
    total = np.concatenate([[0], np.cumsum(lengths)])
    indices = np.repeat(starts - total[:-1], lengths) + np.arange(total[-1])
    return pa.ListArray.from_arrays(pa.array(total.astype(np.int32)), pa.array(values[indices].astype(np.int32)))


def _rows_by_code(codes: Array, size: int) -> Array:
    """Code → row, for `size` codes; -1 for absent ones."""
    rows = np.full(size, -1, np.int64)
    rows[codes[codes >= 0]] = np.flatnonzero(codes >= 0)
    return rows


def _duration_bucket(milliseconds: pa.ChunkedArray, per_doubling: int, buckets: int) -> Array:
    """The bucket of a duration, [rows] int32: `per_doubling` buckets for each doubling, from one second up."""
    seconds = pc.fill_null(milliseconds, 0).to_numpy() / 1000
    bucket: Array = np.log2(seconds.clip(1, None) ** per_doubling).astype(np.int32).clip(0, buckets - 1)
    return bucket


def _empty_history(users: int) -> dict[str, Array]:
    history = {f"{name}_length": np.zeros(users, np.float32) for name in HISTORIES}
    history["history_len"] = np.zeros(users, np.float32)
    history["days_since_last"] = np.full(users, np.nan, np.float32)
    return history


def _columns(day: pa.Table, tables: Tables) -> dict[str, pa.Array]:
    """The columns of one day, [rows] each, from that day's rows alone."""
    user_ids, video_ids, time_ms = (day[name].to_numpy() for name in ("user_id", "video_id", "time_ms"))
    user, video = _look_up(tables.user_rows, user_ids), _look_up(tables.video_rows, video_ids)
    columns: dict[str, pa.Array] = {
        "user_id": pa.array(user_ids.astype(np.int64)),
        "video_id": pa.array(video_ids.astype(np.int64)),
        "author_id": _take(tables.videos["author_id"], video),
        "time_ms": pa.array(time_ms),
        "date": day["date"].combine_chunks(),
        "hour": pa.array((day["hourmin"].to_numpy() // 100).astype(np.int32)),
        "tab": pa.array(day["tab"].to_numpy().astype(np.int32)),
    }
    seconds = day["duration_ms"].to_numpy() / 1000
    columns["duration_seconds"] = pa.array(seconds.astype(np.float32))
    columns["duration_bucket"] = pa.array(_duration_bucket(day["duration_ms"], 4, 48))
    columns["duration_range"] = pa.array(_duration_bucket(day["duration_ms"], 2, 24))
    for name in USER_NUMBERS:
        columns[name] = _floats(_take(tables.users[name], user))
    for name in USER_FLAGS:
        columns[name] = pa.array(
            (_floats(_take(tables.users[name], user)).fill_null(0).to_numpy() == 1).astype(np.int8)
        )
    for name in USER_STRINGS:
        columns[name] = _take(tables.users[name], user).cast(pa.string())
    for name in USER_CODES:
        columns[name] = _take(tables.users[name], user).cast(pa.int32(), safe=False)
    for name in VIDEO_STRINGS:
        columns[name] = _take(tables.videos[name], video).cast(pa.string())
    columns["music_type"] = _take(tables.videos["music_type"], video).cast(pa.int32(), safe=False)
    columns["tag"] = pa.array(_code(tables.video_codes["tag"], video).astype(np.int32))
    columns["video_age_days"] = _video_age(tables, video, time_ms)
    width, height = (_floats(_take(tables.videos[f"server_{side}"], video)) for side in ("width", "height"))
    columns["aspect"] = pc.divide(width, height)
    for name, values in tables.history.items():
        columns[name] = pa.array(np.where(user >= 0, values[user], np.nan).astype(np.float32), from_pandas=True)
    for name, histories in tables.seen.items():
        entities = _code(tables.video_codes[name.split("_")[1]], video)
        columns[f"{name}_count"] = pa.array(histories.of(user, entities))
    for entity, popularity in tables.popularity.items():
        codes = _code(tables.video_codes[entity], video)
        columns |= {name: pa.array(values[codes], mask=codes < 0) for name, values in popularity.items()}
    for entity, name in product(GROUPS, SHARES):
        part, watched = (columns[f"{history}_{entity}_count"].to_numpy() for history in (name, "watch"))
        prior = columns[f"{name}_share"].to_numpy(zero_copy_only=False)
        columns[f"user_{entity}_{name}_share"] = pa.array(_share(part, watched, prior, 3), from_pandas=True)
    known_user = pa.array(user, mask=user < 0)
    for name, history in LISTS.items():
        columns[name] = pc.coalesce(tables.lists[history].take(known_user), pa.scalar([], pa.list_(pa.int32())))
    for name in LABELS:
        columns[name] = day[name].combine_chunks().cast(pa.int8())
    return columns


def _video_age(tables: Tables, video: Array, time_ms: Array) -> pa.Array:
    """Days from the start of the upload's day in Beijing to the impression; null where the upload is unknown."""
    uploaded = pc.strptime(
        _take(tables.videos["upload_dt"], video).cast(pa.string()), "%Y-%m-%d", "ms", error_is_null=True
    )
    age = pc.subtract(pa.array(time_ms + BEIJING_MS), uploaded.cast(pa.int64()))
    return pc.divide(age.cast(pa.float32(), safe=False), pa.scalar(86_400_000.0, pa.float32()))


def _rows_by_id(ids: pa.ChunkedArray) -> Array:
    """Id → row, -1 for absent ids."""
    values = ids.to_numpy()
    rows = np.full(int(values.max(initial=-1)) + 1, -1, np.int64)
    rows[values] = np.arange(len(values))
    return rows


def _look_up(rows: Array, ids: Array) -> Array:
    inside = (ids >= 0) & (ids < len(rows))
    return np.where(inside, rows[np.where(inside, ids, 0)], -1)


def _code(codes: Array, rows: Array) -> Array:
    return np.where(rows >= 0, codes[rows], -1)


def _take(column: pa.ChunkedArray, rows: Array) -> pa.Array:
    return column.combine_chunks().take(pa.array(rows, mask=rows < 0))


def _floats(values: pa.Array) -> pa.Array:
    return values.cast(pa.float32(), safe=False)


def _write_vocabulary(output: Path, name: str, values: pa.ChunkedArray) -> None:
    known = sorted(value for value in values.unique().to_pylist() if value is not None)
    _write(pa.table({"value": known}), output / "vocabularies" / f"{name}.parquet")


def _write(table: pa.Table, path: Path) -> None:
    """Write a file atomically. Raises InputError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as temporary:
            pq.write_table(table, temporary, compression="zstd")
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from None


if __name__ == "__main__":
    try:
        main()
    except RecapError as problem:
        print(problem, file=sys.stderr)
        sys.exit(problem.exit_code)
