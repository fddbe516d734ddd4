"""The fitted calibration of every task of a model, from the rows of a split."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from recap.config.discrete import HashSpace, ZeroCollisionSpace
from recap.config.recap import RecapConfig
from recap.data.encoding.assets import Assets
from recap.errors import InputError
from recap.evaluation.calibrate.fit import (
    NoSlope,
    fit_affine,
    fit_isotonic,
    fit_offsets,
    fit_shift,
    piecewise,
)
from recap.evaluation.calibrate.rows import Floats, SplitRows, TaskRows
from recap.model.calibration import (
    AffineMap,
    FittedCalibration,
    FittedTask,
    IsotonicMap,
    Offset,
    has_one_code,
    sampling_ratios,
)
from recap.text import suggest

MIN_POSITIVES = 50
"""Positive rows, and negative ones, without which a task is left alone."""
MIN_POSITIVES_OF_ISOTONIC = 10_000
"""Positive rows from which `isotonic` is more than noise; tasks with fewer get an affine map."""
MIN_POSITIVES_OF_VALUE = 20
"""Positive rows, and negative ones, without which a value of a feature has no offset."""
KNOTS = 16
"""Points of an isotonic map, at most."""
Method = Literal["affine", "isotonic"]


class NotFitted(Exception):
    """A task that is left alone; the message says why."""


@dataclass(frozen=True)
class Calibrating:
    """What to fit, and for which model."""

    config: RecapConfig
    assets: Assets
    split: str
    data: Any
    """The `source.inputs` of the split."""
    method: Method = "affine"
    by: str | None = None
    """Discrete feature whose values get offsets."""

    def fit(self, rows: SplitRows) -> FittedCalibration:
        """The calibration of all tasks that `rows` allow; the others are left alone, with the reason."""
        fitted: dict[str, FittedTask] = {}
        left: dict[str, str] = {}
        for column, task in enumerate(self.config.tasks):
            try:
                fitted[task] = self._fit_task(task, rows, rows.of_task(column))
            except NotFitted as reason:
                left[task] = str(reason)
        return FittedCalibration(
            split=self.split,
            data=self.data,
            rows=rows.total,
            sampling=sampling_ratios(self.config),
            by=self.by,
            tasks=fitted,
            left=left,
        )

    def _fit_task(self, task: str, rows: SplitRows, of_task: TaskRows) -> FittedTask:
        """Raises NotFitted."""
        if task in self.config.regressions:
            raise NotFitted("a regression")
        if task not in self.config.evaluated_tasks(self.split):
            raise NotFitted(f"{self.split} does not evaluate it")
        for count, noun in ((of_task.positives, "positive"), (of_task.negatives, "negative")):
            if count.effective < MIN_POSITIVES:
                raise NotFitted(f"{count} {noun}{'' if count.rows == 1 else 's'}, fewer than {MIN_POSITIVES}")
        fitted, note = _fit_map(self.method, of_task)
        if self.by is None:
            return FittedTask(map=fitted, positives=of_task.positives.rows, note=note)
        return self._with_offsets(fitted, note, rows, of_task)

    def _with_offsets(
        self, fitted: AffineMap | IsotonicMap, note: str, rows: SplitRows, of_task: TaskRows
    ) -> FittedTask:
        """Offsets by value, and the map shifted so that the mean prediction is the mean label again."""
        assert self.by is not None
        codes = rows.codes[self.by][of_task.mask].numpy()
        logits = _mapped(fitted, of_task.logits)
        by_value = fit_offsets(logits, of_task.labels, of_task.weights, codes, MIN_POSITIVES_OF_VALUE)
        shift = fit_shift(logits + by_value.of(codes), of_task.labels, of_task.weights)
        numbers = zip(by_value.codes.tolist(), by_value.offsets.tolist(), by_value.positives.tolist(), strict=True)
        offsets = tuple(
            Offset(value=self._value(code), code=code, offset=offset, positives=positives)
            for code, offset, positives in numbers
        )
        if not offsets:
            note += f"; no value of {self.by} has {MIN_POSITIVES_OF_VALUE} positives and negatives"
        return FittedTask(
            map=_shifted(fitted, shift), positives=of_task.positives.rows, note=note.removeprefix("; "), offsets=offsets
        )

    def _value(self, code: int) -> str | int:
        """The value of feature `by` with this code, for readers."""
        assert self.by is not None
        features = self.config.features
        table = features.table_of(self.by, features.discrete[self.by])
        if code == 0:
            return "(unknown)"
        if table in self.assets:
            value: str | int = self.assets[table][code - 1].as_py()
            return value
        space = features.code_spaces[table]
        if isinstance(space, ZeroCollisionSpace):
            return f"id {code}"
        return f"bucket {code}" if isinstance(space, HashSpace) else code - 1


def _fit_map(method: Method, rows: TaskRows) -> tuple[AffineMap | IsotonicMap, str]:
    """The map of one task, and why it is not of the kind that `method` asks for."""
    columns, note = (rows.logits, rows.labels, rows.weights), ""
    if method == "isotonic":
        if rows.positives.effective >= MIN_POSITIVES_OF_ISOTONIC:
            knots, values = fit_isotonic(*columns, KNOTS)
            return IsotonicMap(knots=tuple(knots), values=tuple(values)), note
        note = f"affine, since isotonic needs {MIN_POSITIVES_OF_ISOTONIC:,} positives, and it has {rows.positives}"
    try:
        slope, intercept = fit_affine(*columns)
    except NoSlope as reason:
        return AffineMap(slope=1.0, intercept=fit_shift(*columns)), f"an intercept alone, since {reason}"
    return AffineMap(slope=slope, intercept=intercept), note


def _mapped(fitted: AffineMap | IsotonicMap, logits: Floats) -> Floats:
    if isinstance(fitted, AffineMap):
        return fitted.slope * logits + fitted.intercept
    return piecewise(logits, np.array(fitted.knots), np.array(fitted.values))


def _shifted(fitted: AffineMap | IsotonicMap, shift: float) -> AffineMap | IsotonicMap:
    if isinstance(fitted, AffineMap):
        return fitted.model_copy(update={"intercept": fitted.intercept + shift})
    return fitted.model_copy(update={"values": tuple(value + shift for value in fitted.values)})


def check_feature(config: RecapConfig, by: str) -> None:
    """Raise InputError unless `by` is a discrete feature with one code per row."""
    if by not in config.features.discrete:
        raise InputError(f"--by: unknown discrete feature {by!r}. {suggest(by, list(config.features.discrete))}")
    if not has_one_code(config, by):
        feature, one_code = config.features.discrete[by], "choose a feature with one code per row"
        table = config.features.table_of(by, feature)
        if feature.length > 1:
            raise InputError(f"--by: a row has several codes of {by!r}, a list of {feature.length} values; {one_code}")
        path = ".".join(map(str, config.features.path_of_table(table)))
        raise InputError(
            f"--by: a row has several codes of {by!r}, which is hashed {config.features.codes_per_value(table)} times "
            f"({path}.hash.hashes); train with 'hashes: 1', or {one_code}"
        )


def describe(fitted: FittedCalibration) -> list[str]:
    """Lines on what was not fitted as asked."""
    lines = [f"{task}: left alone ({reason})" for task, reason in fitted.left.items()]
    return lines + [f"{task}: {part.note}" for task, part in fitted.tasks.items() if part.note]
