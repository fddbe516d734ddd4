"""Tables whose rare values have narrower rows, against their equation; and how a warm start and a run treat them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from model.rankers import make_batch, make_config
from support import feed_values
from torch.testing import assert_close

from recap.config.file.load import config_of
from recap.config.model import NarrowConfig
from recap.config.recap import RecapConfig
from recap.data.batch import Batch
from recap.errors import ConfigError
from recap.model.inputs.meaning import table_rows
from recap.model.inputs.narrow import Lift
from recap.model.inputs.tables import TableSpec, _blocks, table_specs
from recap.model.precision import Int8Tables
from recap.model.ranker import Ranker
from recap.training.optimizer.scheduled import ScheduledOptimizer
from recap.training.start.order import order_warnings

WORDS = {"language": pa.array(["en", "ja", "de", "fr", "it", "pt", "nl"])}
NARROW = [{"after": 2, "width": 3}, {"after": 5, "width": 1}]


def config_with(language: Any, **sections: Any) -> RecapConfig:
    values = feed_values(Path("feed"), Path("run"))
    values["model"]["embeddings"] = {"default": 4, "language": language}
    for section, fields in sections.items():
        values[section] |= fields
    return config_of(values)


CONFIG = config_with({"width": 4, "narrow": NARROW})


def ranker_of(config: RecapConfig = CONFIG) -> Ranker:
    torch.manual_seed(0)
    return Ranker(config, WORDS)


def batch_of(languages: list[int]) -> Batch:
    """A row for each code of `language`, which follows `hour` in `Batch.discrete`."""
    batch = make_batch(make_config("mlp-share_all"), rows=len(languages))
    discrete = batch.discrete.clone()
    discrete[:, 1] = torch.tensor(languages)
    rows: Batch = replace(batch, discrete=discrete)
    return rows


def test_the_blocks_of_a_vocabulary_are_tables_with_the_widths_of_their_ranks() -> None:
    language = [spec for spec in table_specs(CONFIG, WORDS) if "language" in spec.name]
    assert language == [
        TableSpec("language", 3, 4, ("language",)),
        TableSpec("language/narrow_1", 4, 3, ("language/narrow_1",), block_of="language", before=2),
        TableSpec("language/narrow_2", 3, 1, ("language/narrow_2",), block_of="language", before=5),
    ]


def test_a_rare_value_is_its_narrow_row_times_the_projection_of_its_block() -> None:
    """Code 0 is unknown, 1 and 2 are wide, 3 to 5 and 6 to 7 are narrow."""
    ranker, batch = ranker_of().eval(), batch_of(list(range(8)))
    rows = {name: table.weight for name, table in zip(ranker.inputs.embeddings.specs, tables(ranker), strict=True)}
    assert ranker.inputs.lifts is not None
    lift = ranker.inputs.lifts.named("language")
    assert isinstance(lift, Lift)
    first, second = (projection.weight for projection in lift.projections)
    expected = [rows["language"][code] for code in (0, 1, 2)]
    expected += [first @ rows["language/narrow_1"][row] for row in (1, 2, 3)]
    expected += [second @ rows["language/narrow_2"][row] for row in (1, 2)]
    vectors = ranker.inputs._pieces(batch, ranker.inputs._all)[0]["discrete/language"]
    assert_close(vectors, torch.stack(expected))


def tables(ranker: Ranker) -> list[Any]:
    embeddings: Any = ranker.inputs.embeddings
    return list(embeddings.tables.values())


def test_a_value_trains_its_own_row_and_projection_alone() -> None:
    ranker = ranker_of().train()
    sum(ranker.raw_outputs(batch_of([4, 4, 4]))).sum().backward()  # type: ignore[union-attr]
    gradients = {name: parameter.grad for name, parameter in ranker.named_parameters() if "language" in name}
    touched = {name for name, gradient in gradients.items() if gradient is not None and gradient.any()}
    assert touched == {
        "inputs.embeddings.tables.language/narrow_1.weight",
        "inputs.lifts.language.projections.0.weight",
    }
    rows = gradients["inputs.embeddings.tables.language/narrow_1.weight"]
    assert rows is not None
    assert rows.any(dim=1).tolist() == [False, False, True, False]


@pytest.mark.parametrize("algorithm", ["rowwise_adagrad", "adagrad", "adam"])
def test_sparse_steps_move_the_rows_of_the_batch_and_the_projection_moves_with_the_network(algorithm: str) -> None:
    constant = {"kind": "constant", "learning_rate": 0.01}
    sparse = {"algorithm": {"kind": algorithm}, "learning_rate": constant, "sparse": True}
    optimizer = {"backbone": constant, "tables": sparse, "embedding_l2": 0.1, "embedding_l2_rows": "frequency"}
    config = config_with({"width": 4, "narrow": NARROW}, optimizer=optimizer)
    ranker, batch = ranker_of(config).train(), batch_of([4, 7, 4])
    before = {name: value.clone() for name, value in ranker.state_dict().items()}
    scheduled = ScheduledOptimizer(config, ranker)
    sum(ranker.raw_outputs(batch)).sum().backward()  # type: ignore[union-attr]
    scheduled.step(1, batch)
    moved = {
        name: (value != before[name]).any(dim=1).nonzero()[:, 0].tolist()
        for name, value in ranker.state_dict().items()
        if "language" in name
    }
    assert moved == {
        "inputs.embeddings.tables.language.weight": [],
        "inputs.embeddings.tables.language/narrow_1.weight": [2],
        "inputs.embeddings.tables.language/narrow_2.weight": [2],
        "inputs.lifts.language.projections.0.weight": [0, 1, 2, 3],
        "inputs.lifts.language.projections.1.weight": [0, 1, 2, 3],
    }
    group = scheduled._algorithms[-1].param_groups[0]["params"]
    assert {id(parameter) for parameter in group} == {id(table.weight) for table in tables(ranker)}


def test_the_example_of_the_documentation_has_an_eleventh_of_the_parameters() -> None:
    """Σₖ (nₖ + 1) wₖ + Σ₍ₖ₎ wₖ w over the blocks, against (n + 1) w."""
    narrow = [NarrowConfig(after=10_000, width=16), NarrowConfig(after=100_000, width=4)]
    blocks = list(_blocks(TableSpec("post", 1_000_001, 64, ("post",)), narrow))
    assert [block.num_embeddings for block in blocks] == [10_001, 90_001, 900_001]
    parameters = sum(block.num_embeddings * block.width for block in blocks) + (16 + 4) * 64
    assert parameters == 5_681_364
    assert 1_000_001 * 64 / parameters == pytest.approx(11.3, abs=0.05)


def test_the_rows_of_a_block_mean_the_values_of_its_part_of_the_vocabulary() -> None:
    rows = table_rows(CONFIG, WORDS)
    grown = table_rows(CONFIG, {"language": pa.array(["ja", "en", "fr", "de", "pt", "it", "nl", "sv"])})
    codes = grown["language/narrow_1"].codes_in(rows["language/narrow_1"])  # fr, de, pt there; de, fr, it here
    assert codes is not None
    assert [part.tolist() for part in codes] == [[1, 2], [2, 1]]
    plain = table_rows(config_with(4), WORDS)
    codes = rows["language"].codes_in(plain["language"])  # frequent values keep their rows if a table is narrowed
    assert codes is not None
    assert [part.tolist() for part in codes] == [[1, 2], [1, 2]]


def test_a_vocabulary_without_rare_values_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"language\.narrow\.1\.after: must be below the number of values of the voc"):
        table_specs(CONFIG, {"language": pa.array(["en", "ja", "de", "fr", "it"])})


def test_a_vocabulary_in_another_order_is_told() -> None:
    frequent = [1] * 9 + [2] * 9 + [3] * 4 + [6]
    assert list(order_warnings(ranker_of(), [batch_of(frequent)])) == []
    (warning,) = order_warnings(ranker_of(), [batch_of([1, 2, 3, 4, 5]), batch_of([6, 7, 7, 7])])
    assert warning.startswith(
        "warning: model.embeddings.language.narrow: the values before place 5 occur less often than those after it "
        "(1 and 2 times each in a sample of 9 rows)."
    )


def test_int8_tables_hold_the_narrow_rows_too() -> None:
    ranker, batch = ranker_of().eval(), batch_of(list(range(8)))
    exact = ranker.inputs(batch)
    ranker.inputs.embeddings = Int8Tables(ranker.inputs.embeddings)  # type: ignore[arg-type]
    assert_close(ranker.inputs(batch), exact, atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("language", "message"),
    [
        (
            {"width": 4, "narrow": [{"after": 3, "width": 2}, {"after": 3, "width": 1}]},
            "narrow.1.after: must be above that of the entry before, 3; found 3",
        ),
        (
            {"width": 4, "narrow": [{"after": 3, "width": 4}]},
            "narrow.0.width: must be below the width of the table, 4; found 4",
        ),
        (
            {"width": 4, "narrow": [{"after": 3, "width": 2}, {"after": 9, "width": 3}]},
            "narrow.1.width: must be below the width of the entry before, 2; found 3",
        ),
        (
            {"width": 0, "narrow": [{"after": 3, "width": 2}]},
            "narrow: needs a table, but width 0 removes it; set width above 0, or remove narrow",
        ),
        (
            {"width": 4, "narrow": NARROW, "pretrained": {"path": "rows.parquet"}},
            "narrow: pretrained rows have one width; remove narrow, or remove pretrained",
        ),
    ],
)
def test_widths_that_do_not_fall_are_refused(language: dict[str, Any], message: str) -> None:
    assert problems({"language": language}) == [f"model.embeddings.language.{message}"]


def problems(embeddings: dict[str, Any], **sections: Any) -> list[str]:
    values = feed_values(Path("feed"), Path("run"))
    values["model"]["embeddings"] = {"default": 4, **embeddings}
    for section, fields in sections.items():
        values[section] |= fields
    with pytest.raises(ConfigError) as caught:
        config_of(values)
    return [f"{problem.path}: {problem.text}" for problem in caught.value.problems]


def test_only_a_vocabulary_says_which_values_are_rare() -> None:
    asked = {"width": 4, "narrow": NARROW}
    advice = "; make one with 'recap data vocabulary', or remove narrow"
    needs = "narrow: needs a vocabulary, whose order says which values are frequent"
    assert problems({"hour": asked}) == [f"model.embeddings.hour.{needs}, and 'hour' has integer codes{advice}"]
    hashed = {"discrete": {"hour": {"hash": {"buckets": 9}}, "language": {"vocabulary": "l.parquet"}}}
    assert problems({"hour": asked}, features=hashed) == [
        f"model.embeddings.hour.{needs}, and 'hour' has a hash{advice}"
    ]
    assert problems({"default": asked}) == [
        "model.embeddings.default.narrow: 'default' applies to several tables; set narrow for each table by name"
    ]


def test_sharded_tables_refuse_narrow_rows() -> None:
    constant = {"kind": "constant", "learning_rate": 0.01}
    tables = {"algorithm": {"kind": "rowwise_adagrad"}, "learning_rate": constant, "sparse": True}
    found = problems(
        {"language": {"width": 8, "narrow": NARROW}},
        training={"sharded_tables": {}},
        optimizer={"tables": tables},
    )
    assert found == [
        "model.embeddings.language.narrow: does not work with training.sharded_tables; remove it, or remove "
        "training.sharded_tables, which smaller tables may not need"
    ]
