"""The section `tuning`: the values that `recap tune` tries, and how it chooses among them."""

from collections.abc import Iterator
from difflib import get_close_matches
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from recap.config.base import BaseConfig, Check, KeyPath, Name, NonNegativeInt, PositiveInt, Problems


class RangeConfig(BaseConfig):
    """The numbers from a lowest to a highest; whole numbers for a key that takes only those."""

    range: list[float]
    """The lowest and the highest number, such as [0.0, 0.5]; both are included."""
    log: bool = False
    """Whether each order of magnitude is as likely as the next, as suits learning rates."""
    also: list[Name] = []
    """More keys, which get the same value."""

    def checks(self) -> tuple[Check, ...]:
        return (self._are_two_ascending_numbers,)

    def _are_two_ascending_numbers(self) -> Problems:
        if len(self.range) != 2:
            yield ("range",), f"needs the lowest and the highest number, found {len(self.range)}"
        elif self.range[0] >= self.range[1]:
            yield ("range",), f"must be ascending, found {self.range[0]:g} and {self.range[1]:g}"
        elif self.log and self.range[0] <= 0:
            yield ("range", 0), f"must be above 0, because log is true; found {self.range[0]:g}"


class ChoicesConfig(BaseConfig):
    """Values to choose from: of any type, also lists and complete sections."""

    choices: list[Any]
    """The values, such as [[256], [512, 256]]; at least two."""
    also: list[Name] = []
    """More keys, which get the same value."""

    def checks(self) -> tuple[Check, ...]:
        return (self._are_different,)

    def _are_different(self) -> Problems:
        if len(self.choices) < 2:
            yield ("choices",), f"needs at least two values, found {len(self.choices)}"
        for index, value in enumerate(self.choices):
            if any(value == other and type(value) is type(other) for other in self.choices[:index]):
                yield ("choices", index), "is listed twice; remove one"


_KINDS = {"range": "a range", "choices": "a list of values"}
"""The key that distinguishes a kind of values → the name of the kind."""


def _kind(value: Any) -> str | None:
    """Discriminator of `ValuesConfig`: the kind whose key is stated, misspelt or not; None for both or neither."""
    if not isinstance(value, dict):
        return "a list of values" if isinstance(value, ChoicesConfig) else "a range"
    stated = {near for key in value for near in get_close_matches(str(key), _KINDS, n=1)}
    return _KINDS[stated.pop()] if len(stated) == 1 else None


ValuesConfig = Annotated[
    Annotated[RangeConfig, Tag("a range")] | Annotated[ChoicesConfig, Tag("a list of values")],
    Discriminator(_kind, custom_error_type="one_of", custom_error_message="needs exactly one of range and choices"),
]
"""The values that a search tries for a key."""


class MedianPruningConfig(BaseConfig):
    """Ends a trial whose best value so far is worse than the median of the other trials at the same step."""

    kind: Literal["median"] = "median"
    full_trials: PositiveInt = 5
    """Number of trials that are trained to their end before any is ended early."""
    warmup_steps: NonNegativeInt = 0
    """Steps before which no trial is ended."""


class HyperbandPruningConfig(BaseConfig):
    """Hyperband (arXiv:1603.06560): groups of trials that are halved repeatedly, each group from another step on."""

    kind: Literal["hyperband"]
    factor: Annotated[int, Field(ge=2, le=100)] = 3
    """One in this many trials of a group is trained further each time."""


PruningConfig = Annotated[MedianPruningConfig | HyperbandPruningConfig, Field(discriminator="kind")]

_MEASURE = (
    *("validation_data", "which_metrics", "metrics", "strata", "slices", "backtest"),
    *(f"training.watch.{key}" for key in ("metric", "split", "tasks")),
    *(f"training.{key}" for key in ("eval_log_every_n", "num_eval_steps", "eval_timeout_in_s")),
)
"""The keys that decide how and on what a trial is measured."""
_FIXED = {
    "training.seed": "its best value is luck",
    "training.save_dir": "each trial has its own folder",
    "scoring": "it changes no metric of a task, so not the watched one",
    "tuning": "a search does not search itself",
    **dict.fromkeys(_MEASURE, "all trials are measured alike"),
}
"""The keys that no search may change, and why."""


class TuningConfig(BaseConfig):
    """The section `tuning`: what `recap tune` searches. Trials are compared by `training.watch`."""

    space: Annotated[dict[Name, ValuesConfig], Field(min_length=1)]
    """Key of the configuration, such as `optimizer.backbone.learning_rate` → the values to try."""
    pruning: PruningConfig | None = MedianPruningConfig()
    """Ends trials early that do worse than others at the same step. null trains every trial to its end."""
    random_trials: NonNegativeInt = 10
    """Number of trials with random values before those whose values are chosen by the results so far (TPE)."""
    seed: NonNegativeInt = 0
    """Seed of the choice of values. All trials train with `training.seed`."""

    def checks(self) -> tuple[Check, ...]:
        return (self._keys_may_change, self._keys_are_apart)

    def searched(self) -> Iterator[tuple[KeyPath, str]]:
        """Every key of the space, those of `also` too, with its path in this section."""
        for key, values in self.space.items():
            yield ("space", key), key
            yield from ((("space", key, "also", index), other) for index, other in enumerate(values.also))

    def _keys_may_change(self) -> Problems:
        for path, key in self.searched():
            for fixed, reason in _FIXED.items():
                if _contains(fixed, key) or _contains(key, fixed):
                    which = "" if _contains(fixed, key) else f"contains {fixed}, which "
                    yield path, f"{_named(key, path)}{which}cannot be tuned: {reason}; remove it"
                    break

    def _keys_are_apart(self) -> Problems:
        keys = list(self.searched())
        for index, (path, key) in enumerate(keys):
            for _, other in keys[:index]:
                if key == other:
                    yield path, f"{_named(key, path)}is in the space twice; remove one"
                elif _contains(other, key):
                    yield path, f"{_named(key, path)}is part of {other}, which is in the space too; remove one"
                elif _contains(key, other):
                    yield path, f"{_named(key, path)}contains {other}, which is in the space too; remove one"


def _named(key: str, path: KeyPath) -> str:
    """The key before a text about it, unless the path, which messages show, ends with it."""
    return "" if path[-1] == key else f"{key!r} "


def _contains(section: str, key: str) -> bool:
    """Whether a key is a section or a part of it."""
    return key == section or key.startswith(f"{section}.")
