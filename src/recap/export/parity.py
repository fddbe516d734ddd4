"""The check that an exported program computes what recap computes, over extreme inputs."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recap.config.checks.common import SCORE
from recap.errors import RunError
from recap.export.inputs import ROWS, Input
from recap.export.program import Program, Run
from recap.model.score_rows import score_rows

BATCHES = (1, 2, 5_000)
"""Rows of the batches that are compared."""
ABSOLUTE, RELATIVE = 1e-5, 1e-4
"""Tolerance of a probability or of the value of a regression, v: ABSOLUTE + RELATIVE · |v|; of a regression with
`transform: log1p`, v is log1p of the value, which the network computes."""
SCORE_RELATIVE = 1e-12
"""Tolerance of a score against the formula for the probabilities of the program itself, relative to Σ |wᵢ·pᵢ|: float32
would miss it by far."""
_MANY_EVENTS = 50
"""Events of a history in the largest batch, which bounds memory."""
_NUMBERS = np.array([np.nan, np.inf, -np.inf, 1e30, -1e30, 0.0, -0.0, 1e-40, -1.0], np.float32)
_CODES = np.array([0, -1, 2**62, -(2**63)])


@dataclass(frozen=True)
class Difference:
    """How far an output of the program is from recap, over all rows."""

    output: str
    largest: float
    fits: bool
    """Whether every row is within its tolerance."""


def ordinary_values(program: Program, rows: int, events: int, seed: int) -> dict[str, Tensor]:
    """Input values such as data has."""
    random = np.random.default_rng(seed)
    return {
        each.name: torch.from_numpy(_ordinary(each, _shape(each, rows, events, program), random))
        for each in program.inputs
    }


def extreme_values(program: Program, rows: int, events: int, seed: int) -> dict[str, Tensor]:
    """Input values of which about a third are missing, not finite, huge, negative or unknown, and lists are empty.

    Vectors and binary features are not huge, because recap refuses such data.
    """
    random = np.random.default_rng(seed)
    values = {}
    for each in program.inputs:
        array = _ordinary(each, _shape(each, rows, events, program), random)
        extremes = _NUMBERS if each.dtype == torch.float32 else np.append(_CODES, (each.largest or 0) + 1)
        if each.source["kind"] in ("vector", "binary"):
            extremes = extremes[~(np.isfinite(extremes) & (np.abs(extremes) > 1))]
        chosen = random.random(array.shape) < 1 / 3
        array[chosen] = random.choice(extremes, chosen.sum())
        values[each.name] = torch.from_numpy(array)
    return values


def compare(program: Program, run: Run) -> list[Difference]:
    """The largest differences over batches of `BATCHES` rows. Raises RunError if the program fails."""
    expected, actual = [], []
    most = max(program.max_events.values(), default=1)
    for rows, events in zip(BATCHES, (1, most, min(most, _MANY_EVENTS)), strict=True):
        values = extreme_values(program, rows, events, seed=rows)
        scores = score_rows(program.scorer, program.batch(values))
        expected.append(scores.calibrated_probabilities)
        actual.append(_outputs(program, run, values))
    outputs = {name: torch.cat([of_batch[name] for of_batch in actual]) for name in program.outputs}
    return list(_differences(program, torch.cat(expected), outputs))


def require_fit(differences: list[Difference]) -> None:
    """Raise RunError, which names the outputs, if a difference is beyond its tolerance."""
    wrong = [each for each in differences if not each.fits]
    if wrong:
        listed = ", ".join(f"{each.output} by {each.largest:.1e}" for each in wrong[:10])
        raise RunError(
            f"the exported program differs from recap beyond the tolerance: {listed}; nothing was written. Please "
            "report it with the model's config.yaml; another --format may work"
        )


def describe(differences: list[Difference]) -> str:
    """The largest differences and their tolerances."""
    tasks = ", ".join(f"{each.output} {each.largest:.1e}" for each in differences[:-1])
    score = differences[-1].largest
    return (
        f"largest difference from recap over {sum(BATCHES):,} extreme rows: {tasks} (tolerance {ABSOLUTE:.0e} + "
        f"{RELATIVE:.0e} of the value); {SCORE} {score:.1e} from the formula, relative (tolerance {SCORE_RELATIVE:.0e})"
    )


def _outputs(program: Program, run: Run, values: dict[str, Tensor]) -> dict[str, Tensor]:
    rows = len(next(iter(values.values())))
    try:
        outputs = run(values)
    except Exception as error:  # each runtime has its own
        raise RunError(f"the exported program fails on {rows:,} extreme rows ({str(error)[:300]})") from error
    for name in program.outputs:
        if name not in outputs or outputs[name].shape != (rows,):
            raise RunError(f"the exported program has no output {name!r} of {rows:,} rows; nothing was written")
    return outputs


def _differences(program: Program, expected: Tensor, outputs: dict[str, Tensor]) -> Iterator[Difference]:
    is_log = program.scorer.ranker.activation.is_log
    for name, column, in_logs in zip(program.tasks, expected.T, is_log, strict=True):
        actual = outputs[name]
        if in_logs:
            column, actual = column.log1p(), actual.log1p()
        same = (column == actual) | (column.isnan() & actual.isnan())
        apart = torch.where(same, 0.0, (column - actual).abs()).nan_to_num(nan=torch.inf, posinf=torch.inf)
        fits = apart <= ABSOLUTE + RELATIVE * column.abs()
        yield Difference(name, float(apart.max()), bool((fits | same).all()))
    formula = program.scorer.formula
    probabilities = torch.stack([outputs[task] for task in program.tasks], dim=1)
    weighted = probabilities.double() * formula.weights
    scale = weighted.abs().sum(dim=1) + 1e-3
    # Where the sum is 0 but for rounding, its sign decides between two parts of the formula.
    decided = weighted.sum(dim=1).abs() > SCORE_RELATIVE * scale
    apart = (formula(probabilities) - outputs[SCORE]).abs() / scale
    apart = torch.where(decided, apart, 0.0).nan_to_num(nan=torch.inf)
    known = probabilities.isfinite().all(dim=1)
    largest = float(torch.where(known, apart, 0.0).max())
    is_double = outputs[SCORE].dtype == torch.float64
    yield Difference(SCORE, largest, is_double and largest <= SCORE_RELATIVE)


def _shape(each: Input, rows: int, events: int, program: Program) -> tuple[int, ...]:
    sizes = {ROWS: rows} | {name: min(events, most) for name, most in program.max_events.items()}
    return tuple(sizes[size] if isinstance(size, str) else size for size in each.shape)


def _ordinary(each: Input, shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
    if each.dtype == torch.int64:
        return random.integers(0, (each.largest or 0) + 1, shape)
    if each.source["kind"] == "binary":
        return random.integers(0, 2, shape).astype(np.float32)
    values = random.normal(size=shape)
    return (values if each.source["kind"] == "vector" else np.exp(3 * values)).astype(np.float32)
