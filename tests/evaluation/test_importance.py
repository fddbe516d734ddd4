"""A feature is important if the model needs it, and values of vectors are spoken of by their names."""

from pathlib import Path

import pytest
import torch
from support import Recorder, feed_config, write_feed

from recap.config.recap import JobMode, RecapConfig
from recap.data.batch import Batch
from recap.data.encoding.assets import load_assets
from recap.data.encoding.value_names import MAX_BYTES, value_names
from recap.data.open import open_source
from recap.data.sample import sampled_batches
from recap.errors import ConfigError, DataError
from recap.evaluation.importance import importance, permuted_rows, sample_of, value_importance
from recap.model.directory import open_model
from recap.model.scorer import Scorer
from recap.runs import find_model_directory
from recap.training.trainer import train


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[RecapConfig, Scorer, Batch]:
    """A model that has learned that like depends on the first value of the vector, and not on age."""
    folder = tmp_path_factory.mktemp("importance")
    write_feed(folder, train_rows=4000, validation_rows=1500)
    config = feed_config(folder, folder / "run", training={"num_train_steps": 180, "num_eval_steps": 1})
    train(config, Recorder())
    model = open_model(find_model_directory(folder / "run"))
    batches = sampled_batches(open_source(config, model.assets, JobMode.EVALUATE, "validation"))
    return config, Scorer.of(config, model.ranker), sample_of(batches)


def test_a_feature_that_the_label_depends_on_is_important_and_noise_is_not(
    trained: tuple[RecapConfig, Scorer, Batch],
) -> None:
    config, scorer, rows = trained
    found = importance(scorer, rows, config, load_assets(config.features))
    by_name = {item.name: item.losses["like"]["auc"] for item in found}
    assert list(by_name) == [item.name for item in found]
    assert set(by_name) == set(config.features.inputs)
    assert found[0].name in ("vector", "followers", "in_network")
    assert by_name["vector"].low > 0
    assert by_name["age"].low < 0.01
    assert by_name["vector"].value > 3 * abs(by_name["language"].value)
    again = importance(scorer, rows, config, load_assets(config.features))
    assert again == found


def test_a_group_of_features_is_permuted_together(trained: tuple[RecapConfig, Scorer, Batch]) -> None:
    config, scorer, rows = trained
    assets = load_assets(config.features)
    groups = {"reach": ["followers", "in_network"]}
    grouped = config.model_copy(update={"features": config.features.model_copy(update={"groups": groups})})
    results = importance(scorer, rows, grouped, assets)
    group = next(item for item in results if item.name == "reach")
    assert not {"followers", "in_network"} & {item.name for item in results}
    alone = {item.name: item for item in importance(scorer, rows, config, assets)}
    assert group.losses["like"]["auc"].value > alone["in_network"].losses["like"]["auc"].value


@pytest.mark.parametrize(
    ("groups", "problem"),
    [
        ({"reach": ["folowers"]}, "unknown feature 'folowers'.*Did you mean 'followers'"),
        ({"reach": ["followers"], "all": ["age", "followers"]}, "'followers' is in group 'reach' already"),
        ({"age": ["followers"]}, "'age' is a feature"),
        ({"reach": []}, "reach"),
    ],
)
def test_groups_are_of_features_and_do_not_overlap(groups: object, problem: str, tmp_path: Path) -> None:
    write_feed(tmp_path)
    with pytest.raises(ConfigError, match=problem):
        feed_config(tmp_path, tmp_path / "run", features={"groups": groups})


def test_permuting_a_feature_changes_its_values_alone(trained: tuple[RecapConfig, Scorer, Batch]) -> None:
    config, _, rows = trained
    assets = load_assets(config.features)
    order = torch.arange(len(rows)).flip(0)
    for name in config.features.inputs:
        permuted = permuted_rows(rows, [name], order, config.features, assets)
        changed = [
            key
            for key, tensor in permuted.tensors().items()
            if not torch.equal(tensor.nan_to_num(-1.0), rows.tensors()[key].nan_to_num(-1.0))
        ]
        assert len(changed) == 1
        assert permuted_rows(permuted, [name], order, config.features, assets).tensors().keys() == rows.tensors().keys()
    every = permuted_rows(rows, config.features.inputs, order, config.features, assets)
    assert torch.equal(every.discrete, rows.discrete.flip(0))
    assert torch.equal(every.labels, rows.labels)  # type: ignore[arg-type]


def test_the_values_of_a_vector_are_ordered_by_what_they_move(trained: tuple[RecapConfig, Scorer, Batch]) -> None:
    config, scorer, rows = trained
    found = {(item.feature, item.task): item.values for item in value_importance(scorer, rows, config, {})}
    assert set(found) == {("vector", task) for task in config.tasks}
    assert found["vector", "like"][0][0] == "vector[0]"
    assert found["vector", "like"][0][1] > 1.5 * found["vector", "like"][1][1]


def test_a_sample_takes_rows_evenly() -> None:
    parts = [
        Batch(
            torch.arange(start, stop)[:, None].float(),
            torch.zeros(stop - start, 0),
            torch.zeros(stop - start, 0).long(),
            {},
        )
        for start, stop in ((0, 7), (7, 8), (8, 30))
    ]
    assert sample_of(parts, 100).continuous[:, 0].tolist() == list(range(30))
    assert sample_of(parts, 10).continuous[:, 0].tolist() == list(range(0, 30, 3))


def test_names_of_values_come_from_the_file_of_the_column(tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    write_feed(tmp_path)

    def config(**features: object) -> RecapConfig:
        return feed_config(tmp_path, tmp_path / "run", features=features)

    names.write_text("sport\nnews\n<b>\nmusic\n\n")
    known = value_names(config(names={"vector": str(names)}).features, {})
    assert known["vector"] == ["vector[sport]", "vector[news]", "vector[<b>]", "vector[music]"]
    assert known["age"] == ["age"]
    assert value_names(config().features, {})["vector"] == ["vector[0]", "vector[1]", "vector[2]", "vector[3]"]
    names.write_bytes(f"\ufeffone line\u2028to people\r\nb\rc\n{'z' * 500}".encode())
    listed = value_names(config(names={"vector": str(names)}).features, {})["vector"]
    assert listed == [f"vector[{name}]" for name in ("one line\u2028to people", "b", "c", "z" * 99 + "…")]
    wrong = {
        "a\nb\n": "found 2 lines, expected 4",
        "a\n\nb\nc\n": ":2: empty",
        "z" * (MAX_BYTES + 1): "found 16,777,217 bytes, expected at most 16,777,216",
    }
    for content, problem in wrong.items():
        names.write_text(content)
        with pytest.raises(DataError, match=problem):
            value_names(config(names={"vector": str(names)}).features, {})
    with pytest.raises(DataError, match="no such file"):
        value_names(config(names={"vector": str(tmp_path / "missing")}).features, {})
    with pytest.raises(ConfigError, match="unknown vector or column of several values 'age'"):
        config(names={"age": str(names)})
