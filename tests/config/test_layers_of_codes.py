"""Codes of one kind replace those of another kind in a lower layer."""

from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from support import feed_values

from recap.config.discrete import KEYS
from recap.config.features import FeaturesConfig
from recap.config.file.load import load_config
from recap.config.file.yaml import render, render_inline

CODES: dict[str, dict[str, Any]] = {
    "size": {"size": 24},
    "vocabulary": {"vocabulary": "words.parquet"},
    "hash": {"hash": {"buckets": 7}},
    "zero_collision": {"zero_collision": {"rows": 7}},
    "table": {"table": "owner"},
}
PAIRS = list(permutations(CODES, 2))


def features_with(codes: dict[str, Any]) -> dict[str, Any]:
    """A discrete feature, the ids of a history and an attribute of its events, all with these codes."""
    events = {"ids": {"column": "ids", **codes}, "attributes": {"action": {"column": "actions", **codes}}}
    return {"discrete": {"owner": {"size": 5}, "column": codes}, "histories": {"events": events}}


def base(codes: dict[str, Any]) -> Path:
    values = feed_values(Path("feed"), Path("run"))
    values["features"] = {"continuous": ["age"], **features_with(codes)}
    values["model"] |= {"embeddings": {"default": 4}, "histories": {"default": {"encoder": {"kind": "pooling"}}}}
    values["training"]["sharded_tables"] = {}  # for zero_collision
    values["optimizer"]["tables"] = {
        "algorithm": {"kind": "sgd"},
        "learning_rate": {"kind": "constant", "learning_rate": 0.1},
        "sparse": True,
    }
    file = Path("base.yaml")
    file.write_text(render(values))
    return file


def assert_all_are(features: FeaturesConfig, codes: dict[str, Any]) -> None:
    events = features.histories["events"]
    for section in (features.discrete["column"], events.ids, events.attributes["action"]):
        stated = section.model_dump(exclude_unset=True, exclude={"column"})
        assert stated == codes


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_every_kind_of_codes_is_tested() -> None:
    assert CODES.keys() == KEYS.keys()


@pytest.mark.parametrize(("lower", "upper"), PAIRS)
def test_a_file_replaces_the_codes_of_its_base(lower: str, upper: str) -> None:
    base(CODES[lower])
    Path("mine.yaml").write_text(f"base: base.yaml\n{render({'features': features_with(CODES[upper])})}")
    assert_all_are(load_config("mine.yaml").features, CODES[upper])


@pytest.mark.parametrize(("lower", "upper"), PAIRS)
def test_a_set_file_replaces_codes(lower: str, upper: str) -> None:
    Path("over.yaml").write_text(render({"features": features_with(CODES[upper])}))
    assert_all_are(load_config(base(CODES[lower]), set_files=["over.yaml"]).features, CODES[upper])


@pytest.mark.parametrize(("lower", "upper"), PAIRS)
def test_an_override_replaces_codes(lower: str, upper: str) -> None:
    features = features_with(CODES[upper])
    events = features["histories"]["events"]
    overrides = [
        f"features.discrete.column={render_inline(features['discrete']['column'])}",
        f"features.histories.events.ids={render_inline(events['ids'])}",
        f"features.histories.events.attributes.action={render_inline(events['attributes']['action'])}",
    ]
    assert_all_are(load_config(base(CODES[lower]), overrides).features, CODES[upper])


def test_codes_of_the_same_kind_merge() -> None:
    values = features_with({"hash": {"buckets": 3, "seed": 2}})
    values["discrete"]["column"]["length"] = 2
    file = base({"size": 24})
    Path("seeded.yaml").write_text(render({"features": values}))
    Path("sized.yaml").write_text("features: {discrete: {column: {hash: {buckets: 7}}}}\n")
    column = load_config(file, set_files=["seeded.yaml", "sized.yaml"]).features.discrete["column"]
    assert column.model_dump(exclude_unset=True) == {"hash": {"buckets": 7, "seed": 2}, "length": 2}


@pytest.mark.parametrize("upper", CODES)
def test_codes_merge_over_an_attribute_of_numbers(upper: str) -> None:
    file = base(CODES["size"])
    for name, value in (("numbers", {"column": "gaps"}), ("over", CODES[upper])):
        over = {"features": {"histories": {"events": {"attributes": {"gap": value}}}}}
        Path(f"{name}.yaml").write_text(render(over))
    events = load_config(file, set_files=["numbers.yaml", "over.yaml"]).features.histories["events"]
    assert events.attributes["gap"].model_dump(exclude_unset=True) == {"column": "gaps", **CODES[upper]}


def test_features_may_have_the_names_of_kinds() -> None:
    base({"size": 24})
    Path("mine.yaml").write_text("base: base.yaml\nfeatures: {discrete: {hash: {size: 3}, table: {size: 4}}}\n")
    assert list(load_config("mine.yaml").features.discrete) == ["owner", "column", "hash", "table"]
