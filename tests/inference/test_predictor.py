"""A trained model opened with overrides: what may change, and what would give its weights another meaning."""

from pathlib import Path

import pytest
from support import Recorder, feed_config, write_feed

from recap.errors import ConfigError
from recap.inference.predictor import Predictor
from recap.model.saved import find_model_dir
from recap.training.trainer import train


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    config = feed_config(write_feed(folder), folder / "run", training={"num_train_steps": 1})
    train(config, Recorder())
    return find_model_dir(folder / "run")


def test_scores_may_be_weighed_anew_and_other_columns_carried(model: Path) -> None:
    predictor = Predictor.open(model, ["scoring.weights={share: 3}", "features.ids=[]"])
    assert predictor.formula.weights.tolist() == [0.0, 3.0]
    assert [column.name for column in predictor.config.features.carried] == ["user_id", "served_at_ms"]


@pytest.mark.parametrize(
    ("override", "line"),
    [
        (
            "features.discrete={language: {vocabulary: x.parquet}, hour: {size: 24}}",
            "  features.discrete: [hour, language] → [language, hour]",
        ),
        ("features.continuous=[followers, age]", "  features.continuous: [age, followers] → [followers, age]"),
        (
            "model.backbone.mlp.final_layer_activation=false",
            "  model.backbone.mlp.final_layer_activation: true → false",
        ),
    ],
)
def test_what_the_weights_were_trained_for_may_not_change(override: str, line: str, model: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        Predictor.open(model, [override])
    first, *lines = str(caught.value).splitlines()
    assert first == f"{model}: its weights were trained for other features or another model:"
    assert line in lines
