"""Backbones and towers that are refused."""

from pathlib import Path
from typing import Any

import pytest
from support import feed_values

from recap.config.file.load import config_of, dump_config, load_config
from recap.errors import ConfigError

MLP = {"kind": "mlp", "layer_sizes": [8, 4]}
DLRM = {"kind": "dlrm", "bottom_mlp": {"layer_sizes": [8, 4]}}
STREAM = {"mlp": {"layer_sizes": [8, 6]}}
FINAL = {"kind": "final_mlp", "first": STREAM, "second": STREAM}
MIXER = {"kind": "rank_mixer", "num_tokens": 4, "width": 8, "num_layers": 1}


def values_with(backbone: dict[str, Any] | None, **model: Any) -> dict[str, Any]:
    values = feed_values(Path("feed"), Path("run"))
    values["model"] |= {"backbone": backbone, **model}
    return values


def problems(values: dict[str, Any]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        config_of(values)
    return [f"{problem.path}: {problem.text}" for problem in caught.value.problems]


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "a rate, and rates": (
        {**MLP, "dropout": {"rate": 0.1, "rates": [0.1]}},
        "model.backbone.dropout: needs at most one of rate and rates, found both",
    ),
    "a rate for a layer without an activation": (
        {**MLP, "dropout": {"rates": [0.1, 0.1]}},
        "model.backbone.dropout.rates: must have one rate per layer with an activation, 1; found 2",
    ),
    "no rate for the last activation": (
        {**MLP, "dropout": {"rates": [0.1]}, "final_layer_activation": True},
        "model.backbone.dropout.rates: must have one rate per layer with an activation, 2; found 1",
    ),
    "a rate for each input of a layer": (
        {**MLP, "dropout": {"rates": [0.1], "position": "before_linear"}},
        "model.backbone.dropout.rates: must have one rate per layer, 2; found 1",
    ),
    "two norms": (
        {**MLP, "batch_norm": {}, "layer_norm": {}},
        "model.backbone.layer_norm: batch_norm is set too, and a layer has one norm; remove one of them",
    ),
    "the place of no norm": (
        {**MLP, "norm_position": "after_activation"},
        "model.backbone.norm_position: places a norm, but there is none; add 'batch_norm: {}' or 'layer_norm: {}'",
    ),
    "no norm for the last layer": (
        {**MLP, "final_layer_norm": True},
        "model.backbone.final_layer_norm: needs batch_norm or layer_norm, and neither is set; add 'batch_norm: {}' or "
        "'layer_norm: {}'",
    ),
    "sums of unequal widths": (
        {**MLP, "residual": True},
        "model.backbone.residual: needs at least two layers of the same width, because a layer adds its input to its "
        "output; found layer_sizes [8, 4]",
    ),
    "nothing to add to": (
        {**MLP, "layer_sizes": [8], "residual": True},
        "model.backbone.residual: needs at least two layers of the same width, because a layer adds its input to its "
        "output; found layer_sizes [8]",
    ),
    "an unknown activation": (
        {**MLP, "activation": "swish"},
        "model.backbone.activation: 'swish' is unknown. Known: relu, leaky_relu, prelu, dice, gelu, silu, tanh.",
    ),
    "an ensemble inside a backbone": (
        {"kind": "dcn", "poly_degree": 1, "output_mlp": {**MLP, "ensemble": {"members": 4}}},
        "model.backbone.output_mlp.ensemble: 'ensemble' is unknown. Known: kind, layer_sizes, batch_norm, layer_norm, "
        "norm_position, activation, residual, dropout, final_layer_activation, final_layer_norm.",
    ),
    "a gate on an unknown feature": (
        {**FINAL, "first": {**STREAM, "gate": {"kind": "inputs", "features": ["houe"]}}},
        "model.backbone.first.gate.features.0: no discrete feature 'houe' has an embedding. Known: hour, language. Did "
        "you mean 'hour'?",
    ),
    "a gate on a feature twice": (
        {**FINAL, "second": {**STREAM, "gate": {"kind": "inputs", "features": ["hour", "hour"]}}},
        "model.backbone.second.gate.features.1: 'hour' is listed twice; remove one",
    ),
    "a rate of 1": (
        {**MLP, "dropout": {"rates": [1.0]}},
        "model.backbone.dropout.rates.0: must be below 1, found 1.0",
    ),
    "no MLP to stack": (
        {"kind": "dcn", "poly_degree": 1, "use_parallel": False},
        "model.backbone.use_parallel: false puts parallel_mlp after the cross layers, but parallel_mlp is "
        "not set; set it, or remove use_parallel",
    ),
    "no MLP to stack on gates": (
        {"kind": "gdcn", "num_layers": 1, "use_parallel": False},
        "model.backbone.use_parallel: false puts mlp after the cross layers, but mlp is not set; set it, or remove "
        "use_parallel",
    ),
    "a cross network without layers": (
        {"kind": "dcn", "poly_degree": 0},
        "model.backbone.poly_degree: must be above 0, found 0",
    ),
    "a bottom of another width": (
        {**DLRM, "bottom_mlp": {"layer_sizes": [4, 8]}},
        "model.backbone.bottom_mlp.layer_sizes: the last layer must be as wide as the embeddings, 4; found 8",
    ),
    "heads that do not divide a stream": (
        {**FINAL, "num_heads": 4},
        "model.backbone.first.mlp.layer_sizes: the last layer must be a multiple of num_heads, 4; found 6",
    ),
    "an unknown gate": (
        {**FINAL, "first": {**STREAM, "gate": {"kind": "none"}}},
        "model.backbone.first.gate.kind: 'none' is unknown. Known: inputs, learned.",
    ),
    "heads that do not divide a token": (
        {**MIXER, "width": 6},
        "model.backbone.width: must be a multiple of num_tokens, 4; found 6",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_an_impossible_backbone_is_refused(case: str) -> None:
    backbone, message = WRONG[case]
    assert message in problems(values_with(backbone))


def test_a_tower_has_a_rate_for_each_hidden_layer() -> None:
    tower = {"kind": "mlp", "layer_sizes": [8, 4], "dropout": {"rates": [0.1]}}
    assert problems(values_with(MLP, tasks={"like": {"tower": tower}, "share": {"tower": {"kind": "mlp"}}})) == [
        "model.tasks.like.tower.dropout.rates: must have one rate per layer with an activation, 2; found 1"
    ]


def test_an_ensemble_needs_hidden_layers_and_two_members() -> None:
    for tower, message in (
        ({"ensemble": {"members": 4}}, ".ensemble: needs hidden layers, which the members share; set layer_sizes, or "),
        ({"layer_sizes": [4], "ensemble": {"members": 1}}, ".ensemble.members: must be at least 2, found 1"),
    ):
        tasks = {"like": {"tower": {"kind": "mlp", **tower}}, "share": {"tower": {"kind": "mlp"}}}
        assert problems(values_with(MLP, tasks=tasks))[0].startswith(f"model.tasks.like.tower{message}")


def test_a_gate_reads_features_where_its_network_reads_the_inputs() -> None:
    tower = {**FINAL, "first": {**STREAM, "gate": {"kind": "inputs", "features": ["hour"]}}}
    tasks = {"like": {"tower": tower}, "share": {"tower": {"kind": "mlp"}}}
    config_of(values_with(None, tasks=tasks, sharing={"kind": "share_none"}))
    assert problems(values_with(MLP, tasks=tasks, sharing={"kind": "share_partial"})) == [
        "model.tasks.like.tower.first.gate.features: needs a network that reads the inputs, and this one reads the "
        "output of another; remove it"
    ]


def test_dlrm_needs_embeddings_of_one_width() -> None:
    assert problems(values_with(DLRM, embeddings={"hour": 4, "language": 2})) == [
        "model.embeddings: dlrm multiplies embeddings, which must have the same width; found hour: 4, language: 2"
    ]
    wide = {"kind": "dlrm", "bottom_mlp": {"layer_sizes": [8]}}
    assert problems(values_with(wide, embeddings={"default": 4, "language": 2})) == [
        "model.embeddings: dlrm multiplies embeddings, which must have the same width; found hour: 4, language: 2",
        "model.backbone.bottom_mlp.layer_sizes: the last layer must be as wide as the embeddings, 4 or 2; found 8",
    ]
    message = "model.backbone: dlrm multiplies embeddings, but the model has none; add columns under features.discrete"
    assert problems(values_with(DLRM, embeddings={"default": 0})) == [message]
    config_of(values_with(DLRM, embeddings={"hour": 4, "language": 0}))


def test_dlrm_needs_numbers() -> None:
    values = values_with(DLRM)
    values["features"] = {"discrete": {"hour": {"size": 24}}}
    assert problems(values) == [
        "model.backbone.bottom_mlp: has no inputs; add columns under features.continuous, binary or vectors"
    ]


def test_a_dlrm_tower_must_read_the_inputs() -> None:
    tasks = {"like": {"tower": DLRM}, "share": {"tower": {"kind": "mlp"}}}
    config_of(values_with(None, tasks=tasks, sharing={"kind": "share_none"}))
    assert problems(values_with(MLP, tasks=tasks, sharing={"kind": "share_partial"})) == [
        "model.tasks.like.tower: dlrm multiplies embeddings, but does not read them under share_partial; use share_none"
    ]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            {"backbone": DLRM, "sharing": {"kind": "ple", "shared_experts": 1, "task_experts": 1, "levels": 2}},
            "model.backbone: dlrm multiplies embeddings, but does not read them under ple; use cgc",
        ),
        (
            {
                "tasks": {"like": {"tower": {"kind": "mlp"}}, "share": {"tower": DLRM}},
                "sharing": {"kind": "share_none"},
                "cascade": {"kind": "aitm", "chain": ["like", "share"], "width": 4},
            },
            "model.tasks.share.tower: dlrm multiplies embeddings, but does not read them under aitm; use share_none",
        ),
    ],
)
def test_dlrm_must_not_read_mixtures(model: dict[str, Any], message: str) -> None:
    backbone = model.pop("backbone", None)
    assert problems(values_with(backbone, **model)) == [message]


