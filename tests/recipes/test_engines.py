"""The recipes of other engines score and train as recap itself does; they run where the engine is installed."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from support import RECIPES, Recorder, feed_config, feed_values, write_feed

import recap
from recap.training.trainer import train


@pytest.mark.slow
@pytest.mark.parametrize(("script", "engine"), [("ray_map_batches", "ray"), ("spark_map_in_arrow", "pyspark")])
def test_an_engine_scores_files_as_the_scorer_does(script: str, engine: str, tmp_path: Path) -> None:
    if find_spec(engine) is None:
        pytest.skip(f"{engine} is not installed")
    config = feed_config(write_feed(tmp_path), tmp_path / "run", training={"num_train_steps": 1})
    train(config, Recorder())
    output = tmp_path / "scored"
    command = [sys.executable, str(RECIPES / "engines" / f"{script}.py"), str(tmp_path / "run")]
    done = subprocess.run(
        [*command, str(tmp_path / "train"), "--output", str(output)],
        env=os.environ | {"SPARK_LOCAL_IP": "127.0.0.1", "PYSPARK_PYTHON": sys.executable},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    scored = pa.concat_tables([pq.read_table(file) for file in sorted(output.glob("*.parquet"))])
    expected = recap.Scorer.open(tmp_path / "run")(pq.read_table(tmp_path / "train"))
    assert scored.column_names == expected.column_names
    for name in ("post_id", "like", "share", "score"):
        ours, theirs = (table.sort_by("served_at_ms").column(name).to_pylist() for table in (expected, scored))
        assert theirs == ours, name


@pytest.mark.slow
def test_workers_of_ray_train_as_one_process_does(tmp_path: Path) -> None:
    if find_spec("ray") is None:
        pytest.skip("ray is not installed")
    values = feed_values(write_feed(tmp_path), tmp_path / "of1")
    tower = {
        "kind": "mlp",
        "layer_sizes": [8],
    }  # no dropout and BatchNorm, whose results depend on which rank has a row
    values["model"] |= {
        "featurization": {"kind": "double_norm_log", "batch_norm": None},
        "backbone": {"kind": "mlp", "layer_sizes": [16], "final_layer_activation": True},
        "tasks": {"like": {"tower": tower}, "share": {"tower": tower}},
    }
    rate = {"kind": "constant", "learning_rate": 0.001}
    values["optimizer"] = {"backbone": rate, "towers": {"default": rate}}
    file = tmp_path / "ranker.yaml"
    file.write_text(yaml.safe_dump(values))
    one = recap.train(file, reporter=Recorder()).run
    command = [sys.executable, str(RECIPES / "engines" / "ray_train.py"), file.name, "--workers", "2"]
    done = subprocess.run(
        [*command, "--set", f"training.save_dir={tmp_path / 'of2'}"],
        cwd=tmp_path,
        env=os.environ | {"RAY_USAGE_STATS_ENABLED": "0"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    two = recap.Run(tmp_path / "of2")
    assert list(two.checkpoints)[-1] == list(one.checkpoints)[-1] == 12
    losses = [[record["loss"] for record in run.metrics if "loss" in record] for run in (one, two)]
    assert len(losses[0]) >= 4
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
