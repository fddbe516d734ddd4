"""Tasks with several outputs: ensembles, and losses on parts of a network, where they cannot work."""

from typing import Any

import pytest
from config.networks import MIXER, MLP, problems, values_with

from recap.config.file.load import config_of


def test_an_ensemble_needs_hidden_layers_and_two_members() -> None:
    for tower, message in (
        ({"ensemble": {"members": 4}}, ".ensemble: needs hidden layers, which the members share; set layer_sizes, or "),
        ({"layer_sizes": [4], "ensemble": {"members": 1}}, ".ensemble.members: must be at least 2, found 1"),
    ):
        tasks = {"like": {"tower": {"kind": "mlp", **tower}}, "share": {"tower": {"kind": "mlp"}}}
        assert problems(values_with(MLP, tasks=tasks))[0].startswith(f"model.tasks.like.tower{message}")


@pytest.mark.parametrize(
    ("model", "task", "message"),
    [
        (
            {"cascade": {"kind": "esmm", "chain": ["share", "like"]}},
            {},
            "model.tasks.like.tower.ensemble: its members have no product of probabilities to learn from; remove it, "
            "or take the task out of the esmm chain",
        ),
        (
            {},
            {"pairwise": {"weight": 1.0}},
            "model.tasks.like.pairwise: compares the logits of rows, but each member of the ensemble has its own; "
            "remove one",
        ),
        (
            {},
            {"jrc": {"weight": 1.0}},
            "model.tasks.like.jrc: compares the logits of rows, but each member of the ensemble has its own; remove "
            "one",
        ),
        (
            {"auxiliary_loss": {"kind": "self_ensemble"}},
            {},
            "model.tasks.like.tower.ensemble: its members have losses of their own, and self_ensemble would be "
            "another; remove it, or remove model.auxiliary_loss",
        ),
    ],
)
def test_members_learn_from_their_own_losses_alone(model: dict[str, Any], task: dict[str, Any], message: str) -> None:
    tower = {"kind": "mlp", "layer_sizes": [4], "dropout": {}, "ensemble": {"members": 2}}
    tasks = {"like": {"tower": tower, **task}, "share": {"tower": {"kind": "mlp"}}}
    assert problems(values_with(MLP, tasks=tasks, **model)) == [message]


MEMBERS = {"kind": "mlp", "layer_sizes": [8], "dropout": {}, "ensemble": {"members": 4}}
DEEP = {
    "backbone": {**MLP, "dropout": {}},
    "sharing": {"kind": "deep_ensemble", "members": 4},
    "embeddings": {"default": 8},
}
SHARED = {
    "model.backbone": ({"backbone": MEMBERS}, "model.backbone.ensemble", "remove model.backbone.ensemble"),
    "model.sharing": (DEEP, "model.sharing", "use share_all"),
}
"""What has members → its settings, where they are stated, and what removes them."""


@pytest.mark.parametrize("owner", SHARED)
@pytest.mark.parametrize(
    ("model", "like", "message"),
    [
        (
            {"auxiliary_loss": {"kind": "self_ensemble"}},
            {},
            "{at}: its members have losses of their own, and self_ensemble would be another; remove it, or remove "
            "model.auxiliary_loss",
        ),
        (
            {"cascade": {"kind": "esmm", "chain": ["share", "like"]}},
            {},
            "{at}: its members have no product of probabilities to learn from; remove it, or remove model.cascade",
        ),
        (
            {"scenario": {"kind": "pepnet", "personal": ["hour"]}},
            {"tower": {"kind": "mlp", "layer_sizes": [4]}},
            "{at}: its members do not share hidden units, which scenario.personal scales; remove one",
        ),
        (
            {},
            {"tower": {"kind": "gdcn", "num_layers": 1}},
            "model.tasks.like.tower: must continue the members of {owner}, which gdcn cannot; use mlp, or {remove}",
        ),
        (
            {},
            {"tower": {"kind": "mlp", "layer_sizes": [4], "ensemble": {"members": 2}}},
            "model.tasks.like.tower.ensemble: continues the 4 members of {owner}, and cannot have others; remove it",
        ),
        (
            {},
            {"listwise": {"weight": 1.0}},
            "model.tasks.like.listwise: compares the logits of rows, but each member of the ensemble has its own; "
            "remove one",
        ),
    ],
)
def test_what_cannot_carry_the_members_of_all_tasks_is_refused(
    owner: str, model: dict[str, Any], like: dict[str, Any], message: str
) -> None:
    settings, at, remove = SHARED[owner]
    tasks = {"like": {"tower": {"kind": "mlp"}, **like}, "share": {"tower": {"kind": "mlp"}}}
    values = values_with(**settings | model, tasks=tasks)  # type: ignore[arg-type]
    assert problems(values) == [message.format(owner=owner, at=at, remove=remove)]


