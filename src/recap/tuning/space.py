"""The search space: the values of `tuning.space`, checked against the schema, and the configurations they make.

A parameter is a drawn value as Optuna stores it: a number of a range, or the text of a choice as YAML.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import exp, log
from typing import Any

from recap.config.base import KeyPath
from recap.config.file.environment import secrets
from recap.config.file.layers import steps_of
from recap.config.file.load import Resolved, Template
from recap.config.file.node import Node, node_at, node_of
from recap.config.file.validate import in_order, origin_at
from recap.config.file.yaml import render_inline
from recap.config.recap import RecapConfig
from recap.config.tuning import ChoicesConfig, RangeConfig, TuningConfig, ValuesConfig
from recap.errors import ConfigError, Origin, Problem

Parameters = Mapping[str, float | int | str]
"""Key of the space → its parameter."""
_EDGE = 0.05
"""Share of a range, at each end, that is its edge."""


class SearchSpace:
    """The keys that a search changes, each with the values to try."""

    def __init__(self, template: Template, tuning: TuningConfig) -> None:
        """`template`: the configuration with `tuning`. Raises ConfigError for a key or a value that cannot be set."""
        self.template, self.values = template, tuning.space
        if hidden := [path for path in secrets(template.root) if path[0] == "tuning"]:
            origin = _node(template.root, *hidden[0]).origin
            raise ConfigError([Problem(origin, "tuning.space", "a study records its values; a secret cannot be one")])
        problems = [problem for key, values in self.values.items() for problem in self._problems(key, values)]
        if problems:
            raise ConfigError(in_order(problems))
        self.whole = frozenset(key for key, values in self.values.items() if self._is_whole(key, values))
        """The keys whose range has only whole numbers."""

    def config(self, parameters: Parameters, fixed: Mapping[str, Any] | None = None) -> RecapConfig:
        """The configuration with these parameters, and the `fixed` values of other keys.

        Raises ConfigError if the values do not fit together.
        """
        nodes = {key: node_of(value, Origin("recap tune")) for key, value in (fixed or {}).items()}
        for key, value in self.values_of(parameters).items():
            nodes |= self._set(key, node_of(value, _node(self.template.root, "tuning", "space", key).origin))
        return self.template.with_values(nodes)

    def values_of(self, parameters: Parameters) -> dict[str, Any]:
        """The values that parameters stand for, in the order of the space."""
        return {
            key: parameters[key] if isinstance(values, RangeConfig) else self.choices(key)[str(parameters[key])]
            for key, values in self.values.items()
            if key in parameters
        }

    def choices(self, key: str) -> dict[str, Any]:
        """The choices of a key by their parameters."""
        values = self.values[key]
        assert isinstance(values, ChoicesConfig)
        return {render_inline(choice): choice for choice in values.choices}

    def written(self) -> Parameters | None:
        """The parameters of the configuration as it is written; None if one of its values is not in the space."""
        config = self.template.with_values({})
        parameters: dict[str, float | int | str] = {}
        for key, values in self.values.items():
            if isinstance(values, RangeConfig):
                value = _value_at(config.model_dump(), steps_of(key))
                low, high = values.range
                if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
                    return None
                parameters[key] = value if key in self.whole else float(value)
            else:
                same = [text for text in self.choices(key) if self._gives({key: text}, config)]
                if not same:
                    return None
                parameters[key] = same[0]
        return parameters if self._gives(parameters, config) else None

    def marks(self, parameters: Parameters) -> Iterator[KeyPath]:
        """The path of each key of the space, those of `also` too; for a section, that of its first key."""
        for key, value in self.values_of(parameters).items():
            first = tuple(value)[:1] if isinstance(value, dict) else ()
            for name in (key, *self.values[key].also):
                yield *(int(step) if step.isdigit() else step for step in steps_of(name)), *first

    def edges(self, parameters: Parameters) -> Iterator[str]:
        """A warning for each value at an edge of its values, where the schema accepts values beyond it."""
        for key, value in self.values_of(parameters).items():
            values = self.values[key]
            listed = values.range if isinstance(values, RangeConfig) else values.choices
            if not all(isinstance(item, int | float) and not isinstance(item, bool) for item in listed):
                continue
            beyond = self._beyond(values, value)
            if beyond is not None and beyond != value and not self._is_refused(key, beyond):
                side = "lowest" if beyond < value else "highest"
                span = f"{min(listed):g} to {max(listed):g}"
                best = f"{key}: the best value, {value:.4g}, is near the {side} edge of {span}"
                yield f"{best}; try values beyond it in another --output"

    def _beyond(self, values: ValuesConfig, value: float) -> float | None:
        """A value beyond the edge that a value is at; None if it is at none."""
        if isinstance(values, ChoicesConfig):
            if value == max(values.choices):
                return value * 2
            return (value // 2 if isinstance(value, int) else value / 2) if value == min(values.choices) else None
        low, high = map(log, values.range) if values.log else values.range
        share = ((log(value) if values.log else value) - low) / (high - low)
        if _EDGE < share < 1 - _EDGE:
            return None
        if isinstance(value, int):
            return int(values.range[0]) - 1 if share <= _EDGE else int(values.range[1]) + 1
        beyond = low - (high - low) / 10 if share <= _EDGE else high + (high - low) / 10
        return exp(beyond) if values.log else beyond

    def _problems(self, key: str, values: ValuesConfig) -> Iterator[Problem]:
        """What the schema refuses: the key, or one of its values set alone."""
        field = "range" if isinstance(values, RangeConfig) else "choices"
        for value in _node(self.template.root, "tuning", "space", key, field).value:
            yield from (problem for name, one in self._set(key, value).items() for problem in self._refused(name, one))

    def _is_whole(self, key: str, values: ValuesConfig) -> bool:
        """Whether a range is of whole numbers, and its key takes no others."""
        if isinstance(values, ChoicesConfig) or not all(bound.is_integer() for bound in values.range):
            return False
        return self._is_refused(key, values.range[0] + 0.5)

    def _is_refused(self, key: str, value: float) -> bool:
        return any(self._refused(key, node_of(value, Origin("recap tune"))))

    def _refused(self, name: str, value: Node) -> list[Problem]:
        """The problems of a key that get a value while all others stay as they are written."""
        try:
            self.template.with_values({name: value})
        except ConfigError as error:
            return [problem for problem in error.problems if f"{problem.path}.".startswith((f"{name}.", "."))]
        return []

    def _set(self, key: str, value: Node) -> dict[str, Node]:
        """The value for a key of the space and for those of its `also`, with their origins."""
        at = ("tuning", "space", key)
        origin = _node(self.template.root, *at)
        others = {
            name: _node(self.template.root, *at, "also", index).origin
            for index, name in enumerate(self.values[key].also)
        }
        origins = {key: origin.key or origin.origin, **others}
        return {name: replace(value, key=where) for name, where in origins.items()}

    def _gives(self, parameters: Parameters, config: RecapConfig) -> bool:
        """Whether the parameters give this configuration."""
        try:
            return self.config(parameters) == config
        except ConfigError:
            return False


def checked_space(resolved: Resolved, template: Template) -> SearchSpace:
    """The search space of a configuration with `tuning`. Raises ConfigError too if no metric is watched."""
    config = resolved.config
    assert config.tuning is not None
    if config.training.watch is None:
        splits = ", ".join(config.validation_data) or "none"
        text = (
            "recap tune compares trials by the watched metric, and no metric is watched; add it, such as "
            f"training.watch: {{metric: auc, split: NAME}}. Validation sets: {splits}."
        )
        raise ConfigError([Problem(origin_at(resolved.root, ("training", "watch")), "training.watch", text)])
    return SearchSpace(template, config.tuning)


def _node(root: Node, *path: str | int) -> Node:
    """The node at a path that the validated configuration has."""
    node = node_at(root, path)
    return root if node is None else node


def _value_at(values: Any, steps: list[str]) -> Any:
    """The value at a key; None if there is none."""
    for step in steps:
        if isinstance(values, dict) and step in values:
            values = values[step]
        elif isinstance(values, list) and step.isdigit() and int(step) < len(values):
            values = values[int(step)]
        else:
            return None
    return values
