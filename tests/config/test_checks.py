"""Checks across sections: one that reads an invalid value ends, and bugs in checks are never hidden."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import feed_values

from recap.config import recap as root
from recap.config.base import BaseConfig, Check, MissingValue, Problems, all_problems
from recap.config.file.load import config_of
from recap.errors import ConfigError


def values(**changes: Any) -> dict[str, Any]:
    return feed_values(Path("feed"), Path("run")) | changes


def problems(values: dict[str, Any]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        config_of(values)
    return [f"{problem.path}: {problem.text}" for problem in caught.value.problems]


@pytest.mark.parametrize("error", [AttributeError, TypeError, KeyError])
def test_a_bug_in_a_check_raises_although_the_file_has_another_mistake(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> Iterator[Any]:
        raise error("a bug")
        yield

    monkeypatch.setattr(root, "rate_problems", broken)
    with pytest.raises(error, match="a bug"):
        config_of(values(which_metrics=["acu"]))


def test_a_check_that_reads_an_invalid_value_ends_and_others_run() -> None:
    wrong = values(scoring={"weights": {"lik": 1.0}})
    wrong["optimizer"]["towers"] = 3
    assert problems(wrong) == [
        "optimizer.towers: expected a mapping, found 3",
        "scoring.weights.lik: unknown task 'lik'. Known: like, share. Did you mean 'like'?",
    ]


def test_an_invalid_item_of_a_list_is_not_compared() -> None:
    wrong = values()
    wrong["train_data"]["source"] = {"inputs": "x"}
    wrong["validation_data"] = {"recent": {"evaluation_tasks": ["like", 3, "lik"]}}
    assert problems(wrong) == ["validation_data.recent.evaluation_tasks.1: expected text, found 3"]


def test_an_invalid_section_still_counts_as_present() -> None:
    wrong = values()
    wrong["model"]["tasks"]["like"] = 3
    wrong["optimizer"]["towers"] = {"share": {"kind": "constant", "learning_rate": 0.1}}
    assert problems(wrong) == [
        "model.tasks.like: expected a mapping, found 3",
        "optimizer.towers: no learning rate for the tower of 'like'; add 'like: {…}' or 'default: {…}'",
    ]


def test_a_bad_address_is_reported_at_its_index() -> None:
    wrong = values()
    wrong["train_data"]["readers"] = {"kind": "service", "address": ["host:1", "host"]}
    assert "train_data.readers.address.1: expected HOST:PORT, found 'host'" in problems(wrong)


def test_a_choice_of_codes_names_the_keys_that_were_set() -> None:
    wrong = values()
    wrong["features"]["discrete"]["hour"] = {}
    assert problems(wrong)[0] == (
        "features.discrete.hour: needs exactly one of size, vocabulary, hash, zero_collision and table; "
        "found an empty mapping"
    )


class Pair(BaseConfig):
    first: int
    second: int

    def checks(self) -> tuple[Check, ...]:
        return (self._ascend,)

    def _ascend(self) -> Problems:
        yield ("first",), "reported before the second field is read"
        if self.second < self.first:
            yield ("second",), "must not be below first"


def test_only_a_missing_field_raises_missing_value() -> None:
    partial = Pair.model_construct(first=1)
    with pytest.raises(MissingValue):
        _ = partial.second
    with pytest.raises(AttributeError):
        _ = partial.third  # type: ignore[attr-defined]
    assert list(all_problems(partial)) == [(("first",), "reported before the second field is read")]


uses: list[Callable[[Any], Any]] = [
    lambda value: value.width,
    lambda value: value == 3,
    lambda value: value in {3},
    lambda value: "x" in value,
    lambda value: value < 3,
    lambda value: value > 3,
    lambda value: 7 % value,
    lambda value: f"{value}",
    lambda value: repr(value),
    lambda value: list(value),
    lambda value: value and 1,
]


@pytest.mark.parametrize("use", uses)
def test_any_use_of_an_invalid_item_ends_the_check(use: Callable[[Any], Any]) -> None:
    from recap.config.file.validate import _INVALID

    with pytest.raises(MissingValue):
        use(_INVALID)