def test_experts_are_mixed_for_a_row_not_for_each_member() -> None:
    assert problems(values_with(MEMBERS, tasks=LINEAR, sharing={"kind": "mmoe", "num_experts": 2})) == [
        "model.sharing: mmoe mixes its experts for a row, not for each member; use share_all or share_partial, or "
        "remove model.backbone.ensemble"
    ]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            {"backbone": MEMBERS},
            "model.backbone.ensemble: the members of model.sharing cannot have members of their own; remove it, or use "
            "share_all",
        ),
        (
            {"embeddings": {"default": 6}},
            "model.embeddings: deep_ensemble needs widths that are multiples of 4, a part for each member; found "
            "hour: 6, language: 6",
        ),
        (
            {"sharing": {"kind": "deep_ensemble", "members": 1}},
            "model.sharing.members: must be at least 2, found 1",
        ),
    ],
)
def test_a_deep_ensemble_that_cannot_be_built_is_refused(model: dict[str, Any], message: str) -> None:
    assert problems(values_with(**DEEP | model, tasks=LINEAR)) == [message]  # type: ignore[arg-type]


def test_a_tower_may_state_the_members_of_its_backbone_again() -> None:
    tower = {"kind": "mlp", "layer_sizes": [4], "ensemble": {"members": 4}}
    tasks = {"like": {"tower": tower}, "share": {"tower": {"kind": "mlp"}}}
    config = config_of(values_with(MEMBERS, tasks=tasks))
    assert [config.model.ensemble_of(task) for task in config.tasks] == [config.model.shared_ensemble] * 2


CROSS = {"kind": "dcn_v3", "exponential": {"num_layers": 1}, "linear": {"num_layers": 1}}
LINEAR = {"like": {"tower": {"kind": "mlp"}}, "share": {"tower": {"kind": "mlp"}}}
TRI_BCE, SELF_ENSEMBLE = {"kind": "tri_bce"}, {"kind": "self_ensemble"}


def test_tri_bce_needs_the_networks_of_dcn_v3_and_one_linear_that_reads_both() -> None:
    config_of(values_with(CROSS, tasks=LINEAR, auxiliary_loss=TRI_BCE))
    towers = {"like": {"tower": CROSS}, "share": {"tower": CROSS}}
    config_of(values_with(None, tasks=towers, sharing={"kind": "share_none"}, auxiliary_loss=TRI_BCE))
    config_of(values_with(MLP, tasks=towers, auxiliary_loss=TRI_BCE))
    assert problems(values_with(MLP, tasks=LINEAR, auxiliary_loss=TRI_BCE)) == [
        f"model.tasks.{task}.tower: tri_bce needs dcn_v3 as the backbone, or as this tower; use it, or remove "
        "model.auxiliary_loss"
        for task in ("like", "share")
    ]
    for tower in ({"kind": "mlp", "layer_sizes": [4]}, MIXER):
        tasks = {**LINEAR, "like": {"tower": tower}}
        assert problems(values_with(CROSS, tasks=tasks, auxiliary_loss=TRI_BCE)) == [
            "model.tasks.like.tower: tri_bce needs a tower of one Linear, which gives each network of the backbone its "
            "own logit; use '{kind: mlp}' without layer_sizes"
        ]


def test_tri_bce_is_refused_for_tasks_of_a_chain() -> None:
    aitm = {"kind": "aitm", "chain": ["share", "like"], "width": 4}
    esmm = {"kind": "esmm", "chain": ["share", "like"]}
    assert problems(values_with(CROSS, tasks=LINEAR, auxiliary_loss=TRI_BCE, cascade=aitm)) == [
        f"model.tasks.{task}: aitm mixes the two networks that tri_bce tells apart; take the task out of the cascade"
        for task in ("like", "share")
    ]
    assert problems(values_with(CROSS, tasks=LINEAR, auxiliary_loss=TRI_BCE, cascade=esmm)) == [
        f"model.tasks.{task}: tri_bce cannot follow a product of probabilities; take the task out of the esmm chain"
        for task in ("like", "share")
    ]


def test_a_self_ensemble_needs_dropout() -> None:
    message = (
        "model.auxiliary_loss: self_ensemble makes two passes that differ by dropout, but backbone and towers have "
        "none; add dropout, or remove auxiliary_loss"
    )
    for backbone, has_dropout in (
        (MLP, False),
        ({**MLP, "dropout": {"rate": 0.0}}, False),
        ({**MLP, "dropout": {"rates": [0.0]}}, False),
        ({**MLP, "dropout": {}}, True),
        ({"kind": "qnn", "num_layers": 1}, False),
        ({"kind": "qnn", "num_layers": 1, "dropout_rate": 0.1}, True),
        ({**CROSS, "linear": {"num_layers": 1, "dropout_rate": 0.1}}, True),
    ):
        values = values_with(backbone, tasks=LINEAR, auxiliary_loss=SELF_ENSEMBLE)
        if has_dropout:
            config_of(values)
        else:
            assert problems(values) == [message]