def test_batch_norm_anywhere_needs_two_rows() -> None:
    deep = {"layer_sizes": [4, 6], "batch_norm": {}}
    for backbone in (
        {**MLP, "activation": "dice"},
        {"kind": "dcn", "poly_degree": 1, "parallel_mlp": deep},
        {**DLRM, "top_mlp": deep},
        {**FINAL, "second": {"mlp": deep}},
    ):
        tower = {"tower": {"kind": "mlp"}}
        values = values_with(backbone, tasks={"like": tower, "share": tower}, featurization={"kind": "log1p_abs"})
        values["train_data"]["global_batch_size"] = 1
        assert [line for line in problems(values) if "BatchNorm needs 2 rows" in line], backbone
        values["model"]["backbone"] = MLP
        config_of(values)


@pytest.mark.parametrize("dropout", [{}, {"rate": 0.2}, {"rates": [0.3]}])
def test_dropout_is_dumped_and_read_back(dropout: dict[str, Any], tmp_path: Path) -> None:
    config = config_of(values_with({**MLP, "dropout": dropout}))
    (tmp_path / "config.yaml").write_text(dump_config(config))
    assert load_config(tmp_path / "config.yaml") == config


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
OF_BACKBONE = "model.backbone.ensemble: its members have"


@pytest.mark.parametrize(
    ("model", "like", "message"),
    [
        (
            {"sharing": {"kind": "mmoe", "num_experts": 2}},
            {},
            "model.sharing: mmoe mixes its experts for a row, not for each member; use share_all or share_partial, or "
            "remove model.backbone.ensemble",
        ),
        (
            {"auxiliary_loss": {"kind": "self_ensemble"}},
            {},
            f"{OF_BACKBONE} losses of their own, and self_ensemble would be another; remove it, or remove "
            "model.auxiliary_loss",
        ),
        (
            {"cascade": {"kind": "esmm", "chain": ["share", "like"]}},
            {},
            f"{OF_BACKBONE} no product of probabilities to learn from; remove it, or remove model.cascade",
        ),
        (
            {"scenario": {"kind": "pepnet", "personal": ["hour"]}},
            {"tower": {"kind": "mlp", "layer_sizes": [4]}},
            "model.backbone.ensemble: its members do not share hidden units, which scenario.personal scales; remove "
            "one",
        ),
        (
            {},
            {"tower": {"kind": "gdcn", "num_layers": 1}},
            "model.tasks.like.tower: must continue the members of model.backbone, which gdcn cannot; use mlp, or "
            "remove model.backbone.ensemble",
        ),
        (
            {},
            {"tower": {"kind": "mlp", "layer_sizes": [4], "ensemble": {"members": 2}}},
            "model.tasks.like.tower.ensemble: continues the 4 members of model.backbone, and cannot have others; "
            "remove it",
        ),
        (
            {},
            {"listwise": {"weight": 1.0}},
            "model.tasks.like.listwise: compares the logits of rows, but each member of the ensemble has its own; "
            "remove one",
        ),
    ],
)
def test_what_cannot_carry_the_members_of_a_backbone_is_refused(
    model: dict[str, Any], like: dict[str, Any], message: str
) -> None:
    tasks = {"like": {"tower": {"kind": "mlp"}, **like}, "share": {"tower": {"kind": "mlp"}}}
    assert problems(values_with(MEMBERS, tasks=tasks, **model)) == [message]


