"""Scenarios that are refused."""

from pathlib import Path
from typing import Any

import pytest
from support import feed_values

from recap.config.file.load import config_of
from recap.errors import ConfigError

PEPNET = {"kind": "pepnet", "domain": ["hour"]}
TOWER = {"kind": "mlp", "layer_sizes": [4]}
LINEAR = {"like": {"tower": {"kind": "mlp"}}, "share": {"tower": {"kind": "mlp"}}}
MEMBERS = {"like": {"tower": {**TOWER, "ensemble": {"members": 2}}}, "share": {"tower": TOWER}}


def problems(scenario: dict[str, Any], **model: Any) -> list[str]:
    values = feed_values(Path("feed"), Path("run"))
    values["model"] |= {"scenario": scenario, **model}
    with pytest.raises(ConfigError) as caught:
        config_of(values)
    return [f"{problem.path}: {problem.text}" for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("scenario", "model", "expected"),
    [
        (
            {"kind": "pepnet"},
            {},
            "model.scenario: pepnet has no gate; set domain, personal, or both",
        ),
        (
            {"kind": "pepnet", "domain": []},
            {},
            "model.scenario.domain: must not be empty, found an empty list",
        ),
        (
            {**PEPNET, "domain": ["age"]},
            {},
            "model.scenario.domain.0: no discrete feature 'age' has an embedding. Known: hour, language.",
        ),
        (
            {**PEPNET, "personal": ["hour", "language", "hour"]},
            {"tasks": {"like": {"tower": TOWER}, "share": {"tower": TOWER}}},
            "model.scenario.personal.2: 'hour' is listed twice; remove one",
        ),
        (
            {**PEPNET, "personal": ["hour"]},
            {"tasks": LINEAR},
            "model.scenario.personal: scales the hidden units of MLP towers, and no tower has any; set layer_sizes of "
            "one, or remove it",
        ),
        (
            {**PEPNET, "personal": ["hour"]},
            {"tasks": MEMBERS},
            "model.tasks.like.tower.ensemble: its members share weights but not hidden units, which scenario.personal "
            "scales; remove one",
        ),
    ],
)
def test_a_scenario_that_does_not_fit_is_refused(
    scenario: dict[str, Any], model: dict[str, Any], expected: str
) -> None:
    assert problems(scenario, **model) == [expected]
