"""Zero-collision hashes: which ids get rows, which lose them, and models that map ids without TorchRec."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import write_feed
from training.runs import files, records
from training.sharded_tables.cases import run_values
from training.sharded_tables.zero_collision import MIDDLE, values

from recap.config.discrete import ZeroCollisionConfig
from recap.config.file.load import config_of
from recap.data.encoding.hashing import MAX_CODE, codes_of_ids
from recap.distributed import ONE_RANK, Ranks
from recap.errors import ConfigError
from recap.evaluation.run import evaluate_run
from recap.model.inputs.row_ids import NO_ID, RowIds
from recap.model.inputs.tables import TableSpec
from recap.training.ids.parts import PartIds
from recap.training.sharded_tables.loading import table_group

pytest.importorskip("torchrec")
CPU = torch.device("cpu")
Codes = st.lists(st.integers(1, MAX_CODE), unique=True, min_size=1, max_size=20)


@given(Codes, st.lists(st.integers(1, MAX_CODE), max_size=5))
def test_a_known_id_has_its_row_and_others_share_row_0(known: list[int], others: list[int]) -> None:
    ids = RowIds(len(known) + 2)
    ids.load_state_dict({"ids": torch.tensor([NO_ID, *known, NO_ID])})
    rows = ids(torch.tensor([[*known, *others, 0]]))
    expected = [known.index(code) + 1 if code in known else 0 for code in (*known, *others, 0)]
    assert rows.tolist() == [expected]
    assert ids.problem() is None


@pytest.mark.parametrize(
    ("ids", "problem"),
    [
        ([NO_ID, 7, 3, 7], "7 has two rows"),
        ([NO_ID, 7, 3, -5], "-5 is not the code of an id"),
        ([4, 7, 3, 5], "the row of unknown values has an id"),
    ],
)
def test_ids_that_no_training_writes_are_told(ids: list[int], problem: str) -> None:
    row_ids = RowIds(4)
    row_ids.load_state_dict({"ids": torch.tensor(ids)})
    assert row_ids.problem() == problem


@given(st.lists(st.integers(-(2**63), 2**63 - 1), unique=True, max_size=50))
def test_ids_have_different_positive_codes(ids: list[int]) -> None:
    codes = codes_of_ids(np.array(ids, np.int64)).tolist()
    assert len(set(codes)) == len(ids)
    assert all(1 <= code <= MAX_CODE for code in codes)


def part_ids(rows: int, policy: str, parts: int = 1, ranks: Ranks = ONE_RANK) -> PartIds:
    config = ZeroCollisionConfig.model_validate({"rows": rows, "evict_every": 1, "policy": policy, "parts": parts})
    return PartIds(TableSpec("post", rows + 1, 4, ("post",), config), ranks, CPU)


def seen(ids: PartIds, *codes: int) -> list[int]:
    """A round after a step with `codes`; the rows that passed to another id."""
    ids.rows(torch.tensor(codes), record=True)
    changed = ids.step()
    assert changed is not None
    return changed.tolist()


@pytest.mark.parametrize(
    ("policy", "steps", "lost"),
    [
        ("lfu", [[10, 10, 10, 11]], 11),
        ("lru", [[10, 10, 10, 11], [11]], 10),
        ("distance_lfu", [[10, 10, 10, 11], [11], [11], [11]], 10),
    ],
)
def test_the_policy_decides_which_id_loses_its_row(policy: str, steps: list[list[int]], lost: int) -> None:
    ids = part_ids(2, policy)
    assert [seen(ids, *codes) for codes in steps] == [[]] * len(steps)  # the rows were free
    rows = {code: ids.rows(torch.tensor([code]), record=False).tolist() for code in (10, 11)}
    assert sorted(rows.values()) == [[1], [2]]
    assert seen(ids, 12, 12) == rows[lost]
    now = rows | {lost: [0], 12: rows[lost]}
    assert {code: ids.rows(torch.tensor([code]), record=False).tolist() for code in now} == now


def test_ids_of_steps_that_are_not_taken_do_not_count() -> None:
    ids = part_ids(3, "lfu")
    ids.rows(torch.tensor([5]), record=True)
    ids.forget()
    seen(ids, 6)
    rows = ids.rows(torch.tensor([5, 6]), record=False).tolist()
    assert rows[0] == 0 < rows[1]


@given(st.integers(1, 7), st.integers(1, 9), st.lists(st.integers(1, MAX_CODE), min_size=1, max_size=30))
def test_any_number_of_ranks_keeps_each_part_once(parts: int, size: int, codes: list[int]) -> None:
    kept = [part_ids(50, "lru", parts, Ranks(rank, size, rank, size)) for rank in range(size)]
    assert sum(len(ids.row_ids.ids) for ids in kept) == 51
    known = torch.tensor(sorted({*codes}))
    keepers = kept[0].rank_of(known)
    assert all(int(code) % parts in kept[int(rank)].own for code, rank in zip(known, keepers, strict=True))


@pytest.mark.slow
def test_a_model_without_torchrec_scores_as_training_does(tmp_path: Path) -> None:
    write_feed(tmp_path / "feed", histories=True)
    of_run = values(tmp_path, "run", MIDDLE)
    with table_group(ONE_RANK):
        run_values(of_run)
    evaluate_run(config_of(of_run), tmp_path / "run")
    found = json.loads((tmp_path / "run" / "evaluation.json").read_text())["splits"]["validation"]
    trained = [line for line in records(tmp_path / "run") if line["split"] == "validation"]
    assert {line["task"] for line in trained} == found.keys()
    for line in trained:
        assert found[line["task"]]["log_loss"] == pytest.approx(line["log_loss"], rel=1e-6)
        assert found[line["task"]]["auc"] == line["auc"]
    ids = files(tmp_path / "run", MIDDLE, "weights.safetensors")["inputs.embeddings.row_ids.post.ids"]
    assert (ids != NO_ID).sum() > 30


def test_parts_without_a_row_are_refused() -> None:
    given_values = values(Path(), "run", 1)
    given_values["features"]["discrete"]["user_id"]["zero_collision"]["parts"] = 61
    with pytest.raises(ConfigError) as caught:
        config_of(given_values)
    assert [f"{problem.path}: {problem.text}" for problem in caught.value.problems] == [
        "features.discrete.user_id.zero_collision.parts: each part has a row, so there are at most 60 (rows), found 61",
    ]
