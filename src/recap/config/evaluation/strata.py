"""Strata: the rows of a split whose metrics are reported separately."""

from collections.abc import Iterable
from datetime import UTC, datetime
from difflib import get_close_matches
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Discriminator, Field, Tag

from recap.config.base import BaseConfig, Check, Name, Problems


def _code_or_string(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError("expected a whole number or text")
    return value


def _one_of(*keys: str) -> ConfigDict:
    """The JSON Schema asks for at least one of the keys, as `stratum_kind` does."""
    return ConfigDict(json_schema_extra={"anyOf": [{"required": [key]} for key in keys]})


class FeatureStratum(BaseConfig):
    """Rows selected by one feature with one value per row."""

    feature: Name
    """The feature."""


def feature_of(stratum: BaseConfig) -> str | None:
    """The feature that a stratum selects by; None for one by time."""
    return stratum.feature if isinstance(stratum, FeatureStratum) else None


class ValueStratum(FeatureStratum):
    """The rows with one value of a discrete or binary feature."""

    feature: Name
    """A discrete feature with one code per row, not hashed, whose embedding may have width 0; or a binary feature."""
    value: Annotated[int | str, BeforeValidator(_code_or_string)]
    """The value that selects rows: an integer code, or an entry of the vocabulary as a string; 0 or 1 of a binary
    feature."""


class RangeStratum(FeatureStratum):
    """The rows in which a continuous feature is in a range. Missing values are in none."""

    model_config = _one_of("at_least", "below")

    feature: Name
    """A continuous feature with one value per row."""
    at_least: float | None = None
    """Lowest value. Optional; default: no limit."""
    below: float | None = None
    """All values are below this one. Optional; default: no limit."""

    def checks(self) -> tuple[Check, ...]:
        return (self._range_has_values,)

    def _range_has_values(self) -> Problems:
        if self.at_least is not None and self.below is not None and self.at_least >= self.below:
            yield ("below",), f"must be above at_least, {self.at_least:g}; found {self.below:g}"


Quantile = Annotated[float, Field(ge=0, le=1)]


class QuantileStratum(FeatureStratum):
    """The rows in which a continuous feature is between two of its quantiles. Missing values are in no range."""

    feature: Name
    """A continuous feature with one value per row."""
    quantiles: list[Quantile]
    """Two quantiles from 0 to 1, such as [0.9, 1.0] for the highest tenth: values of at least the first and below the
    second, where 0 and 1 are no limits. They are those of all rows of the split, or of 50,000 spread over its files."""

    def checks(self) -> tuple[Check, ...]:
        return (self._are_two_ascending_quantiles,)

    def _are_two_ascending_quantiles(self) -> Problems:
        if len(self.quantiles) != 2:
            yield ("quantiles",), f"needs two quantiles, found {len(self.quantiles)}"
        elif self.quantiles[0] >= self.quantiles[1]:
            yield ("quantiles",), f"must be ascending, found {self.quantiles}"


def _time(text: str) -> str:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("expected a date or a time, such as 2024-05-01 or 2024-05-01T18:30") from None
    return text


Time = Annotated[str, AfterValidator(_time)]


def milliseconds_of(text: Time) -> int:
    """A date or time in milliseconds since 1970; in UTC unless it has an offset."""
    time = datetime.fromisoformat(text)
    return round((time if time.tzinfo is not None else time.replace(tzinfo=UTC)).timestamp() * 1000)


class PeriodStratum(BaseConfig):
    """The rows of a period, by `features.timestamp`: timestamps, or milliseconds since 1970."""

    model_config = _one_of("since", "before")

    since: Time | None = None
    """First time: a date or time in ISO 8601, in UTC unless it has an offset. Optional; default: no limit."""
    before: Time | None = None
    """All times are before this one; a date is its first moment. Optional; default: no limit."""

    def checks(self) -> tuple[Check, ...]:
        return (self._period_has_times,)

    def _period_has_times(self) -> Problems:
        if self.since is None or self.before is None:
            return
        if milliseconds_of(self.since) >= milliseconds_of(self.before):
            yield ("before",), f"must be after since, {self.since}; found {self.before}"


Hour = Annotated[int, Field(ge=0, le=24)]


class HoursStratum(BaseConfig):
    """The rows of some hours of the day, by `features.timestamp`: timestamps, or milliseconds since 1970."""

    hours: list[Hour]
    """First hour, and the one after the last, from 0 to 24 in UTC: [18, 24] is the evening, [22, 6] the night."""

    def checks(self) -> tuple[Check, ...]:
        return (self._are_two_hours,)

    def _are_two_hours(self) -> Problems:
        if len(self.hours) != 2:
            yield ("hours",), f"needs the first hour and the one after the last, found {self.hours}"
        elif self.hours[0] % 24 == self.hours[1] % 24:
            yield ("hours",), f"selects all rows or none; found {self.hours}"


_KEYS: dict[str, tuple[type[BaseConfig], str]] = {
    "value": (ValueStratum, "a value"),
    "at_least": (RangeStratum, "a range"),
    "below": (RangeStratum, "a range"),
    "quantiles": (QuantileStratum, "a range of quantiles"),
    "since": (PeriodStratum, "a period"),
    "before": (PeriodStratum, "a period"),
    "hours": (HoursStratum, "hours of the day"),
}
"""A key → the stratum that it distinguishes, and the name of its kind."""


def stratum_kind(value: Any) -> str | None:
    """Discriminator of `StratumConfig`: the kind of a value; None if it has the keys of several."""
    if not isinstance(value, dict):
        return next((kind for model, kind in _KEYS.values() if isinstance(value, model)), "a value")
    misspelt = [near for key in value if key != "feature" for near in get_close_matches(str(key), _KEYS, n=1)]
    return stated_kind(value if any(key in _KEYS for key in value) else [*misspelt, "value"][:1])


def stated_kind(keys: Iterable[Any]) -> str | None:
    """The kind that the keys of a mapping distinguish; None for the keys of none or several."""
    kinds = {_KEYS[key][1] for key in keys if key in _KEYS}
    return kinds.pop() if len(kinds) == 1 else None


StratumConfig = Annotated[
    Annotated[ValueStratum, Tag("a value")]
    | Annotated[RangeStratum, Tag("a range")]
    | Annotated[QuantileStratum, Tag("a range of quantiles")]
    | Annotated[PeriodStratum, Tag("a period")]
    | Annotated[HoursStratum, Tag("hours of the day")],
    Discriminator(
        stratum_kind,
        custom_error_type="one_of",
        custom_error_message="needs one of value, at_least and below, quantiles, since and before, and hours",
    ),
]
