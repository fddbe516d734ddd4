"""`AggregatesConfig`: what `recap data aggregate` computes of the impressions before each impression."""

import math
import re
from collections import Counter
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from recap.config.base import BaseConfig, Check, KeyPath, Name, PositiveFloat, PositiveInt, Problems, RootConfig
from recap.text import suggest

ALL = "all"
"""The window that reaches back to the first impression."""
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_DURATION = re.compile(r"(0|[1-9][0-9]{0,5})([smhd])")


def microseconds(duration: str) -> int:
    """A duration such as `30m` in microseconds."""
    return int(duration[:-1]) * _SECONDS[duration[-1]] * 1_000_000


def _duration(text: object) -> object:
    if not isinstance(text, str) or not _DURATION.fullmatch(text):
        raise ValueError("expected a duration in s, m, h or d, such as 90s or 12h")
    return text


def _some_time(text: object) -> object:
    if not isinstance(text, str) or not _DURATION.fullmatch(text) or microseconds(text) == 0:
        raise ValueError("expected a duration above 0 in s, m, h or d, such as 12h or 1d")
    return text


def _window(text: object) -> object:
    try:
        return text if text == ALL else _some_time(text)
    except ValueError as error:
        raise ValueError(f"{error}; or {ALL}") from None


def _prior(value: object) -> object:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf
    if not is_number and value != "running":  # an error of a type: text of an environment variable may spell a number
        raise PydanticCustomError("number_or_running_type", "expected a number or running")
    return value


Duration = Annotated[str, BeforeValidator(_duration)]
"""A number of seconds, minutes, hours or days, such as 90s, 30m, 12h or 7d."""
Window = Annotated[str, BeforeValidator(_window)]
"""A duration above 0, or `all`."""
Prior = Annotated[float | Literal["running"], BeforeValidator(_prior)]
"""A number, or `running`."""
KeyName = Annotated[str, Field(pattern="^[A-Za-z0-9_]{1,60}$")]
"""The name of a key, with which columns and files begin: letters, digits and `_`."""


class TimeConfig(BaseConfig):
    """When each impression was shown."""

    column: Name
    """Column of the times: timestamps, dates, text such as 2026-01-31 18:00:00, or numbers since 1970."""
    unit: Literal["s", "ms", "us", "ns"] | None = None
    """Unit of numbers. Optional; default: as their size suggests."""


class RefreshConfig(BaseConfig):
    """Values are computed at fixed times, as by a nightly job, and stay until the next."""

    every: Annotated[str, BeforeValidator(_some_time)]
    """Time between two refreshes, such as 1h or 1d."""
    at: Duration = "0s"
    """The first refresh, after 1970-01-01 00:00 UTC; below `every`. With `every: 1d`, 16h is midnight in Beijing."""

    def checks(self) -> tuple[Check, ...]:
        return (self._begins_within_a_period,)

    def _begins_within_a_period(self) -> Problems:
        if microseconds(self.at) >= microseconds(self.every):
            yield ("at",), f"must be below every ({self.every}), after which refreshes repeat, found {self.at}"


class _Aggregate(BaseConfig):
    keys: Annotated[list[Name], Field(min_length=1)]
    """The keys for which it is computed."""

    @property
    def reads(self) -> list[tuple[KeyPath, str]]:
        """The columns that it reads beside those of keys, each with the field that names it."""
        fields = [(field, getattr(self, field, None) or ()) for field in ("labels", "columns")]
        return [((field, position), name) for field, names in fields for position, name in enumerate(names)]


class _Windowed(_Aggregate):
    windows: Annotated[list[Window], Field(min_length=1)]
    """How far back it reaches: durations, or `all`."""

    def _suffixes(self) -> list[str]:
        """What the names of columns end with: that of `all` is empty."""
        return ["" if window == ALL else f"_{window}" for window in self.windows]


class CountConfig(_Windowed):
    """The number of impressions: `KEY_count_WINDOW`."""

    kind: Literal["count"]

    @property
    def labels(self) -> list[str]:
        """The labels that it reads."""
        return []

    def names(self, key: str) -> list[str]:
        """The names of its columns."""
        return [f"{key}_count{suffix}" for suffix in self._suffixes()]


class SumConfig(_Windowed):
    """The sum of a label, such as the number of clicks or the seconds watched: `KEY_LABEL_sum_WINDOW`."""

    kind: Literal["sum"]
    labels: Annotated[list[Name], Field(min_length=1)]
    """Columns of numbers or booleans; missing values count as 0."""

    def names(self, key: str) -> list[str]:
        """The names of its columns."""
        return [f"{key}_{label}_sum{suffix}" for label in self.labels for suffix in self._suffixes()]


class RateConfig(_Windowed):
    """The mean of a label, drawn towards a prior: (sum + prior · strength) / (number + strength).

    `KEY_LABEL_rate_WINDOW`. The number counts the impressions whose label is known and not missing.
    """

    kind: Literal["rate"]
    priors: Annotated[dict[Name, Prior], Field(min_length=1)]
    """Each label with its rate for a key without impressions: a number, or `running` for the mean of all impressions
    known at the start of the hour."""
    strength: PositiveFloat
    """The number of impressions that the prior counts for."""

    @property
    def labels(self) -> list[str]:
        """The labels that it reads."""
        return list(self.priors)

    @property
    def reads(self) -> list[tuple[KeyPath, str]]:
        """As for the other aggregates."""
        return [(("priors", label), label) for label in self.priors]

    def names(self, key: str) -> list[str]:
        """The names of its columns."""
        return [f"{key}_{label}_rate{suffix}" for label in self.priors for suffix in self._suffixes()]


