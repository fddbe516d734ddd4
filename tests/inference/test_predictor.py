"""A trained model opened with overrides: what may change, and what would give its weights another meaning."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from support import LANGUAGES, Recorder, feed_config, feed_table, write_feed

import recap
from recap.config.file.load import load_config
from recap.data.formats.location import Location
from recap.data.tools.convert import convert_files
from recap.errors import CheckpointError, ConfigError
from recap.inference.files import predict_files
from recap.inference.predictor import Predictor
from recap.inference.requests import RequestScorer
from recap.runs import find_model_directory
from recap.runtime import cpu_has_int8
from recap.training.trainer import train


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    config = feed_config(write_feed(folder), folder / "run", training={"num_train_steps": 1})
    train(config, Recorder())
    return find_model_directory(folder / "run")


def test_overrides_may_change_score_weights_and_carried_columns(model: Path) -> None:
    predictor = Predictor.open(model, ["scoring.weights={share: 3}", "features.ids=[]"])
    assert predictor.scorer.formula.weights.tolist() == [0.0, 3.0]
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
def test_overrides_may_not_change_features_or_model(override: str, line: str, model: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        Predictor.open(model, [override])
    first, *lines = str(caught.value).splitlines()
    assert first == (
        f"{model}: these overrides change the features or the model that its weights were trained with; leave them out:"
    )
    assert line in lines


@pytest.mark.skipif(not cpu_has_int8(), reason="this CPU has no int8 products")
def test_files_tables_and_requests_agree_in_lower_precision(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recap.model.precision.LARGE", 4)
    table = feed_table(50)
    exact = recap.Scorer.open(model)(table)["like"].to_numpy()
    user, candidates = table.select(["hour"]).slice(0, 1), table.drop_columns(["hour"])
    repeated = table.set_column(table.column_names.index("hour"), "hour", user["hour"].take(pa.array([0] * 50)))
    for precision in ("bf16", "int8"):
        rounded = recap.Scorer.open(model, precision=precision)(table)["like"].to_numpy()
        assert 0 < abs(rounded - exact).max() < 0.02
        scorer = RequestScorer.open(model, precision=precision)
        (predictions,) = scorer.score([scorer.encode(user, candidates)])
        expected = scorer.predictor.predict(repeated, Location("table"))
        assert torch.equal(predictions.probabilities, expected.probabilities)
        assert torch.equal(predictions.scores, expected.scores)


def test_a_model_with_histories_predicts_the_same_from_every_format(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(write_feed(tmp_path, histories=True))
    valid = Path(__file__).parents[1] / "config" / "valid" / "histories.yaml"
    config = load_config(valid, ["training.num_train_steps=1"])
    train(config, Recorder())
    pq.write_table(pa.table({"value": ["xx", *LANGUAGES]}), tmp_path / "languages.parquet")
    with pytest.raises(CheckpointError) as caught:
        train(load_config(valid), Recorder())
    assert "features.histories.languages.ids.vocabulary: its values changed" in str(caught.value)
    (tmp_path / "languages.parquet").unlink()  # a model carries its own
    predictor = Predictor.open(find_model_directory(tmp_path / "runs" / "histories"))
    convert_files(["validation/part-0.parquet"], tmp_path / "lines", "jsonl")
    predicted = [
        pq.read_table(predict_files(predictor, [str(file)], tmp_path / f"out-{number}").files[0])
        for number, file in enumerate(["validation/part-0.parquet", next((tmp_path / "lines").iterdir())])
    ]
    assert predicted[0].num_rows == 250
    assert len(predicted[0].column("like").unique()) > 200
    for one, other in zip(*(table.column("like").to_pylist() for table in predicted), strict=True):
        assert one == pytest.approx(other, rel=1e-5)
    with pytest.raises(ConfigError, match=r"features.histories.watched.max_length: 5 → 4"):
        Predictor.open(
            find_model_directory(tmp_path / "runs" / "histories"), ["features.histories.watched.max_length=4"]
        )
