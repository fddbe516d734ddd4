"""Labels under other names than those of their tasks."""

from pathlib import Path
from typing import Any

import pytest
import torch
from support import feed_config, feed_values

from recap.config.file.load import config_of
from recap.config.recap import JobMode
from recap.data.batch import Batch
from recap.data.encoding.assets import load_assets
from recap.data.open import open_stream
from recap.errors import ConfigError, DataError


def first(feed: Path, tasks: dict[str, Any], mode: JobMode = JobMode.TRAIN) -> Batch:
    config = feed_config(feed, feed / "run", train_data={**feed_values(feed, feed)["train_data"], "tasks": tasks})
    split = None if mode is JobMode.TRAIN else "validation"
    return next(iter(open_stream(config, load_assets(config.features), mode, split)))


@pytest.mark.parametrize("mode", [JobMode.TRAIN, JobMode.EVALUATE])
def test_the_column_of_a_label_is_the_one_that_is_named(mode: JobMode, feed: Path) -> None:
    plain, crossed = (
        first(feed, tasks, mode).labels
        for tasks in ({"like": {}, "share": {}}, {"like": {"column": "share"}, "share": {"column": "like"}})
    )
    assert plain is not None
    assert crossed is not None
    assert torch.equal(plain, crossed.flip(1))


def test_a_column_that_is_missing_is_told_by_its_name(feed: Path) -> None:
    with pytest.raises(DataError, match=r"column 'liked': is missing.*Did you mean 'like'"):
        first(feed, {"like": {"column": "liked"}, "share": {}})
    with pytest.raises(DataError, match=r"column 'post_id', row .*a label must be 0 or 1"):
        first(feed, {"like": {"column": "post_id"}, "share": {}})


def test_a_label_is_no_feature(feed: Path) -> None:
    values = feed_values(feed, feed / "run")
    values["train_data"]["tasks"]["like"] = {"column": "in_network"}
    with pytest.raises(ConfigError, match=r"features\.binary\.0: 'in_network' is the label of 'like', and cannot be"):
        config_of(values)
