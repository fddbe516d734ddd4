"""The recipes of other engines score files as `recap.Scorer` does; they run where the engine is installed."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import RECIPES, Recorder, feed_config, write_feed

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
