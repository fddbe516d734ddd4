"""Scenarios, sharings of embeddings and graphs of tasks that are refused."""

from pathlib import Path
from typing import Any

import pytest
from support import feed_values

from recap.config.file.load import config_of
from recap.errors import ConfigError

PEPNET = {"kind": "pepnet", "domain": ["hour"]}
STAR = {"kind": "star", "domain": "hour"}
TOWER = {"kind": "mlp", "layer_sizes": [4]}
LINEAR = {"like": {"tower": {"kind": "mlp"}}, "share": {"tower": {"kind": "mlp"}}}
MEMBERS = {"like": {"tower": {**TOWER, "ensemble": {"members": 2}}}, "share": {"tower": TOWER}}


def problems(scenario: dict[str, Any] | None, **model: Any) -> list[str]:
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
            "model.tasks.like.tower.ensemble: its members do not share hidden units, which scenario.personal scales; "
            "remove one",
        ),
        (
            {**STAR, "domain": "hours"},
            {"tasks": {"like": {"tower": TOWER}, "share": {"tower": TOWER}}},
            "model.scenario.domain: no discrete feature 'hours' has an embedding. Known: hour, language. Did you mean "
            "'hour'?",
        ),
        (
            STAR,
            {"tasks": MEMBERS},
            "model.tasks.like.tower.ensemble: an ensemble cannot have weights for each domain, as star needs; "
            "remove one",
        ),
        (
            STAR,
            {"tasks": {"like": {"tower": {"kind": "gdcn", "num_layers": 1}}, "share": {"tower": TOWER}}},
            "model.tasks.like.tower: star needs MLPs, whose layers have weights of each domain; found gdcn; use mlp, "
            "or remove model.scenario",
        ),
        (
            STAR,
            {"backbone": {"kind": "mlp", "layer_sizes": [4], "ensemble": {"members": 2}}, "tasks": LINEAR},
            "model.backbone.ensemble: an ensemble cannot have weights for each domain, as star needs; remove one",
        ),
        (
            STAR,
            {
                "backbone": {"kind": "mlp", "layer_sizes": [4]},
                "sharing": {"kind": "deep_ensemble", "members": 2},
                "tasks": LINEAR,
            },
            "model.sharing: an ensemble cannot have weights for each domain, as star needs; remove one",
        ),
        (
            STAR,
            {
                "auxiliary_loss": {"kind": "tri_bce"},
                "backbone": {"kind": "dcn_v3", "linear": {"num_layers": 1}, "exponential": {"num_layers": 1}},
                "tasks": LINEAR,
            },
            "model.auxiliary_loss: tri_bce divides a tower's Linear among two networks, and star has one for each "
            "domain; remove one",
        ),
    ],
)
def test_a_scenario_that_does_not_fit_is_refused(
    scenario: dict[str, Any], model: dict[str, Any], expected: str
) -> None:
    assert problems(scenario, **model) == [expected]


@pytest.mark.parametrize(
    ("feature", "expected"),
    [
        (
            {"hash": {"buckets": 10}},
            "'post' is a hash, which has no fixed number of values; give it a size or a vocabulary, or use another "
            "feature",
        ),
        ({"size": 3, "length": 2}, "'post' has 2 values per row, and a row is of one domain; use another feature"),
    ],
)
def test_the_domain_of_star_is_one_of_a_fixed_number(feature: dict[str, Any], expected: str) -> None:
    values = feed_values(Path("feed"), Path("run"))
    values["features"]["discrete"]["post"] = feature
    values["model"]["scenario"] = {"kind": "star", "domain": "post"}
    with pytest.raises(ConfigError) as caught:
        config_of(values)
    assert [f"{problem.path}: {problem.text}" for problem in caught.value.problems] == [
        f"model.scenario.domain: {expected}"
    ]


def test_the_norm_of_star_needs_two_rows() -> None:
    values = feed_values(Path("feed"), Path("run"))
    values["model"] |= {"scenario": STAR, "tasks": LINEAR, "featurization": {"kind": "log1p_abs"}, "backbone": MLP}
    values["train_data"]["global_batch_size"] = 1
    with pytest.raises(ConfigError, match="BatchNorm needs 2 rows per micro-batch"):
        config_of(values)


STEM = {"kind": "stem", "shared_experts": 1, "task_experts": 1}
POSO = {"kind": "poso", "features": ["hour"], "copies": 2}
MLP = {"kind": "mlp", "layer_sizes": [4]}


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (
            {"sharing": STEM, "embeddings": {"hour": 6, "default": 4}},
            "model.embeddings: stem needs widths that are multiples of 3, a part for each task and one for all; found "
            "language: 4",
        ),
        (
            {
                "sharing": STEM,
                "embeddings": {"default": 6},
                "numbers": {"kind": "auto_dis", "buckets": 3, "width": 4},
            },
            "model.embeddings: stem needs widths that are multiples of 3, a part for each task and one for all; found "
            "model.numbers: 4",
        ),
        (
            {"sharing": STEM, "embeddings": {"default": 0}},
            "model.sharing: stem divides embeddings, but the model has none; use cgc",
        ),
        (
            {"sharing": {**POSO, "features": ["huor"]}},
            "model.sharing.features.0: no discrete feature 'huor' has an embedding. Known: hour, language. Did you "
            "mean 'hour'?",
        ),
        (
            {"cascade": {"kind": "dbmtl", "parents": {"like": ["share"], "share": ["like"]}, "width": 4}},
            "model.cascade.parents: a task must not depend on itself, but like → share → like; remove one of these "
            "parents",
        ),
        (
            {"cascade": {"kind": "dbmtl", "parents": {"like": ["share", "share"]}, "width": 4}},
            "model.cascade.parents.like.1: 'share' is listed twice; remove one",
        ),
        (
            {"cascade": {"kind": "dbmtl", "parents": {"like": ["shrae"]}, "width": 4}},
            "model.cascade.parents.like.0: unknown task 'shrae'. Known: like, share. Did you mean 'share'?",
        ),
    ],
)
def test_a_sharing_or_a_cascade_that_does_not_fit_is_refused(model: dict[str, Any], expected: str) -> None:
    assert problems(None, backbone=MLP, **model) == [expected]


def test_dlrm_under_stem_reads_the_parts_of_embeddings() -> None:
    values = feed_values(Path("feed"), Path("run"))
    values["model"] |= {"sharing": STEM, "embeddings": {"default": 12}}
    values["model"]["backbone"] = {"kind": "dlrm", "bottom_mlp": {"layer_sizes": [4]}}
    assert config_of(values).model.sharing.kind == "stem"
