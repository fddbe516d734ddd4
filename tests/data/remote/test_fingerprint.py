"""Every setting of a loader and its encoder changes the fingerprint that a server and its client compare."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from recap.config.data import CsvConfig, DataTaskConfig, ParquetConfig, RectifyLabelsConfig
from recap.config.features import FeaturesConfig
from recap.config.loss import RegressionConfig
from recap.data.encoding.encoder import RowEncoder
from recap.data.encoding.labels import LabelEncoder
from recap.data.remote.wire import fingerprint
from recap.data.stream.source import Loader, Source

INPUTS = "train/*.parquet"
FEATURES = {
    "continuous": ["age", {"name": "masked", "length": 4, "mask": "mask.npy"}],
    "discrete": {"hour": {"size": 24}, "word": {"vocabulary": "words.parquet"}},
    "user": "user_id",
}
LABELS = LabelEncoder(["like", "share"], {"like": DataTaskConfig()}, user="user_id")
ASSETS = {"word": pa.array(["a", "b"]), "masked": pa.array([True, True, False, True])}
ENCODER = RowEncoder(FeaturesConfig.model_validate(FEATURES), ASSETS, LABELS)
LOADER = Loader(ParquetConfig(inputs=[INPUTS]), ENCODER, skip=False)


def rows_fingerprint(loader: Loader, source: Source) -> str:
    source.loader = loader
    return fingerprint(source)["rows"]


@pytest.fixture(scope="module")
def source(feed: Path) -> Source:
    return Source(ParquetConfig(inputs=[str(feed / INPUTS)]), RowEncoder(FeaturesConfig(continuous=["age"]), {}))


LABEL_CHANGES: dict[str, Any] = {
    "tasks": ["share", "like"],
    "labels": {"like": DataTaskConfig(neg_downsampling_rate=0.5)},
    "rectify": RectifyLabelsConfig(served_at="served", impressed_at="seen", engaged_at={"like": "liked"}),
    "regressions": {"share": RegressionConfig(kind="regression")},
    "weigh_samples": True,
    "weight": "weight",
    "teachers": {"like": "teacher_like"},
    "user": None,
    "request": "request_id",
    "lists_are_requests": True,
    "compares_requests": True,
    "timestamp": "served_at_ms",
    "strata_time": "served_at_ms",
}
ENCODER_CHANGES: dict[str, Any] = {
    "features": FeaturesConfig.model_validate(FEATURES | {"continuous": ["age"]}),
    "assets": ASSETS | {"word": pa.array(["b", "a"])},
    "labels": None,
    "unread": {"hour"},
    "teachers": [ENCODER],
}
LOADER_CHANGES: dict[str, Any] = {"config": CsvConfig(kind="csv", inputs=[INPUTS]), "skip": True}


def test_the_changed_settings_cover_every_field() -> None:
    assert LABEL_CHANGES.keys() == {field.name for field in fields(LabelEncoder)}
    assert ENCODER_CHANGES.keys() == {field.name for field in fields(RowEncoder)}
    assert LOADER_CHANGES.keys() == {field.name for field in fields(Loader)} - {"encoder"}


@pytest.mark.parametrize("name", LABEL_CHANGES)
def test_every_setting_of_the_label_encoder_changes_the_fingerprint(name: str, source: Source) -> None:
    encoder = replace(ENCODER, labels=replace(LABELS, **{name: LABEL_CHANGES[name]}))
    assert rows_fingerprint(replace(LOADER, encoder=encoder), source) != rows_fingerprint(LOADER, source)


@pytest.mark.parametrize("name", ENCODER_CHANGES)
def test_every_setting_of_the_row_encoder_changes_the_fingerprint(name: str, source: Source) -> None:
    encoder = replace(ENCODER, **{name: ENCODER_CHANGES[name]})
    assert rows_fingerprint(replace(LOADER, encoder=encoder), source) != rows_fingerprint(LOADER, source)


@pytest.mark.parametrize("name", LOADER_CHANGES)
def test_every_setting_of_the_loader_changes_the_fingerprint(name: str, source: Source) -> None:
    assert rows_fingerprint(replace(LOADER, **{name: LOADER_CHANGES[name]}), source) != rows_fingerprint(LOADER, source)


def test_paths_do_not_change_the_fingerprint(source: Source) -> None:
    moved = FEATURES | {
        "continuous": ["age", {"name": "masked", "length": 4, "mask": "elsewhere/mask.npy"}],
        "discrete": {"hour": {"size": 24}, "word": {"vocabulary": "elsewhere/words.parquet"}},
    }
    encoder = replace(ENCODER, features=FeaturesConfig.model_validate(moved))
    loader = replace(LOADER, config=ParquetConfig(inputs=["elsewhere/*"]), encoder=encoder)
    assert rows_fingerprint(loader, source) == rows_fingerprint(LOADER, source)


def test_a_feature_named_like_a_path_field_changes_the_fingerprint(source: Source) -> None:
    encoder = replace(ENCODER, features=FeaturesConfig.model_validate({"discrete": {"mask": {"size": 2}}}))
    wider = replace(ENCODER, features=FeaturesConfig.model_validate({"discrete": {"mask": {"size": 3}}}))
    prints = [rows_fingerprint(replace(LOADER, encoder=either), source) for either in (encoder, wider)]
    assert prints[0] != prints[1]
