"""The sketch that counts ids without rows."""

from collections import Counter

import torch
from hypothesis import given
from hypothesis import strategies as st

from recap.data.encoding.hashing import MAX_CODE
from recap.training.ids.sketch import Sketch

CPU = torch.device("cpu")
Rounds = st.lists(st.dictionaries(st.integers(1, MAX_CODE), st.integers(1, 5), min_size=1, max_size=20), max_size=5)


def added(sketch: Sketch, counts: dict[int, int], part: int = 0) -> list[int]:
    return sketch.add(part, torch.tensor(list(counts)), torch.tensor(list(counts.values()))).tolist()


@given(Rounds)
def test_until_it_is_halved_an_estimate_is_never_below_the_true_number(rounds: list[dict[int, int]]) -> None:
    sketch, true = Sketch(1, 1, CPU), Counter[int]()
    for counts in rounds:
        true.update(counts)
        estimates = added(sketch, counts)
        assert all(estimate >= true[code] for code, estimate in zip(counts, estimates, strict=True))


@given(Rounds)
def test_counters_do_not_depend_on_the_order(rounds: list[dict[int, int]]) -> None:
    sketches = [Sketch(1, 1, CPU), Sketch(1, 1, CPU)]
    for sketch, order in zip(sketches, (rounds, rounds[::-1]), strict=True):
        for counts in order:
            added(sketch, counts)
    assert torch.equal(sketches[0].counters, sketches[1].counters)


def test_most_of_as_many_ids_as_a_row_has_counters_are_counted_exactly() -> None:
    sketch = Sketch(1000, 1, CPU)
    generator = torch.Generator().manual_seed(1)
    codes = torch.randint(1, MAX_CODE, (sketch.width - 1,), generator=generator).unique()
    estimates = sketch.add(0, codes, torch.ones_like(codes))
    assert (estimates == 1).float().mean() > 0.8
    assert estimates.max() <= 4


def test_counters_of_a_part_are_halved_after_as_many_occurrences_as_it_has_counters() -> None:
    sketch = Sketch(10, 2, CPU)
    assert added(sketch, {5: 7}, part=1) == [7]
    assert added(sketch, {6: sketch.width - 7}, part=1) == [sketch.width - 7]
    assert added(sketch, {5: 1}, part=1) == [7 // 2 + 1]
    assert added(sketch, {5: 1}, part=0) == [1]
    assert sketch.occurrences.tolist() == [1, 1]
