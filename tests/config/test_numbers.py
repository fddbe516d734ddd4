"""Featurizations and embeddings of numbers that are refused."""

from pathlib import Path
from typing import Any

import pytest
from support import feed_values

from recap.config.file.load import config_of
from recap.errors import ConfigError

BINS = {"kind": "piecewise_linear", "bins": 4, "width": 4}
DLRM = {"kind": "dlrm", "bottom_mlp": {"layer_sizes": [8, 4]}}


def values_with(**model: Any) -> dict[str, Any]:
    values = feed_values(Path("feed"), Path("run"))
    values["model"] |= model
    return values


def problems(values: dict[str, Any]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        config_of(values)
    return [f"{problem.path}: {problem.text}" for problem in caught.value.problems]


def test_a_layer_norm_does_not_go_with_embeddings_of_numbers() -> None:
    config_of(values_with(numbers=BINS))
    config_of(values_with(numbers=BINS, featurization={"kind": "quantile"}))
    featurization = {"kind": "double_norm_log", "layer_norm": {}}
    assert problems(values_with(numbers=BINS, featurization=featurization)) == [
        "model.featurization.layer_norm: reads all numbers of a row together, but model.numbers embeds each by itself; "
        "set layer_norm: null, or remove model.numbers"
    ]


def test_there_must_be_numbers_to_embed() -> None:
    values = values_with(numbers=BINS)
    del values["features"]["continuous"]
    assert problems(values) == [
        "model.numbers: there are no numbers to embed; add columns under features.continuous, or remove it"
    ]


def test_dlrm_needs_embeddings_of_numbers_and_of_ids_of_one_width() -> None:
    config_of(values_with(backbone=DLRM, numbers=BINS))
    assert problems(values_with(backbone=DLRM, numbers=BINS | {"width": 8})) == [
        "model.embeddings: dlrm multiplies embeddings, which must have the same width; found hour: 4, language: 4, "
        "model.numbers: 8"
    ]


def test_dlrm_needs_numbers_that_are_not_embedded() -> None:
    values = values_with(backbone=DLRM, numbers=BINS)
    values["features"] = {"continuous": ["age"]}
    values["model"]["embeddings"] = {}
    assert problems(values) == [
        "model.backbone.bottom_mlp: has no inputs; add columns under features.binary or vectors, or remove "
        "model.numbers"
    ]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"featurization": {"kind": "quantile", "quantiles": 1}}, "model.featurization.quantiles: must be at least 2"),
        ({"featurization": {"kind": "quantile", "output": "log"}}, "model.featurization.output: 'log' is unknown"),
        ({"featurization": {"missing": "mean"}}, "model.featurization"),
        ({"numbers": BINS | {"bins": 0}}, "model.numbers.bins: must be at least 1"),
        ({"numbers": {"kind": "periodic", "sigma": 0.0}}, "model.numbers.sigma: must be above 0"),
        ({"numbers": {"kind": "auto_dis", "temperature": 0.0}}, "model.numbers.temperature: must be above 0"),
        ({"numbers": {"kind": "bins"}}, "model.numbers.kind: 'bins' is unknown"),
    ],
)
def test_values_out_of_range_are_refused(model: dict[str, Any], message: str) -> None:
    (problem,) = problems(values_with(**model))
    assert problem.startswith(message)
