"""Backbones and towers that are refused."""

from pathlib import Path
from typing import Any

import pytest
from config.networks import MIXER, MLP, problems, values_with

from recap.config.file.load import config_of, dump_config, load_config

DLRM = {"kind": "dlrm", "bottom_mlp": {"layer_sizes": [8, 4]}}
STREAM = {"mlp": {"layer_sizes": [8, 6]}}
FINAL = {"kind": "final_mlp", "first": STREAM, "second": STREAM}

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


@pytest.mark.parametrize("kind", ["pcgrad", "grad_norm"])
def test_the_penalty_of_experts_is_refused_where_gradients_are_balanced(kind: str) -> None:
    values = values_with({**MIXER, "experts": {"num_experts": 2}})
    config_of(values)
    values["optimizer"]["balancing"] = {"kind": kind}
    assert problems(values) == [
        f"model.backbone.experts: adds a loss that belongs to no task, which {kind} cannot balance; remove it, or use "
        "another balancing"
    ]
