"""Which ids take rows in a round, against a slow version, and against TorchRec's policies."""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recap.config.discrete import ZeroCollisionConfig
from recap.distributed import ONE_RANK
from recap.model.inputs.row_ids import NO_ID
from recap.model.inputs.tables import TableSpec
from recap.training.ids.parts import PartIds

CPU = torch.device("cpu")
POLICIES = ("lfu", "lru", "distance_lfu")
Policy = st.sampled_from(POLICIES)
Rounds = st.lists(st.lists(st.integers(1, 12), max_size=12), min_size=1, max_size=8)


def part_ids(rows: int, policy: str, **options: int) -> PartIds:
    config = ZeroCollisionConfig.model_validate({"rows": rows, "evict_every": 1, "policy": policy, **options})
    return PartIds(TableSpec("post", rows + 1, 4, ("post",), config), ONE_RANK, CPU)


def after_round(ids: PartIds, codes: list[int]) -> list[int | None]:
    """The id of each row but 0 after a round with `codes`; None without one."""
    ids.rows(torch.tensor(codes, dtype=torch.int64), record=True)
    ids.step()
    return [None if code == NO_ID else code for code in ids.row_ids.ids[1:].tolist()]


@dataclass
class SlowIds:
    """The same, one id at a time."""

    policy: str
    rows: list[int | None]
    admit_after: int
    evict_after: int | None
    number: int = 0
    seen: Counter[int] = field(default_factory=Counter)
    """Occurrences of ids without a row."""
    held: dict[int, list[int]] = field(default_factory=dict)
    """Id with a row → its occurrences and its last round."""

    def score(self, count: int, last: int) -> float:
        if self.policy == "lfu":
            return count
        return last if self.policy == "lru" else float(np.float32(count) / np.float32(self.number - last + 1))

    def after_round(self, codes: list[int]) -> list[int | None]:
        self.number += 1
        new: list[tuple[int, int]] = []
        order = sorted(range(len(self.rows)), key=lambda row: (self.rows[row] or NO_ID, row))
        for code, count in sorted(Counter(codes).items()):
            if code in self.held:
                self.held[code] = [self.held[code][0] + count, self.number]
                continue
            self.seen[code] += count
            if self.seen[code] >= self.admit_after:
                new.append((code, count if self.admit_after == 1 else self.seen[code]))
        for row, code in enumerate(self.rows):
            if code is not None and self.evict_after and self.held[code][1] <= self.number - self.evict_after:
                del self.held[code]
                self.rows[row] = None
        new.sort(key=lambda pair: -pair[1])
        candidates = [
            (-self.score(*self.held.get(self.rows[row] or 0, [0, 0])), place, row) for place, row in enumerate(order)
        ]
        candidates += [
            (-self.score(count, self.number), len(order) + place, -1) for place, (_, count) in enumerate(new)
        ]
        candidates.sort()
        lost = [row for _, _, row in candidates[len(order) :] if row >= 0]
        takers = [place - len(order) for _, place, row in candidates[: len(order)] if row < 0]
        for row, taker in zip(lost, takers, strict=True):
            self.held.pop(self.rows[row] or 0, None)
            code, count = new[taker]
            self.rows[row], self.held[code] = code, [count, self.number]
        return list(self.rows)


@given(Rounds, Policy, st.integers(1, 5), st.integers(1, 4), st.sampled_from([None, 1, 3]))
def test_rounds_are_those_of_the_slow_version(
    rounds: list[list[int]], policy: str, rows: int, admit_after: int, evict_after: int | None
) -> None:
    options = {"admit_after": admit_after} | ({} if evict_after is None else {"evict_after": evict_after})
    ids, slow = part_ids(rows, policy, **options), SlowIds(policy, [None] * rows, admit_after, evict_after)
    for codes in rounds:
        assert after_round(ids, codes) == slow.after_round(codes)


@pytest.mark.parametrize("policy", POLICIES)
def test_rounds_are_those_of_torchrec(policy: str) -> None:
    pytest.importorskip("torchrec")
    from torchrec.modules import mc_modules
    from torchrec.sparse.jagged_tensor import JaggedTensor

    from recap.training.sharded_tables.loading import quiet

    policies = {
        "lfu": mc_modules.LFU_EvictionPolicy,
        "lru": mc_modules.LRU_EvictionPolicy,
        "distance_lfu": mc_modules.DistanceLFU_EvictionPolicy,
    }
    rows, generator = 20, torch.Generator().manual_seed(3)
    ids = part_ids(rows, policy)
    with quiet():
        module = mc_modules.MCHManagedCollisionModule(
            zch_size=rows + 1, device=CPU, eviction_policy=policies[policy](), eviction_interval=1
        ).train()
        for _ in range(60):
            codes = (torch.rand(40, generator=generator) ** 3 * 60).long() + 1
            module.profile({"post": JaggedTensor(values=codes, lengths=torch.tensor([len(codes)]))})
            state = module.state_dict()
            expected = torch.full((rows,), NO_ID)
            expected[state["_mch_remapped_ids_mapping"][:-1]] = state["_mch_sorted_raw_ids"][:-1]
            assert after_round(ids, codes.tolist()) == [None if code == NO_ID else code for code in expected.tolist()]


def test_an_id_takes_a_row_after_its_occurrences_in_all_rounds() -> None:
    ids = part_ids(3, "lfu", admit_after=3)
    assert after_round(ids, [7, 7]) == [None] * 3
    assert after_round(ids, [8]) == [None] * 3
    assert sorted(code for code in after_round(ids, [7]) if code) == [7]


def test_an_id_that_is_not_seen_for_long_frees_its_row() -> None:
    ids = part_ids(3, "lfu", evict_after=2)
    assert set(after_round(ids, [7, 8])) == {7, 8, None}
    assert set(after_round(ids, [8])) == {7, 8, None}
    assert set(after_round(ids, [])) == {8, None}
