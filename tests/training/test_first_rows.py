"""Unknown values in training, evaluation and prediction."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import Recorder, feed_config, write_feed

from recap.config.recap import RecapConfig
from recap.errors import DataError, InputError
from recap.evaluation.run import evaluate_run
from recap.inference.files import predict_files
from recap.inference.predictor import Predictor
from recap.runs import find_model_directory
from recap.training.trainer import train

UNKNOWN = "features.discrete.language: none of the {:,} values of 'language' is known, such as 'L0 '"
LINE = "unknown or missing values: language 100% (of {:,} rows)"


def spoil(file: Path) -> None:
    """Make every language unknown."""
    table = pq.read_table(file)
    languages = pa.array([f"L{row} " for row in range(len(table))])
    pq.write_table(table.set_column(table.schema.names.index("language"), "language", languages), file)


def config_of(folder: Path, **training: object) -> RecapConfig:
    write_feed(folder, train_rows=3000, validation_rows=1200)
    return feed_config(folder, folder / "run", training={"num_train_steps": 30, "eval_log_every_n": None, **training})


def test_a_feature_without_known_values_ends_training_soon(tmp_path: Path) -> None:
    config = config_of(tmp_path, num_train_steps=20)
    for file in (tmp_path / "train").iterdir():
        spoil(file)
    reporter = Recorder()
    with pytest.raises(InputError, match="^train_data: " + UNKNOWN.format(3000)):
        train(config, reporter)
    assert LINE.format(1280) in reporter.messages
    accepted = config.model_copy(update={"features": config.features.model_copy(update={"max_unknown": 1.0})})
    short = accepted.model_copy(update={"training": accepted.training.model_copy(update={"num_train_steps": 2})})
    train(short, Recorder())


def test_evaluation_and_prediction_report_unknown_values_and_refuse_a_feature_without_known_ones(
    tmp_path: Path,
) -> None:
    config = config_of(tmp_path)
    train(config, Recorder())
    folder = find_model_directory(tmp_path / "run")
    file = tmp_path / "validation" / "part-0.parquet"
    spoil(file)
    lines: list[str] = []
    with pytest.raises(DataError, match="^validation: " + UNKNOWN.format(1200)):
        evaluate_run(config, tmp_path / "run", say=lines.append)
    assert lines == ["validation: " + LINE.format(1200)]
    assert not (tmp_path / "run" / "evaluation.json").exists()
    output = tmp_path / "predictions"
    lines = []
    with pytest.raises(DataError, match=f"^{output}: all files are written, but in the inputs: {UNKNOWN.format(1200)}"):
        predict_files(Predictor.open(folder), [str(file)], output, say=lines.append)
    assert lines == ["unknown values: language 100% (of 1,200 rows)"]
    (written,) = output.glob("*.parquet")
    assert pq.read_metadata(written).num_rows == 1200
    accepted = Predictor.open(folder, ["features.max_unknown=1"])
    predict_files(accepted, [str(file)], output, overwrite=True)
    features = config.features.model_copy(update={"max_unknown": 1.0})
    report = evaluate_run(config.model_copy(update={"features": features}), tmp_path / "run", say=lines.append)
    assert report.splits["validation"].unknown["language"] == 1