DEEP = "model.sharing: its members have"


@pytest.mark.parametrize(
    ("model", "like", "message"),
    [
        (
            {"auxiliary_loss": {"kind": "self_ensemble"}},
            {},
            f"{DEEP} losses of their own, and self_ensemble would be another; remove it, or remove "
            "model.auxiliary_loss",
        ),
        (
            {"cascade": {"kind": "esmm", "chain": ["share", "like"]}},
            {},
            f"{DEEP} no product of probabilities to learn from; remove it, or remove model.cascade",
        ),
        (
            {},
            {"tower": {"kind": "gdcn", "num_layers": 1}},
            "model.tasks.like.tower: must continue the members of model.sharing, which gdcn cannot; use mlp, or use "
            "share_all",
        ),
        (
            {},
            {"tower": {"kind": "mlp", "layer_sizes": [4], "ensemble": {"members": 4}}},
            "model.tasks.like.tower.ensemble: continues the 4 members of model.sharing, and cannot have others; remove "
            "it",
        ),
        (
            {"backbone": MEMBERS},
            {},
            "model.backbone.ensemble: each member of model.sharing has a backbone, which cannot have members again; "
            "remove it, or use share_all",
        ),
        (
            {"embeddings": {"default": 6}},
            {},
            "model.embeddings: deep_ensemble needs widths that are multiples of 4, a part for each member; found "
            "hour: 6, language: 6",
        ),
    ],
)
def test_what_cannot_carry_the_members_of_a_deep_ensemble_is_refused(
    model: dict[str, Any], like: dict[str, Any], message: str
) -> None:
    tasks = {"like": {"tower": {"kind": "mlp"}, **like}, "share": {"tower": {"kind": "mlp"}}}
    settings = {"sharing": {"kind": "deep_ensemble", "members": 4}, "embeddings": {"default": 8}, "tasks": tasks}
    backbone = model.pop("backbone", {**MLP, "dropout": {}})
    assert problems(values_with(backbone, **settings | model)) == [message]


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


@pytest.mark.parametrize("kind", ["pcgrad", "grad_norm"])
def test_the_penalty_of_experts_is_refused_where_gradients_are_balanced(kind: str) -> None:
    values = values_with({**MIXER, "experts": {"num_experts": 2}})
    config_of(values)
    values["optimizer"]["balancing"] = {"kind": kind}
    assert problems(values) == [
        f"model.backbone.experts: adds a loss that belongs to no task, which {kind} cannot balance; remove it, or use "
        "another balancing"
    ]
