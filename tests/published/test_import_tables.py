"""Import of large embedding tables in the published form."""

import json
from pathlib import Path
from typing import Any

import pytest
from published.files import complete_values, imported, read_back


@pytest.fixture
def published(tmp_path: Path) -> dict[str, Any]:
    """The complete file as plain values, for a test to change."""
    return complete_values(tmp_path)


LARGE: dict[str, Any] = {
    "tables": [
        {"name": "author", "num_embeddings": 1000, "embedding_dim": 8, "vocab": "vocab/author/"},
        {
            "name": "tweet",
            "num_embeddings": 500,
            "embedding_dim": 4,
            "pretrained": {"emb_name": "tweets", "embedding_snapshot_uri": "gs://models/rows"},
        },
    ],
    "optimizer": {"learning_rate": {"constant": 0.02}, "init_learning_rate": 0.01},
    "tables_to_log": ["author"],
}


def test_large_embeddings_become_features_with_their_own_optimizer(tmp_path: Path, published: dict[str, Any]) -> None:
    published["model"]["large_embeddings"] = LARGE
    for data in (published["train_data"], *published["validation_data"].values()):
        data["seg_dense_schema"]["renamed_features"]["author"] = "meta.author_id"
    result = imported(tmp_path, json.loads(json.dumps(published)))
    config = read_back(tmp_path, result)
    assert config.features.model_dump(exclude_unset=True)["discrete"] == {
        "meta.author_id": {"vocabulary": "vocab/author/*.parquet"},
        "tweet": {"size": 500},
    }
    assert [column.name for column in config.features.ids] == ["meta.tweet_id"]
    assert config.model.model_dump(mode="json")["embeddings"] == {
        "meta.author_id": 8,
        "tweet": {"width": 4, "pretrained": {"path": "gs://models/rows/*.parquet", "vector": "tweets"}},
    }
    assert (config.training.log_norms, config.training.checkpoint_max_to_keep) == (True, 3)
    tables = config.optimizer.tables
    assert tables is not None
    assert tables.model_dump(exclude_unset=True) == {
        "algorithm": {"kind": "sgd"},
        "learning_rate": {"kind": "constant", "learning_rate": 0.02},
        "sparse": True,
    }
    texts = {remark.path: remark.text for remark in result.remarks}
    path = "model.large_embeddings"
    assert "training.sharded_tables: {} does that here" in texts[f"{path}.tables"]
    assert texts[f"{path}.tables.0.name"] == "the ids of this table are read from column 'meta.author_id', one per row"
    assert texts[f"{path}.tables.0.vocab"].startswith("the first column of its files must list the ids")
    assert texts[f"{path}.tables.1.pretrained"].startswith("must hold Parquet files with an 'id' and a vector")
    assert texts[f"{path}.optimizer.init_learning_rate"].startswith("left out: learning_rate gives the rate")


def test_a_table_of_users_keeps_the_column_of_user_ids(tmp_path: Path, published: dict[str, Any]) -> None:
    tables = [{"name": "meta__user_id", "num_embeddings": 9, "embedding_dim": 2}]
    published["model"]["large_embeddings"] = LARGE | {"tables": tables, "tables_to_log": None}
    features = read_back(tmp_path, imported(tmp_path, published)).features
    assert (features.user, list(features.discrete)) == ("meta.user_id", ["meta.user_id"])


@pytest.mark.parametrize(
    ("optimizer", "rate"),
    [
        ({"init_learning_rate": 0.01}, {"kind": "constant", "learning_rate": 0.01}),
        ({"learning_rate": 0.5}, {"kind": "constant", "learning_rate": 0.5}),
        (
            {"learning_rate": {"linear_ramp_to_constant": {"learning_rate": 0.5, "num_ramp_steps": 7}}},
            {"kind": "linear_ramp_to_constant", "learning_rate": 0.5, "num_ramp_steps": 4},
        ),
    ],
)
def test_the_rate_of_large_tables_is_their_schedule_or_initial_rate(
    optimizer: dict[str, Any], rate: dict[str, Any], tmp_path: Path, published: dict[str, Any]
) -> None:
    tables = [{"name": "hour", "num_embeddings": 24, "embedding_dim": 4, "index": 7}]
    published["model"] |= {"small_embeddings": {"tables": tables}, "large_embeddings": LARGE | {"optimizer": optimizer}}
    result = imported(tmp_path, json.loads(json.dumps(published)))
    config = read_back(tmp_path, result)
    assert config.optimizer.tables is not None
    assert config.optimizer.tables.learning_rate.model_dump() == rate
    assert list(config.model.widths) == ["hour", "author", "tweet"]
    texts = {remark.path: remark.text for remark in result.remarks}
    assert texts["model.large_embeddings.optimizer"].startswith("also applies to the small tables")
