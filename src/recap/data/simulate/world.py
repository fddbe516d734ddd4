"""The simulated world: which candidates users see, and how likely each engagement is.

A block of rows is a pure function of (seed, split, number), so that a feed of any size can be streamed, and any block
generated alone. Labels are drawn from probabilities that depend on the columns only: no model can predict them better.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Floats = npt.NDArray[np.float64]

BLOCK_ROWS = 32_768
BLOCK_MS = 6 * 3_600_000  # a block is six hours of the feed
START_MS = 1_750_000_000_000
USERS, AUTHORS, TOPICS, POSITIONS = 20_000, 5_000, 40, 20
INTERESTS = 4  # directions in which users and authors differ
LANGUAGES = ("ar", "de", "en", "es", "fr", "hi", "id", "ja", "ko", "pt", "th", "tr")


@dataclass(frozen=True)
class Task:
    """An engagement: its mean rate, the weights of its drivers, and its mean delay after the impression."""

    rate: float
    drivers: dict[str, float]
    delay_seconds: float


TASKS = {
    "is_video_watched": Task(
        0.30,
        {"affinity": 1.0, "video": 1.2, "fresh": 0.3, "position": -0.6, "active": 0.4, "moment": 0.4},
        15,
    ),
    "is_clicked": Task(
        0.15,
        {"affinity": 1.0, "popular": 0.5, "network": 0.3, "position": -0.8, "active": 0.5, "moment": 0.5},
        5,
    ),
    "is_favorited": Task(
        0.08, {"affinity": 1.3, "popular": 0.4, "network_popular": -0.5, "network": 0.8, "active": 0.8}, 30
    ),
    "is_profile_clicked": Task(0.03, {"affinity": 0.9, "popular": 0.6, "network": -0.8, "position": -0.5}, 40),
    "is_replied": Task(
        0.015, {"affinity": 0.9, "network": 1.0, "network_popular": -0.6, "fresh": 0.6, "active": 0.6}, 180
    ),
    "is_shared": Task(0.01, {"affinity": 1.1, "popular": 0.8, "fresh": 0.4, "moment": 0.5, "active": 0.5}, 600),
    "is_negative_feedback": Task(0.004, {"affinity": -1.0, "network": -0.9, "toxic": 0.9, "position": -0.3}, 60),
    "is_reported": Task(0.0005, {"affinity": -0.7, "network": -0.8, "toxic": 1.3}, 3600),
}
SHARED_MOOD = 0.3
"""Share of labels drawn with a random number that the tasks of a row share, so that engagements are correlated beyond
what the columns explain."""


@dataclass(frozen=True)
class Block:
    """Rows of the feed, and the true probability of each label."""

    rows: pa.Table
    truth: pa.Table


class World:
    """Users, authors and topics, drawn from the seed."""

    def __init__(self, seed: int, embedding_size: int, *, ranked: bool = False) -> None:
        """`embedding_size`: width of the interest vectors, at least 8.

        `ranked`: show candidates in order of popularity instead of at random, so that a model without the position
        attributes its effect to popularity. Nothing else changes.
        """
        self.seed, self.embedding_size, self.ranked = seed, embedding_size, ranked
        random = np.random.default_rng([seed, 0])
        # Orthonormal directions of mean zero: dot products and norms survive a LayerNorm of the vectors.
        directions = random.normal(size=(embedding_size, INTERESTS))
        directions -= directions.mean(axis=0)
        self.directions = np.linalg.qr(directions)[0].T * np.sqrt(embedding_size)
        topics = _unit(random.normal(size=(TOPICS, INTERESTS)))
        self.author_topic = random.integers(0, TOPICS, AUTHORS)
        self.author_interest = _unit(topics[self.author_topic] + 0.35 * random.normal(size=(AUTHORS, INTERESTS)))
        self.user_interest = _unit(random.normal(size=(USERS, INTERESTS)))
        self.topic_peak = random.uniform(0, 24, TOPICS)
        self.author_fame = random.normal(size=AUTHORS)  # log followers, standardised
        self.author_toxicity = random.normal(size=AUTHORS)
        self.author_language = random.integers(0, len(LANGUAGES), AUTHORS)
        self.language_effect = 0.3 * random.normal(size=len(LANGUAGES))
        self.user_language = random.integers(0, len(LANGUAGES), USERS)
        self.user_activity = random.normal(size=USERS)
        self.user_is_new = random.random(USERS) < 0.1
        self.user_is_verified = random.random(USERS) < 0.05
        shuffled = np.argsort(random.random(USERS))
        weights = np.exp(0.7 * self.user_activity)  # active users appear more often
        self.user_share = np.cumsum(weights / weights.sum())
        self.user_ids = 10_000_000 + shuffled.astype(np.int64)
        self.intercepts = dict.fromkeys(TASKS, 0.0)
        sample = self._drivers(self._draw_candidates(np.random.default_rng([seed, 1]), 0, 4 * BLOCK_ROWS))
        self.intercepts = {name: _intercept(_effect(task, sample), task.rate) for name, task in TASKS.items()}

    def block(self, split: int, number: int, start_ms: int, rows: int = BLOCK_ROWS) -> Block:
        """Block `number` of `split` (0 train, 1 validation), starting at `start_ms`."""
        random = np.random.default_rng([self.seed, 2, split, number])
        candidates = self._draw_candidates(random, start_ms, rows)
        drivers = self._drivers(candidates)
        truth = {name: _sigmoid(self.intercepts[name] + _effect(task, drivers)) for name, task in TASKS.items()}
        columns = self._columns(random, candidates)
        # Columns are drawn before labels, so that they cannot depend on labels.
        columns |= _labels(random, truth, candidates["impressed_at_ms"])
        return Block(pa.table(columns), pa.table(truth))

    def _draw_candidates(self, random: np.random.Generator, start_ms: int, rows: int) -> dict[str, npt.NDArray[Any]]:
        """The candidates of several requests, 10 to 20 each, in the order shown."""
        sizes = random.integers(10, POSITIONS + 1, rows // 10 + 1)
        request = np.repeat(np.arange(len(sizes)), sizes)[:rows]
        position = np.arange(rows) - np.r_[0, np.cumsum(sizes)][request]
        served = start_ms + np.sort(random.integers(0, BLOCK_MS, request[-1] + 1))[request]
        user = np.minimum(np.searchsorted(self.user_share, random.random(request[-1] + 1)), USERS - 1)[request]
        author = random.integers(0, AUTHORS, rows)
        candidates = {
            "user": user,
            "author": author,
            "position": position,
            "served_at_ms": served,
            "impressed_at_ms": served + random.integers(50, 3000, rows),
            "age": random.normal(size=rows),
            "fame": 0.8 * self.author_fame[author] + 0.6 * random.normal(size=rows),
            "network": random.random(rows) < 0.45,
            "video": random.random(rows) < 0.4,
            "image": random.random(rows) < 0.3,
            "hour": served // 3_600_000 % 24,
        }
        if self.ranked:
            candidates["position"] = np.empty_like(position)
            candidates["position"][np.lexsort((-candidates["fame"], request))] = position
        return candidates

    def _drivers(self, candidates: dict[str, npt.NDArray[Any]]) -> dict[str, Floats]:
        """The drivers of engagement: functions of the columns, of about unit scale."""
        user, author = candidates["user"], candidates["author"]
        network = np.where(candidates["network"], 1.0, -1.0)
        affinity = np.sqrt(INTERESTS) * (self.user_interest[user] * self.author_interest[author]).sum(axis=1)
        moment = np.cos((candidates["hour"] - self.topic_peak[self.author_topic[author]]) * (2 * np.pi / 24)) * np.sqrt(
            2
        )
        language = self.language_effect[self.author_language[author]]
        same = np.where(self.user_language[user] == self.author_language[author], 0.6, 0.0)
        return {
            "affinity": affinity + language + same,
            "popular": np.tanh(candidates["fame"]),
            "network": network,
            "network_popular": network * np.tanh(candidates["fame"]),
            "fresh": -np.tanh(candidates["age"]),
            "video": np.where(candidates["video"], 1.0, -1.0),
            "active": np.where(self.user_is_new[user], -2.0, self.user_activity[user]),
            "moment": moment,
            "toxic": self.author_toxicity[author],
            "position": np.log1p(candidates["position"]) - 2.0,
        }

    def _columns(self, random: np.random.Generator, candidates: dict[str, npt.NDArray[Any]]) -> dict[str, pa.Array]:
        """The columns of the feed except labels and times of engagements."""
        user, author = candidates["user"], candidates["author"]
        rows = len(user)
        noise = random.normal(size=(3, rows))
        activity = np.where(self.user_is_new[user], np.nan, 0.05 * np.exp(1.5 * self.user_activity[user]))
        floats = {
            "author_followers": np.exp(6.0 + 4.0 * self.author_fame[author]),
            "post_views": np.expm1(9.0 + 3.0 * candidates["fame"]).clip(0),
            "post_age_hours": np.exp(2.0 + 1.5 * candidates["age"]),
            "post_length": np.exp(4.0 + noise[0]),
            "user_favorites_7d": 100 * activity,
            "user_days_active": np.where(random.random(rows) < 0.03, np.nan, np.exp(5.0 + 0.8 * noise[1])),
            "author_toxicity": np.sinh(2.0 * self.author_toxicity[author]),
            "topic_trend": 1e6 * noise[2] ** 3,
        }
        bits = {
            "is_in_network": candidates["network"],
            "has_video": candidates["video"],
            "has_image": candidates["image"],
            "user_is_verified": self.user_is_verified[user],
            "same_language": self.user_language[user] == self.author_language[author],
        }
        languages = pa.DictionaryArray.from_arrays(
            pa.array(self.author_language[author].astype(np.int8)), pa.array(LANGUAGES)
        )
        return {
            "user_id": pa.array(self.user_ids[user]),
            "author_id": pa.array(20_000_000 + author),
            "post_id": pa.array(random.integers(0, 2**62, rows)),
            "served_at_ms": pa.array(candidates["served_at_ms"]),
            "impressed_at_ms": pa.array(candidates["impressed_at_ms"]),
            **{name: pa.array(values.astype(np.float32), from_pandas=True) for name, values in floats.items()},
            **{name: pa.array(values) for name, values in bits.items()},
            "hour": pa.array(candidates["hour"].astype(np.int32)),
            "topic": pa.array(self.author_topic[author].astype(np.int32)),
            "position": pa.array(candidates["position"].astype(np.int32)),
            "language": languages.dictionary_decode(),
            "user_embedding": self._vectors(self.user_interest[user]),
            "author_embedding": self._vectors(self.author_interest[author]),
        }

    def _vectors(self, interests: Floats) -> pa.Array:
        """[B, interests] → fixed-size lists of float32."""
        values = (interests @ self.directions).astype(np.float32)
        return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), self.embedding_size)


def _labels(
    random: np.random.Generator, truth: dict[str, Floats], impressed: npt.NDArray[np.int64]
) -> dict[str, pa.Array]:
    """For each task, a 0/1 column, and the time of the engagement (null without one)."""
    mood = random.random(len(impressed))
    columns: dict[str, pa.Array] = {}
    for name, task in TASKS.items():
        own = random.random(len(impressed))
        shared = random.random(len(impressed)) < SHARED_MOOD
        engaged = np.where(shared, mood, own) < truth[name]
        delay = random.exponential(1000 * task.delay_seconds, len(impressed)).astype(np.int64)
        columns[name] = pa.array(engaged.astype(np.int8))
        columns[f"{name}_at_ms"] = pa.array(impressed + delay, mask=~engaged)
    return columns


def _effect(task: Task, drivers: dict[str, Floats]) -> Floats:
    return np.asarray(sum(weight * drivers[name] for name, weight in task.drivers.items()), np.float64)


def _intercept(effects: Floats, rate: float) -> float:
    """The intercept at which the mean probability is `rate`, by bisection."""
    low, high = -30.0, 30.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _sigmoid(middle + effects).mean() < rate else (low, middle)
    return low


def _sigmoid(logits: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-logits)), np.float64)


def _unit(vectors: Floats) -> Floats:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float64)