class _OfEngagements(_Aggregate):
    labels: Annotated[list[Name], Field(min_length=1)] | None = None
    """The engagements: a label above 0. Optional; default: of any impression."""

    @property
    def engagements(self) -> list[str | None]:
        """The labels; None for any impression."""
        return [*self.labels] if self.labels else [None]


class RecencyConfig(_OfEngagements):
    """Seconds since the last impression, `KEY_recency`, or since the last engagement, `KEY_LABEL_recency`."""

    kind: Literal["recency"]

    def names(self, key: str) -> list[str]:
        """The names of its columns."""
        return [f"{key}_{label}_recency" for label in self.labels] if self.labels else [f"{key}_recency"]


class LastConfig(_OfEngagements):
    """The values of a column in the last impressions, `KEY_last_COLUMN`, or engagements, `KEY_LABEL_last_COLUMN`:
    lists, oldest first, as `features.histories` reads them."""

    kind: Literal["last"]
    columns: Annotated[list[Name], Field(min_length=1)]
    """The columns, such as the id of the item and its author. Their lists have equal lengths."""
    length: PositiveInt
    """The longest list."""

    def names(self, key: str) -> list[str]:
        """The names of its columns."""
        starts = [f"{key}_{label}" for label in self.labels] if self.labels else [key]
        return [f"{start}_last_{column}" for start in starts for column in self.columns]


AggregateConfig = Annotated[
    CountConfig | SumConfig | RateConfig | RecencyConfig | LastConfig, Field(discriminator="kind")
]
"""What is computed."""


class AggregatesConfig(RootConfig):
    """Aggregates over the impressions of the same user, item or other key, as they are known at each impression."""

    time: TimeConfig
    """When each impression was shown."""
    delay: Duration = "0s"
    """How long after an impression its labels become known. Aggregates of labels end that long before."""
    refresh: RefreshConfig | None = None
    """Fixed times at which values are computed. Optional; default: at every impression."""
    keys: Annotated[dict[KeyName, Annotated[list[Name], Field(min_length=1)]], Field(min_length=1)]
    """Name of each key → the columns whose values it combines, of integers or text."""
    aggregates: Annotated[list[AggregateConfig], Field(min_length=1)]
    """What is computed, by key."""

    def checks(self) -> tuple[Check, ...]:
        return self._has_known_keys, self._has_keys_in_use, self._has_different_names

    def of(self, key: str) -> list[AggregateConfig]:
        """The aggregates of a key."""
        return [aggregate for aggregate in self.aggregates if key in aggregate.keys]

    def labels(self, key: str) -> list[str]:
        """The labels that the aggregates of a key read."""
        return list(dict.fromkeys(label for aggregate in self.of(key) for label in aggregate.labels or ()))

    def items(self, key: str) -> list[str]:
        """The columns of which a key keeps last values."""
        lasts = [aggregate for aggregate in self.of(key) if isinstance(aggregate, LastConfig)]
        return list(dict.fromkeys(column for last in lasts for column in last.columns))

    def names(self, key: str) -> list[str]:
        """The columns of a key, in the order of the aggregates."""
        return [name for aggregate in self.of(key) for name in aggregate.names(key)]

    @property
    def reads(self) -> dict[str, list[KeyPath]]:
        """Every column of the log that is read → the fields that name it."""
        reads: dict[str, list[KeyPath]] = {self.time.column: [("time", "column")]}
        for key, names in self.keys.items():
            for position, name in enumerate(names):
                reads.setdefault(name, []).append(("keys", key, position))
        for index, aggregate in enumerate(self.aggregates):
            for path, name in aggregate.reads:
                reads.setdefault(name, []).append(("aggregates", index, *path))
        return reads

    def _has_known_keys(self) -> Problems:
        for index, aggregate in enumerate(self.aggregates):
            for position, key in enumerate(aggregate.keys):
                if key not in self.keys:
                    yield ("aggregates", index, "keys", position), f"unknown key {key!r}. {suggest(key, [*self.keys])}"

    def _has_keys_in_use(self) -> Problems:
        named = {key for aggregate in self.aggregates for key in aggregate.keys}
        if not named <= self.keys.keys():
            return  # an unknown key is reported, and may be any of these with a typo
        for key in self.keys:
            if key not in named:
                yield ("keys", key), "no aggregate uses this key; name it in the keys of one, or remove it"

    def _has_different_names(self) -> Problems:
        names: Counter[str] = Counter()
        for index, aggregate in enumerate(self.aggregates):
            for key in aggregate.keys:
                for name in aggregate.names(key):
                    names[name] += 1
                    if names[name] == 2:
                        yield ("aggregates", index), f"column {name!r} is written twice; remove one of them"
