"""Losses on order in runs: their groups, and the warning when nothing is there to compare."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import Recorder, feed_config, write_feed
from training.runs import assert_same_run, interrupt

from recap.config.recap import JobMode, RecapConfig
from recap.data.encoding.assets import load_assets
from recap.data.open import open_stream
from recap.errors import Interrupted
from recap.evaluation.run import evaluate_run
from recap.training.trainer import train

TOWER: dict[str, Any] = {"tower": {"kind": "mlp", "layer_sizes": [8]}}
REQUESTS = {"jrc": {"weight": 1.0, "group": "request"}}
WARNING = (
    "warning: 100% of the requests in the first batches have one row there, with which model.tasks.like.jrc, "
    "model.tasks.share.listwise can compare nothing; keep the rows of a request together in the files, and lower "
    "train_data.shuffle_window_rows"
)


def config_of(folder: Path, name: str = "run", *, window: int = 0, **training: Any) -> RecapConfig:
    """A run whose files hold requests of 10 adjacent rows."""
    if not (folder / "train").exists():
        write_feed(folder)
        for file in (*(folder / "train").iterdir(), *(folder / "validation").iterdir()):
            table = pq.read_table(file)
            requests = pa.array([f"{file.stem}-{row // 10}" for row in range(len(table))])
            pq.write_table(table.append_column("request_id", requests), file, row_group_size=70)
    return feed_config(
        folder,
        folder / name,
        features={"request": "request_id"},
        model={
            "tasks": {
                "like": TOWER | REQUESTS,
                "share": TOWER | {"pairwise": {"weight": 0.5}, "listwise": {"weight": 0.1, "group": "request"}},
            }
        },
        train_data={"shuffle_window_rows": window, "global_batch_size": 60},
        training={"num_train_steps": 6, "checkpoint_every_n": 2, "gradient_accumulation": 2, **training},
    )


def test_training_reads_the_requests_that_a_loss_compares(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    for mode, split in ((JobMode.TRAIN, None), (JobMode.EVALUATE, "validation")):
        batch = next(iter(open_stream(config, load_assets(config.features), mode, split)))
        assert batch.request is not None
        _, counts = np.unique(batch.request.numpy(), return_counts=True)
        assert counts.tolist() == [10] * 6
    plain = feed_config(tmp_path, tmp_path / "run", features={"request": "request_id"})
    assert next(iter(open_stream(plain, load_assets(plain.features), JobMode.TRAIN))).request is None


def test_a_run_with_losses_on_order_resumes_exactly(tmp_path: Path) -> None:
    whole = Recorder()
    train(config_of(tmp_path, "whole"), whole)
    config = config_of(tmp_path, "interrupted")
    with pytest.raises(Interrupted):
        train(config, Recorder({3: interrupt}))
    train(config, Recorder())
    assert_same_run(tmp_path / "whole", tmp_path / "interrupted", 6)
    assert not any("requests" in message for message in whole.messages)
    evaluate_run(config, tmp_path / "whole")


def test_a_run_warns_once_if_its_groups_are_torn_apart(tmp_path: Path) -> None:
    config, recorder = config_of(tmp_path, num_train_steps=14), Recorder()
    for file in (tmp_path / "train").iterdir():
        table = pq.read_table(file)
        rows = pa.array(np.arange(len(table)))
        pq.write_table(table.set_column(table.schema.names.index("request_id"), "request_id", rows), file)
    train(config, recorder)
    assert [message for message in recorder.messages if "requests" in message] == [WARNING]
