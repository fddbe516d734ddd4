"""Import of networks in the published form."""

import json
from pathlib import Path
from typing import Any

import pytest
from published.files import complete_values, imported, read_back

from recap.config.recap import RecapConfig


@pytest.fixture
def published(tmp_path: Path) -> dict[str, Any]:
    """The complete file as plain values, for a test to change."""
    return complete_values(tmp_path)


def networks(config: RecapConfig) -> dict[str, Any]:
    """Task → the fields set in its tower."""
    return {name: task.tower.model_dump(exclude_unset=True) for name, task in config.model.tasks.items()}


def test_layers_with_their_own_dropout_are_converted(tmp_path: Path, published: dict[str, Any]) -> None:
    layers = [{"layer_size": 32, "dropout": {}}, {"layer_size": 16}, {"layer_size": 8, "dropout": {"rate": 0.25}}]
    tasks = published["model"]["tasks"]
    tasks["is_favorited"]["mlp_config"] = {"layers": [*layers, {"layer_size": 1}]}
    tasks["is_reported"]["mask_net_config"]["mlp"] = {"layers": [*layers, {"layer_size": 1}]}
    tasks["is_shared"] = {"mlp_config": {"layers": [{"layer_size": 4}, {"layer_size": 1}], "dropout": {"rate": 0.5}}}
    published["model"]["backbone"] = {"mlp_config": {"layers": layers[:2], "final_layer_activation": True}}
    config = read_back(tmp_path, imported(tmp_path, json.loads(json.dumps(published))))
    towers = networks(config)
    hidden = {"layer_sizes": [32, 16, 8], "dropout": {"rates": [0.1, 0.0, 0.25]}}
    assert towers["is_favorited"] == {"kind": "mlp", **hidden}
    assert towers["is_reported"]["mlp"] == {**hidden, "final_layer_activation": True}
    assert towers["is_shared"] == {"kind": "mlp", "layer_sizes": [4], "dropout": {"rate": 0.5}}
    assert config.model.backbone is not None
    assert config.model.backbone.model_dump(exclude_unset=True) == {
        "kind": "mlp",
        "layer_sizes": [32, 16],
        "dropout": {"rates": [0.1, 0.0]},
        "final_layer_activation": True,
    }


def test_the_last_hidden_layer_of_a_tower_keeps_its_batch_norm(tmp_path: Path, published: dict[str, Any]) -> None:
    mlp = {"layer_sizes": [8, 4, 1], "batch_norm": {"affine": False}}
    published["model"]["tasks"]["is_reported"]["mask_net_config"]["mlp"] = mlp
    tower = networks(read_back(tmp_path, imported(tmp_path, published)))["is_reported"]
    assert tower["mlp"] == {
        "layer_sizes": [8, 4],
        "batch_norm": {"affine": False},
        "final_layer_activation": True,
        "final_layer_norm": True,
    }


def test_dcn_is_converted_as_backbone_and_as_tower(tmp_path: Path, published: dict[str, Any]) -> None:
    model = published["model"]
    dcn = {
        "poly_degree": 3,
        "projection_dim": 8,
        "use_parallel": True,
        "parallel_mlp": {"layer_sizes": [16, 1]},
        "output_mlp": {"layer_sizes": [8, 4], "batch_norm": {}, "dropout": {"rate": 0.3}},
    }
    model["backbone"] = {"dcn_config": dcn}
    towers = {
        "is_favorited": {**dcn, "output_mlp": {"layer_sizes": [8, 1], "dropout": {"rate": 0.3}}},
        "is_reported": {"poly_degree": 1, "use_parallel": False, "parallel_mlp": {"layer_sizes": [4, 1]}},
        "is_shared": {"poly_degree": 1, "use_parallel": False, "parallel_mlp": {"layer_sizes": [1]}},
        "is_retweeted": {"poly_degree": 2, "use_parallel": False, "output_mlp": {"layer_sizes": [1]}},
    }
    for name, tower in towers.items():
        model["tasks"][name] = {"dcn_config": tower}
    config = read_back(tmp_path, imported(tmp_path, json.loads(json.dumps(published))))
    assert config.model.backbone is not None
    assert config.model.backbone.model_dump(exclude_unset=True) == {"kind": "dcn", **dcn}
    converted = networks(config)
    last = {"layer_sizes": [8], "dropout": {"rate": 0.3}, "final_layer_activation": True}
    stacked = {"use_parallel": False, "parallel_mlp": {"layer_sizes": [4], "final_layer_activation": True}}
    assert converted["is_favorited"] == {"kind": "dcn", **dcn, "output_mlp": last}
    assert converted["is_reported"] == {"kind": "dcn", "poly_degree": 1, **stacked}
    assert converted["is_shared"] == {"kind": "dcn", "poly_degree": 1}
    assert converted["is_retweeted"] == {"kind": "dcn", "poly_degree": 2}


def test_dlrm_is_converted_as_backbone_and_as_tower(tmp_path: Path, published: dict[str, Any]) -> None:
    model = published["model"]
    tables = [{"name": name, "num_embeddings": 24, "embedding_dim": 4, "index": 7} for name in ("hour", "topic")]
    model["small_embeddings"] = {"tables": tables}
    dlrm = {"bottom_mlp": {"layer_sizes": [8, 4], "final_layer_activation": True}, "top_mlp": {"layer_sizes": [6]}}
    model["backbone"] = {"dlrm_config": dlrm}
    config = read_back(tmp_path, imported(tmp_path, published))
    assert config.model.backbone is not None
    assert config.model.backbone.model_dump(exclude_unset=True) == {"kind": "dlrm", **dlrm}
    model |= {"backbone": None, "multi_task_type": "share_none"}
    for name, sizes in (("is_favorited", [6, 1]), ("is_reported", [1])):
        model["tasks"][name] = {"dlrm_config": {**dlrm, "top_mlp": {"layer_sizes": sizes}}}
    converted = networks(read_back(tmp_path, imported(tmp_path, published)))
    top = {"top_mlp": {"layer_sizes": [6], "final_layer_activation": True}}
    assert converted["is_favorited"] == {"kind": "dlrm", **dlrm, **top}
    assert converted["is_reported"] == {"kind": "dlrm", "bottom_mlp": dlrm["bottom_mlp"]}


def test_imported_towers_start_at_a_half_as_published(tmp_path: Path, published: dict[str, Any]) -> None:
    result = imported(tmp_path, published)
    config = read_back(tmp_path, result)
    assert {task.initial_rate for task in config.model.tasks.values()} == {"none"}
    assert result.text.count("initial_rate: none") == len(config.tasks)
