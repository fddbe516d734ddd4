"""`training.sharded_tables` with what it cannot be combined with: each is refused, with what to do."""

from pathlib import Path
from typing import Any

import pytest
from support import feed_values

from recap.config.file.load import config_of
from recap.errors import ConfigError

TABLES = {
    "algorithm": {"kind": "adagrad"},
    "learning_rate": {"kind": "constant", "learning_rate": 0.1},
    "sparse": True,
}


def values(sharded: dict[str, Any] | None = None) -> dict[str, Any]:
    given = feed_values(Path("feed"), Path("run"))
    given["training"]["sharded_tables"] = sharded or {}
    given["optimizer"]["tables"] = dict(TABLES)
    return given


def problems(given: dict[str, Any]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        config_of(given)
    return [f"{problem.path}: {problem.text}" for problem in caught.value.problems]


@pytest.mark.parametrize("kind", ["auto", "row_wise", "table_wise", "column_wise"])
def test_a_table_may_be_divided_in_each_way(kind: str) -> None:
    assert config_of(values({"tables": {"default": kind, "hour": "auto"}})).training.sharded_tables is not None


@pytest.mark.parametrize(
    ("section", "changes", "path", "text"),
    [
        ("training", {"ema": {}}, "training.ema", "averages every row in every step"),
        ("optimizer", {"tables": None}, "training.sharded_tables", "needs optimizer.tables"),
        ("optimizer", {"tables": TABLES | {"sparse": False}}, "optimizer.tables.sparse", "must be true"),
        (
            "optimizer",
            {"tables": TABLES | {"algorithm": {"kind": "adam"}}},
            "optimizer.tables.algorithm.kind",
            "use rowwise_adagrad, adagrad or sgd",
        ),
        (
            "optimizer",
            {"clip_gradients": {"kind": "norm", "max_norm": 1.0}},
            "optimizer.clip_gradients",
            "needs the whole gradients of tables",
        ),
        ("optimizer", {"frozen": ["inputs"]}, "optimizer.frozen.0", "{kind: constant, learning_rate: 0}"),
        ("optimizer", {"frozen": ["inputs.embeddings.tables.hour"]}, "optimizer.frozen.0", "'inputs.embeddings.tables"),
        (
            "optimizer",
            {"embedding_l2": 0.1},
            "optimizer.embedding_l2",
            "set it to 0, or remove training.sharded_tables",
        ),
        (
            "optimizer",
            {"balancing": {"kind": "pcgrad"}},
            "optimizer.balancing",
            "or remove training.sharded_tables and set",
        ),
        ("training", {"compile": True}, "training.compile", "or remove training.sharded_tables and set"),
        ("model", {"embeddings": {"default": 4, "hour": 6}}, "model.embeddings.hour", "found 6; use 4 or 8"),
        ("model", {"embeddings": {"default": 3}}, "model.embeddings.default", "found 3; use 4"),
    ],
)
def test_what_needs_whole_tables_is_refused(section: str, changes: dict[str, Any], path: str, text: str) -> None:
    given = values()
    given[section] |= changes
    (problem,) = problems(given)
    assert problem.startswith(f"{path}: ")
    assert text in problem


def test_other_modules_of_the_inputs_may_be_frozen() -> None:
    given = values()
    given["optimizer"]["frozen"] = ["inputs.vector_norms"]
    assert config_of(given).optimizer.frozen == ["inputs.vector_norms"]


def test_unknown_tables_are_refused_with_the_known_ones() -> None:
    assert problems(values({"tables": {"hours": "row_wise"}})) == [
        "training.sharded_tables.tables.hours: unknown table 'hours'. Known: hour, language. Did you mean 'hour'?"
    ]


def test_columns_cannot_share_the_sum_of_a_row() -> None:
    given = values({"tables": {"hour": "column_wise"}})
    given["optimizer"]["tables"]["algorithm"] = {"kind": "rowwise_adagrad"}
    (problem,) = problems(given)
    assert problem.startswith("training.sharded_tables.tables.hour: rowwise_adagrad keeps one sum for a row")
