"""The running statistics of BatchNorm that evaluation and saved models use."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from support import Recorder, feed_values
from torch.optim.swa_utils import update_bn
from torch.testing import assert_close
from training.runs import assert_same_run, files, interrupt, records

from recap.config.file.load import config_of
from recap.config.recap import JobMode, RecapConfig
from recap.data.encoding.assets import load_assets
from recap.data.open import open_stream
from recap.errors import Interrupted
from recap.model.directory import new_ranker
from recap.runtime import Runtime, seed_torch
from recap.training.average import WeightAverage
from recap.training.parallel import ONE_PROCESS
from recap.training.saved_weights import SavedWeights
from recap.training.step import split_rows
from recap.training.trainer import train


def config_for(feed: Path, run: Path, **training: Any) -> RecapConfig:
    values = feed_values(feed, run)
    values["training"] |= {"batch_norm_rows": 250, "eval_log_every_n": 4, **training}
    return config_of(values)


def without_dropout(ranker: torch.nn.Module) -> torch.nn.Module:
    for module in ranker.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return ranker


def test_statistics_are_those_of_swa_utils_over_the_rows_and_of_the_averages(feed: Path, tmp_path: Path) -> None:
    config = config_for(feed, tmp_path, ema={}, gradient_accumulation=2)
    assets = load_assets(config.features)
    seed_torch(0, 0)
    ranker = new_ranker(config, assets)
    average = WeightAverage(config.training.ema, ranker)
    stream = open_stream(config, assets, JobMode.TRAIN)
    saved = SavedWeights(config, ranker, average, stream, Runtime(torch.device("cpu"), "float32"), ONE_PROCESS)
    with torch.no_grad():
        for parameter in ranker.parameters():
            parameter.add_(0.1)  # the average does not follow
    before = deepcopy(ranker.state_dict())
    with saved.applied():
        expected = without_dropout(deepcopy(ranker))
    batches = [batch for batch, _ in zip(stream.restarted(), range(4), strict=False)]
    update_bn([part for batch in batches for part in split_rows(batch, 2)], expected)
    saved.estimate()
    assert ranker.training
    assert all(torch.equal(value, before[name]) for name, value in ranker.state_dict().items())
    with saved.applied():
        for name, value in ranker.state_dict().items():
            if "running" in name:
                assert_close(value, expected.state_dict()[name])
    saved.forget()
    with saved.applied():
        assert all(torch.equal(before[name], value) for name, value in ranker.state_dict().items() if "running" in name)


@pytest.mark.slow
def test_estimates_do_not_change_training_and_a_resumed_run_is_the_run(feed: Path, tmp_path: Path) -> None:
    train(config_for(feed, tmp_path / "plain", batch_norm_rows=None), Recorder())
    train(config_for(feed, tmp_path / "whole"), Recorder())
    stopped = config_for(feed, tmp_path / "stopped")
    with pytest.raises(Interrupted):
        train(stopped, Recorder({6: interrupt}))
    train(stopped, Recorder())
    assert_same_run(tmp_path / "whole", tmp_path / "stopped", 12)
    plain, whole = (files(tmp_path / run, 12, "weights.safetensors") for run in ("plain", "whole"))
    different = {name for name in plain if not torch.equal(plain[name], whole[name])}
    raw = files(tmp_path / "whole", 12, "running_statistics.safetensors")
    assert different == raw.keys()
    assert all(torch.equal(plain[name], value) for name, value in raw.items())
    evaluated = [
        [record for record in records(tmp_path / run) if record["split"] != "train"] for run in ("plain", "whole")
    ]
    assert evaluated[0] != evaluated[1]
