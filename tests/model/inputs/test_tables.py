"""Embedding tables: built from a list of specs, read by feature, replaceable from outside."""

import doctest
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from model.rankers import make_batch, make_config, make_ranker
from support import feed_values
from torch import Tensor

from recap.config.file.load import config_of
from recap.config.recap import RecapConfig
from recap.model.inputs import tables
from recap.model.inputs.tables import LocalTables, Tables, TableSpec, table_specs

LANGUAGES = {"language": pa.array(["en", "ja"])}


def config_with(sections: dict[str, dict[str, object]]) -> RecapConfig:
    values = feed_values(Path("feed"), Path("run"))
    for section, changes in sections.items():
        values[section] |= changes
    return config_of(values)


def test_a_spec_holds_the_name_rows_width_and_features_of_a_table() -> None:
    assert table_specs(make_config("history_din"), LANGUAGES) == [
        TableSpec("hour", 25, 4, ("hour", "watched/attributes/hour")),
        TableSpec("post", 31, 4, ("post", "watched/ids")),
        TableSpec("watched/attributes/action", 4, 4, ("watched/attributes/action",)),
    ]


def test_a_vocabulary_has_a_row_for_each_string_and_one_for_unknown_strings() -> None:
    assert table_specs(make_config("mlp-share_all"), LANGUAGES)[1] == TableSpec("language", 3, 4, ("language",))


def test_a_width_of_0_and_the_position_leave_a_table_out() -> None:
    config = config_with({"model": {"embeddings": {"default": 0, "hour": 3}}})
    assert table_specs(config, LANGUAGES) == [TableSpec("hour", 25, 3, ("hour",))]
    assert [spec.name for spec in table_specs(make_config("position_debias"), LANGUAGES)] == ["language"]


def test_tables_of_a_history_are_as_wide_as_the_table_of_its_ids() -> None:
    history = {
        "ids": {"column": "watched", "size": 9},
        "attributes": {"action": {"column": "watched_action", "size": 3}},
    }
    config = config_with(
        {
            "features": {"histories": {"watched": history}},
            "model": {
                "embeddings": {"default": 4, "watched": 6},
                "histories": {"watched": {"encoder": {"kind": "pooling"}}},
            },
        }
    )
    widths = {spec.name: spec.width for spec in table_specs(config, LANGUAGES)}
    assert widths == {"hour": 4, "language": 4, "watched/ids": 6, "watched/attributes/action": 6}


def test_the_vector_of_a_value_is_the_sum_of_the_rows_of_its_codes() -> None:
    local = LocalTables([TableSpec("post", 10, 3, ("post", "other"))])
    weight = local.state_dict()["tables.post.weight"]
    vectors = local({"post": torch.tensor([[[1, 2]], [[3, 3]]]), "other": torch.tensor([[[4], [5]]])})
    assert torch.equal(vectors["post"][:, 0], torch.stack([weight[1] + weight[2], 2 * weight[3]]))
    assert torch.equal(vectors["other"], weight[None, 4:6])


def test_rows_can_be_overwritten() -> None:
    local = LocalTables([TableSpec("post", 4, 2, ("post",))])
    before = local.state_dict()["tables.post.weight"].clone()
    local.set_rows("post", torch.tensor([3, 1]), torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    after = local.state_dict()["tables.post.weight"]
    assert after[[3, 1]].tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert torch.equal(after[[0, 2]], before[[0, 2]])


@pytest.mark.parametrize("sparse", [False, True])
def test_gradients_are_sparse_only_on_request(*, sparse: bool) -> None:
    ranker, batch = make_ranker(make_config("history_din")), make_batch(make_config("history_din"))
    if sparse:
        ranker.inputs.embeddings.make_gradients_sparse()
    ranker(batch).logits.sum().backward()
    for parameter in ranker.inputs.embeddings.parameters():
        assert parameter.grad is not None
        assert parameter.grad.is_sparse == sparse


class Wrapped(Tables):
    """Tables that live elsewhere, as a sharded implementation would hold them."""

    def __init__(self, inner: Tables) -> None:
        super().__init__(list(inner.specs.values()))
        self.inner = inner

    def forward(self, codes: Mapping[str, Tensor]) -> dict[str, Tensor]:
        vectors: dict[str, Tensor] = self.inner(codes)
        return vectors

    def set_rows(self, table: str, codes: Tensor, vectors: Tensor) -> None:
        self.inner.set_rows(table, codes, vectors)

    def make_gradients_sparse(self) -> None:
        self.inner.make_gradients_sparse()


@pytest.mark.parametrize("case", ["mlp-share_all", "history_transformer"])
def test_another_implementation_replaces_the_tables_from_outside(case: str) -> None:
    config = make_config(case)
    ranker, batch = make_ranker(config).eval(), make_batch(config)
    expected = ranker(batch).logits
    ranker.inputs.embeddings = Wrapped(ranker.inputs.embeddings)
    assert torch.equal(ranker(batch).logits, expected)


def test_the_examples_in_the_docstrings_run() -> None:
    result = doctest.testmod(tables, extraglobs={"torch": torch})
    assert result.attempted
    assert not result.failed
