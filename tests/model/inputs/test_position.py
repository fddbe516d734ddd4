"""Position debias: the position is an input in training; scoring does not even read its column."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import torch
from model.rankers import make_batch, make_config, make_ranker
from support import Recorder, feed_values, write_feed

from recap.config.file.load import config_of
from recap.config.model import PositionDebiasConfig
from recap.config.recap import JobMode
from recap.data.encoding.encoder import RowEncoder
from recap.errors import ConfigError
from recap.evaluation.asked import Asked
from recap.evaluation.run import evaluate_run
from recap.inference.files import predict_files
from recap.inference.predictor import Predictor
from recap.model.inputs.position import PositionDebias
from recap.runs import find_model_directory
from recap.training.trainer import train

LANGUAGES = {"language": pa.array(["en", "ja"])}


def layer(positions: int = 10, **settings: Any) -> PositionDebias:
    torch.manual_seed(0)
    return PositionDebias(PositionDebiasConfig(feature="hour", num_dims=2, **settings), positions)


def test_in_evaluation_every_position_is_hidden() -> None:
    debias = layer().eval()
    assert torch.equal(debias(torch.arange(11)), debias.table.weight[:1].expand(11, 2))


def test_in_training_rows_are_hidden_with_the_drop_probability() -> None:
    made = layer(drop_probability=0.3)(torch.full((20_000,), 4))
    hidden = (made == 0).all(dim=1).float().mean().item()
    assert hidden == pytest.approx(0.3, abs=0.015)


def test_scoring_at_the_average_uses_the_mean_of_the_positions_seen_in_training() -> None:
    debias = layer(scored_at="average")
    debias(torch.tensor([1, 1, 1, 3, 0]))
    table = debias.table.weight
    found = debias.eval()(torch.tensor([0, 7, 1]))
    assert torch.allclose(found, ((3 * table[1] + table[3]) / 4).expand(3, 2))
    again = layer(scored_at="average")
    again.load_state_dict(debias.state_dict())
    assert torch.equal(again.eval()(torch.tensor([2])), found[:1])


def test_later_positions_share_a_bucket() -> None:
    debias = layer(max_position=3, drop_probability=1e-9)
    made = debias(torch.arange(11))  # codes: 0 unknown, 1 the first position
    assert debias.table.weight.shape == (5, 2)
    assert len({tuple(row) for row in made.tolist()}) == 5
    assert torch.equal(made[4:], made[4:5].expand(7, 2))
    assert torch.equal(made[0], debias.table.weight[0])
    assert layer(positions=2, max_position=3).table.weight.shape == (3, 2)


def test_scores_ignore_the_position_but_training_does_not() -> None:
    config = make_config("position_debias")
    ranker, batch = make_ranker(config), make_batch(config)
    other = make_batch(config)
    other.discrete[:, 0] = 0
    torch.manual_seed(1)
    with torch.no_grad():
        ranker.inputs.position.table.weight.normal_()  # type: ignore[union-attr]
    assert torch.equal(ranker.eval()(batch).logits, ranker(other).logits)
    inputs = ranker.inputs.train()
    assert not torch.equal(inputs(batch)[:, 7:10], inputs(other)[:, 7:10])
    assert inputs.layout.embeddings == [4]


def test_the_position_column_is_read_only_in_training(tmp_path: Path) -> None:
    debias = {"position_debias": {"feature": "hour"}, "embeddings": {"language": 4}}
    values = feed_values(write_feed(tmp_path), tmp_path / "run")
    values["model"] |= debias
    del values["features"]["vectors"]
    config = config_of(values)
    columns = {
        mode: RowEncoder.for_job(config, LANGUAGES, mode, config.train_data if mode != "inference" else None).columns
        for mode in JobMode
    }
    assert {mode: "hour" in names for mode, names in columns.items()} == {
        JobMode.TRAIN: True,
        JobMode.EVALUATE: False,
        JobMode.INFERENCE: False,
    }
    file = tmp_path / "validation" / "part-0.parquet"
    table = pq.read_table(file).drop_columns(["hour"])
    pq.write_table(table, file)
    pyarrow.csv.write_csv(table.drop_columns(["vector", "topics"]), tmp_path / "rows.csv")
    train(config, Recorder())
    predictor = Predictor.open(find_model_directory(tmp_path / "run"))
    for data in (file, tmp_path / "rows.csv"):
        asked = Asked(data=[str(data)])
        assert evaluate_run(config, tmp_path / "run", asked=asked).splits["data"].metrics.keys() == {"like", "share"}
        predict_files(predictor, [str(data)], tmp_path / data.suffix, overwrite=False)
        assert pq.read_table(tmp_path / data.suffix).num_rows == 250
    assert evaluate_run(config, tmp_path / "run").splits["validation"].metrics.keys() == {"like", "share"}


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "neither hidden nor the average": (
        {"position_debias": {"feature": "hour", "scored_at": "first"}},
        "scored_at: ",
    ),
    "an unknown feature": ({"position_debias": {"feature": "huor"}}, "feature: unknown discrete feature 'huor'"),
    "a vocabulary": (
        {"position_debias": {"feature": "language"}},
        "feature: 'language' has no integer codes; set size",
    ),
    "several codes": (
        {"position_debias": {"feature": "topics"}},
        "feature: 'topics' has 2 codes per row; a position has one",
    ),
    "also embedded": (
        {"position_debias": {"feature": "hour"}, "embeddings": {"default": 4, "hour": 2}},
        "model.embeddings.hour: 'hour' is embedded by model.position_debias; remove it here",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_an_unusable_position_feature_is_refused(case: str) -> None:
    settings, message = WRONG[case]
    values = feed_values(Path("feed"), Path("run"))
    values["features"]["discrete"]["topics"] = {"size": 5, "length": 2}
    values["model"] |= settings
    with pytest.raises(ConfigError) as caught:
        config_of(values)
    assert message in str(caught.value)
