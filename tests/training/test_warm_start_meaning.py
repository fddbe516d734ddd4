"""A warm start uses weights only for the columns and values that they were trained for."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model.kinds import CASES, HISTORY, OTHERS
from model.rankers import make_batch, make_config, make_ranker
from support import feed_values

from recap.config.file.load import config_of
from recap.config.recap import RecapConfig
from recap.data.encoding.assets import Assets
from recap.errors import CheckpointError
from recap.model.directory import SavedModel, write_model
from recap.model.names import is_below
from recap.model.ranker import Ranker
from recap.storage import atomic_directory
from recap.training.start.warm_start import start_from

WORDS: Assets = {"language": pa.array(["en", "ja"])}
Change = Callable[[dict[str, Any]], None]


def model_of(values: dict[str, Any], assets: Assets = WORDS, seed: int = 0) -> SavedModel:
    config = config_of(values)
    torch.manual_seed(seed)
    return SavedModel(config, assets, Ranker(config, assets))


def written(model: SavedModel, folder: Path) -> Path:
    with atomic_directory(folder) as temporary:
        weights = {name: value.clone() for name, value in model.ranker.state_dict().items()}
        write_model(temporary, model.config, model.assets, weights)
    return folder


def reordered(config: RecapConfig, fresh: list[str] | None = None) -> SavedModel:
    """The same model with its continuous columns in another order."""
    values = config.model_dump(mode="json")
    values["features"]["continuous"].reverse()
    if fresh is not None:
        values["training"] |= {"initial_checkpoint_dir": "old", "initial_weights": {"fresh": fresh}}
    changed = config_of(values)
    return SavedModel(changed, WORDS, make_ranker(changed, seed=1))


KINDS = [case for case in CASES if case.endswith(("-share_all", "-share_none")) or case.startswith("mlp-")]


@pytest.mark.parametrize("case", [*KINDS, *OTHERS])
def test_columns_in_another_order_are_refused_for_every_kind_of_model(case: str, tmp_path: Path) -> None:
    config = make_config(case)
    old = written(SavedModel(config, WORDS, make_ranker(config)), tmp_path / "old")
    with pytest.raises(CheckpointError, match=r"another order: where this model has continuous 'followers'") as caught:
        start_from(old, reordered(config))
    names = str(caught.value).rpartition("initial_weights.fresh:\n")[2].split("\n")
    assert any(name.strip().startswith(("scenario.", "sharing.", "towers.", "cascade.")) for name in names)
    weights = list(make_ranker(config).state_dict())
    networks = ("scenario", "sharing", "cascade", "towers")
    read = ("inputs.featurization", "inputs.histories.encoders.watched.split", *networks)
    start_from(old, reordered(config, [path for path in read if any(is_below(name, path) for name in weights)]))
    same = SavedModel(config, WORDS, make_ranker(config, seed=1))
    assert start_from(old, same).messages == []
    batch = make_batch(config)
    outputs = [ranker.eval()(batch).logits for ranker in (make_ranker(config), same.ranker)]
    assert torch.equal(*outputs)


def test_only_the_weights_that_read_the_inputs_need_a_fresh_start(tmp_path: Path) -> None:
    config = make_config("mlp-share_all")
    old = written(SavedModel(config, WORDS, make_ranker(config)), tmp_path / "old")
    model = reordered(config, ["inputs.featurization", "sharing.backbone.layers.0.weight"])
    start_from(old, model)
    before = make_ranker(config).state_dict()
    taken = {name for name, value in model.ranker.state_dict().items() if torch.equal(value, before[name])}
    assert "sharing.backbone.layers.4.weight" in taken
    assert "sharing.backbone.layers.0.weight" not in taken


def values_of(**features: Any) -> dict[str, Any]:
    values = feed_values(Path("feed"), Path("run"))
    values["features"] |= features
    values["model"] |= {
        "histories": {"default": {"encoder": {"kind": "din", "target": "post", "layer_sizes": [4]}}},
        "featurization": {"kind": "log1p_abs"},
    }
    return values


RICH = values_of(
    continuous=[
        "age",
        {"name": "scores", "length": 3, "mask": "m.npy"},
        {"name": "one", "of": {"column": "l", "index": 0}},
    ],
    binary=["in_network", "is_new"],
    vectors={"user": 4, "author": 4},
    discrete={
        "hour": {"size": 24},
        "day": {"size": 24},
        "language": {"vocabulary": "l.parquet"},
        "post": {"hash": {"buckets": 30}},
        "author_language": {"table": "language"},
    },
    histories={"watched": HISTORY, "liked": {**HISTORY, "ids": {"column": "liked", "table": "post"}}},
)
RICH_ASSETS: Assets = {**WORDS, "scores": pa.array([True, False, True])}


def swap(section: str) -> Change:
    """Exchange the first two features of a section."""

    def change(values: dict[str, Any]) -> None:
        part = values["features"][section]
        if isinstance(part, list):
            part[:2] = part[1::-1]
        else:
            first, second, *rest = part.items()
            values["features"][section] = dict([second, first, *rest])

    return change


def put(path: str, value: Any) -> Change:
    def change(values: dict[str, Any]) -> None:
        *parents, last = (int(key) if key.isdigit() else key for key in path.split("."))
        part: Any = values
        for key in parents:
            part = part[key]
        part[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            swap("continuous"),
            "another order: where this model has continuous 'scores'.0. by log1p_abs, the old one has",
        ),
        (swap("binary"), "another order: where this model has binary 'is_new', the old one has binary 'in_network'"),
        (swap("vectors"), "another order: where this model has vector 'author' of 4"),
        (swap("discrete"), "another order: where this model has discrete 'day', the old one has discrete 'hour'"),
        (swap("histories"), "another order: where this model has history 'liked'"),
        (
            put("features.continuous.0", "followers"),
            "only this model has continuous 'followers' by .*old model has .*'age'",
        ),
        (
            put("features.continuous.2.of.index", 1),
            r"only this model has continuous 'l'\[1\].*old model has .*'l'\[0\]",
        ),
        (put("features.histories.liked.ids.column", "shared"), "only this model has history 'shared', "),
        (put("features.histories.liked.attributes.gap.column", "age"), "only this model has history 'liked', "),
        (
            put("model.featurization", {"kind": "clip_log1p_abs"}),
            "only this model has continuous 'age' by clip_log1p_abs",
        ),
        (put("features.discrete.author_language.table", "hour"), "discrete 'author_language' reads another table"),
        (put("features.discrete.post.hash.seed", 1), "table 'post' mean other values: 2 hashes with seed 0 into 30"),
        (
            put("features.discrete.post.hash.hashes", 1),
            "1 hashes with seed 0 into 30 buckets here.* list inputs.embeddings",
        ),
        (put("features.discrete.post", {"size": 30}), "2 hashes with seed 0 into 30 buckets there, size 30 here"),
        (put("features.discrete.post.hash.buckets", 31), "into 31 buckets here"),
    ],
)
def test_every_change_of_what_weights_read_is_refused(change: Change, message: str, tmp_path: Path) -> None:
    old = written(model_of(RICH, RICH_ASSETS), tmp_path / "old")
    values = deepcopy(RICH)
    change(values)
    model = model_of(values, RICH_ASSETS, seed=1)
    before = {name: value.clone() for name, value in model.ranker.state_dict().items()}
    with pytest.raises(CheckpointError, match=message):
        start_from(old, model)
    assert all(torch.equal(value, before[name]) for name, value in model.ranker.state_dict().items())


def test_another_mask_is_refused(tmp_path: Path) -> None:
    old = written(model_of(RICH, RICH_ASSETS), tmp_path / "old")
    with pytest.raises(CheckpointError, match=r"only this model has continuous 'scores'\[1\]"):
        start_from(old, model_of(RICH, {**RICH_ASSETS, "scores": pa.array([True, True, False])}))


def test_tasks_in_another_order_keep_their_towers(tmp_path: Path) -> None:
    old_model = model_of(RICH, RICH_ASSETS)
    values = deepcopy(RICH)
    values["model"]["tasks"] = dict(reversed(values["model"]["tasks"].items()))
    model = model_of(values, RICH_ASSETS, seed=1)
    start_from(written(old_model, tmp_path / "old"), model)
    before = old_model.ranker.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in model.ranker.state_dict().items())


def test_other_changes_are_reported(tmp_path: Path) -> None:
    old = written(model_of(RICH, RICH_ASSETS), tmp_path / "old")
    values = deepcopy(RICH)
    values["features"]["histories"]["watched"]["keep"] = "first"
    values["features"]["discrete"]["language"]["vocabulary"] = "today.parquet"
    assert start_from(old, model_of(values, RICH_ASSETS)).messages == [
        f"changed since {old}: features.histories.watched.keep: last → first"
    ]


spaces = st.one_of(
    st.integers(1, 9).map(lambda size: ({"size": size}, [str(value) for value in range(size)])),
    st.permutations(list("0123456789")).flatmap(
        lambda values: st.integers(1, 10).flatmap(
            lambda count: st.sampled_from([pa.string(), pa.int64()]).map(
                lambda kind: ({"vocabulary": kind}, values[:count])
            )
        )
    ),
)


@settings(max_examples=30)
@given(spaces, spaces)
def test_the_rows_of_a_table_follow_their_values(
    tmp_path_factory: pytest.TempPathFactory,
    old: tuple[dict[str, Any], list[str]],
    new: tuple[dict[str, Any], list[str]],
) -> None:
    """A value is the same as an integer and as text; known values keep their rows, and others start fresh."""

    def model(space: dict[str, Any], values: list[str], seed: int) -> SavedModel:
        is_vocabulary = "vocabulary" in space
        assets = {"language": pa.array(values).cast(space["vocabulary"])} if is_vocabulary else {}
        features = {"language": {"vocabulary": "l.parquet"} if is_vocabulary else space}
        return model_of(values_of(discrete=features, continuous=["age"]), assets, seed)

    before, after = model(*old, 0), model(*new, 1)
    fresh = after.ranker.state_dict()["inputs.embeddings.tables.language.weight"].clone()
    rows = before.ranker.state_dict()["inputs.embeddings.tables.language.weight"]
    with torch.no_grad():
        rows[0] = 7.0  # what training made of unknown values
    messages = start_from(written(before, tmp_path_factory.mktemp("old") / "model"), after).messages
    result = after.ranker.state_dict()["inputs.embeddings.tables.language.weight"]
    expected = [rows[0], *(rows[old[1].index(value) + 1] if value in old[1] else None for value in new[1])]
    for code, row in enumerate(expected):
        assert torch.equal(result[code], fresh[code] if row is None else row)
    kept = len(set(old[1]) & set(new[1]))
    told = [f"table 'language': {kept} rows", f"{len(new[1]) - kept} new values", f"{len(old[1]) - kept} old ones"]
    assert old[1] == new[1] or all(part in messages[0] for part in told)


def test_a_vocabulary_longer_than_its_table_is_refused(tmp_path: Path) -> None:
    values = values_of(discrete={"language": {"vocabulary": "l.parquet"}}, continuous=["age"])
    old = model_of(values, {"language": pa.array(["de", "en"])})
    longer = SavedModel(old.config, {"language": pa.array(["fr", "it", "es", "en"])}, old.ranker)
    folder = written(longer, tmp_path / "model")
    with pytest.raises(CheckpointError, match=r"language.weight is 3×4, this model needs 5×4"):
        start_from(folder, model_of(values, {"language": pa.array(["en"])}))


def test_a_renamed_table_follows_its_values(tmp_path: Path) -> None:
    old_model = model_of(
        values_of(discrete={"language": {"vocabulary": "l.parquet"}}), {"language": pa.array(["en", "ja"])}
    )
    old = written(old_model, tmp_path / "old")
    values = values_of(discrete={"spoken": {"vocabulary": "l.parquet"}})
    tables = "inputs.embeddings.tables"
    values["training"] |= {
        "initial_checkpoint_dir": str(old),
        "initial_weights": {
            "map": {f"{tables}.spoken": f"{tables}.language"},
            "fresh": ["sharing"],  # it reads another column
        },
    }
    model = model_of(values, {"spoken": pa.array(["fr", "ja", "en"])}, seed=1)
    start_from(old, model)
    before = old_model.ranker.state_dict()[f"{tables}.language.weight"]
    after = model.ranker.state_dict()[f"{tables}.spoken.weight"]
    assert np.array_equal(after[[0, 3, 2]].numpy(), before.numpy())
