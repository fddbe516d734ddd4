"""From a file in the published form and TFRecords in the published layout to a trained model."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from processes import run_recap
from safetensors.torch import load_file

from recap.data.tools.convert import convert_files
from recap.runs import Run

TASKS = ["recap.engagement.is_favorited", "recap.engagement.is_replied"]
VECTORS = {
    "user_embedding": "user.follow",
    "user_eng_embedding": "user.engagement",
    "author_embedding": "author.follow",
}


def write_records(folder: Path) -> None:
    """Two hundred impressions: dense lists, three vectors, ids, labels."""
    random = np.random.default_rng(0)

    def dense(width: int, *, whole: bool = False) -> pa.Array:
        values = random.integers(0, 2, 200 * width) if whole else random.normal(size=200 * width).astype(np.float32)
        return pa.FixedSizeListArray.from_arrays(pa.array(values), width)

    columns = {"home.continuous": dense(12), "home.binary": dense(5, whole=True), "home.discrete": dense(4, whole=True)}
    columns |= {name: dense(6) for name in VECTORS.values()}
    columns |= {"meta.user_id": pa.array(random.integers(0, 20, 200)), "meta.tweet_id": pa.array(range(200))}
    columns["meta.author_id"] = pa.array(random.integers(0, 30, 200) * 10**12)
    for name in ("vocab", "rows"):
        (folder / name).mkdir()
    authors = pa.array(np.arange(25) * 10**12)  # five authors have no row
    pq.write_table(pa.table({"author": authors, "row": np.arange(25)}), folder / "vocab" / "part-0.parquet")
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.ones(10 * 4, np.float32)), 4)
    pq.write_table(pa.table({"id": authors[:10], "authors": vectors}), folder / "rows" / "part-0.parquet")
    columns |= {task: pa.array((random.random(200) < 0.3).astype(np.int64)) for task in TASKS}
    pq.write_table(pa.table(columns), folder / "rows.parquet")
    convert_files([str(folder / "rows.parquet")], folder / "data", "tfrecord")


def published() -> dict[str, object]:
    dense = {
        "schema_path": "data/schema.json",
        "renamed_features": {
            "continuous": "home.continuous",
            "binary": "home.binary",
            "discrete": "home.discrete",
            **VECTORS,
            "meta__user_id": "meta.user_id",
            "meta__tweet_id": "meta.tweet_id",
            "author": "meta.author_id",
        },
    }
    tasks: dict[str, dict[str, float]] = {task: {} for task in [*TASKS, "recap.engagement.is_bookmarked"]}
    data = {"inputs": "data/*.gz", "global_batch_size": 50, "seg_dense_schema": dense, "tasks": tasks}
    norms = {"batch_norm_config": {"momentum": 0.01}, "layer_norm_config": {"epsilon": 0.0}}
    rate = {"linear_ramp_to_constant": {"learning_rate": 0.001, "num_ramp_steps": 2}}
    rates = {"backbone_learning_rate": rate, "tower_learning_rates": dict.fromkeys(TASKS, rate)}
    blocks = [{"output_size": 8, "aggregation_size": 8, "input_layer_norm": False}] * 2
    rows = {"emb_name": "authors", "embedding_snapshot_uri": "rows"}
    author = {"name": "author", "num_embeddings": 25, "embedding_dim": 4, "vocab": "vocab", "pretrained": rows}
    tower = {"mlp_config": {"layer_sizes": [8, 1], "batch_norm": {"affine": False}}}
    return {
        "training": {"save_dir": "run", "num_train_steps": 6, "checkpoint_every_n": 3, "num_eval_steps": -1},
        "model": {
            "multi_task_type": "share_all",
            "featurization_config": {"double_norm_log_config": norms},
            "backbone": {"mask_net_config": {"mask_blocks": blocks, "use_parallel": True}},
            "large_embeddings": {"tables": [author], "optimizer": {"init_learning_rate": 0.01}},
            "tasks": dict.fromkeys(TASKS, tower),
        },
        "train_data": data,
        "validation_data": {"validation": data},
        "optimizer": {"multi_task_learning_rates": rates},
        "which_metrics": "Count, Precision, Recall, ROC AUC, reciprocal rank, hit at 3",
    }


def recap(folder: Path, *arguments: str) -> str:
    done = run_recap(*arguments, folder=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_published_file_trains_on_published_data(tmp_path: Path) -> None:
    write_records(tmp_path)
    (tmp_path / "published.yaml").write_text(yaml.dump(published(), sort_keys=False))
    recap(tmp_path, "config", "import", "published.yaml", "--output", "ranker.yaml")
    recap(tmp_path, "config", "check", "ranker.yaml", "--data")
    recap(tmp_path, "train", "ranker.yaml")
    assert list(Run(tmp_path / "run").checkpoints) == [3, 6]
    weights = load_file(Run(tmp_path / "run").checkpoint_path(6) / "weights.safetensors")
    (table,) = (tensor for name, tensor in weights.items() if tensor.shape == (26, 4))
    assert (table[1:11] > 0.8).all()  # they started at 1, and learned on
    assert (table[11:].abs() < 0.2).all()
    recap(tmp_path, "evaluate", "run")
    evaluation = json.loads((tmp_path / "run" / "evaluation.json").read_text())["splits"]["validation"]
    assert {task: metrics["count"] for task, metrics in evaluation.items()} == dict.fromkeys(TASKS, 200)
    assert list(evaluation[TASKS[0]]) == ["count", "precision", "recall", "auc", "reciprocal_rank", "hit_at_3"]
    recap(tmp_path, "predict", "run", "data/*.gz", "--output", "predictions")
    predicted = pq.read_table(tmp_path / "predictions" / "rows.parquet")
    assert predicted.column_names == ["meta.user_id", "meta.tweet_id", *TASKS, "score"]
    assert predicted.column("meta.tweet_id").to_pylist() == list(range(200))
    (tmp_path / "data" / "schema.json").rename(tmp_path / "columns.json")  # that of the training data is gone
    recap(tmp_path, "predict", "run", "data/*.gz", "--output", "again", "--schema", "columns.json")
    assert pq.read_table(tmp_path / "again" / "rows.parquet").equals(predicted)
