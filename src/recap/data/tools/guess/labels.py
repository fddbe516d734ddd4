"""Labels: columns that are named like an engagement, and those that the user names."""

import re
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recap.config.file.starter import Label
from recap.data.encoding.kinds import is_number, is_text
from recap.data.tools.guess.options import StatedLabel
from recap.data.tools.names import is_named
from recap.errors import DataError
from recap.text import shorten

_ENGAGEMENT = re.compile(
    "(label|target|engage|click|like|fav|favou?rite|share|reply|replie|retweet|repost|follow|comment|forward|view|watch|"
    "purchase|buy|bought|order|convert|conversion|install|bookmark|save|report|hate|dislike|hide|hidden|block|mute|"
    "negative|skip|profile)(d|ed|s|ment)?"
)
_AGAINST = re.compile("(report|hate|dislike|hide|hidden|block|mute|negative|skip)(d|ed)?")

Numbers = npt.NDArray[np.float64]


def label_numbers(values: pa.Array) -> Numbers:
    """The values as numbers [rows], NaN where missing."""
    numbers: Numbers = values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return numbers


def looks_like_label(name: str, values: pa.Array) -> bool:
    """Whether a column is named like an engagement and holds two or three of −1, 0 and 1."""
    if not (is_named(name, _ENGAGEMENT) and is_number(values.type)):
        return False
    numbers = label_numbers(values)
    distinct = set(np.unique(numbers[np.isfinite(numbers)]))
    return len(distinct) > 1 and distinct <= {-1.0, 0.0, 1.0}


def guessed_label(name: str, numbers: Numbers) -> Label | None:
    """The label of a column that looks like one; None if a value is not 0, 1 or missing."""
    known = numbers[~np.isnan(numbers)]
    if not np.isin(known, (0, 1)).all():
        return None
    return _binary(name, numbers, "0 or 1, named like an engagement")


def stated_label(file: str, stated: StatedLabel, values: pa.Array) -> tuple[Label, Numbers]:
    """A label named by the user, and its values [rows]. Raises DataError if the values do not fit its kind."""
    where = f"{file}: column {stated.column!r}"
    if not is_number(values.type):
        raise DataError(f"{where}: holds {_shown(values)}; {_remedy(stated, values)}")
    numbers = label_numbers(values)
    known = numbers[~np.isnan(numbers)]
    if np.isinf(known).any():
        raise DataError(f"{where}: holds infinite numbers; a label is a finite number or null")
    if stated.at_least is not None:
        reached = np.where(np.isnan(numbers), np.nan, (numbers >= stated.at_least).astype(np.float64))
        label = _binary(stated.task, reached, f"1 if {stated.column} is {stated.at_least:g} or more")
        numbers = reached
        at_least = stated.at_least
        data = {"column": stated.column, "at_least": int(at_least) if at_least.is_integer() else at_least}
        label = Label(**(vars(label) | {"data": data}))
    elif stated.kind == "regression":
        label = _regression(stated.task, known)
    else:
        if not np.isin(known, (0, 1)).all():
            span = f"{known.min():g} to {known.max():g}"
            raise DataError(
                f"{where}: holds {span}, but a label is 0, 1 or null; write --label {stated.column}:at_least=NUMBER "
                f"for a task that is 1 from that number on, or --label {stated.column}:regression to predict the number"
            )
        label = _binary(stated.task, numbers, "0 or 1")
    distinct = len(np.unique(numbers[~np.isnan(numbers)]))
    if distinct < 2:
        raise DataError(f"{where}: every row has the same label; a task needs two")
    return label, numbers


def _shown(values: pa.Array) -> str:
    texts = values.drop_null().unique().slice(0, 3).to_pylist() if is_text(values.type) else []
    return f"strings such as {shorten(', '.join(map(repr, texts)))}" if texts else str(values.type)


def _remedy(stated: StatedLabel, values: pa.Array) -> str:
    kinds = "a label is 0, 1 or null"
    texts = sorted(str(text) for text in values.drop_null().unique().slice(0, 3).to_pylist())
    if is_text(values.type) and len(texts) == 2:
        return f"{kinds}. Store {texts[0]!r} and {texts[1]!r} as 0 and 1"
    return f"{kinds}, or with :regression a number"


def against(name: str) -> bool:
    """Whether a task is named like something that counts against an item."""
    return is_named(name, _AGAINST)


def _binary(name: str, numbers: Numbers, comment: str) -> Label:
    known = numbers[~np.isnan(numbers)]
    rate, missing = float(known.mean()) if len(known) else 0.0, 1 - len(known) / len(numbers)
    weight = (-1 if against(name) else 1) * float(f"{1 / rate:.2g}") if rate else 0.0
    comment += f"; {rate:.2%} are 1" + (f", {missing:.0%} missing" if missing else "")
    return Label(name, comment + ("; counts against" if against(name) else ""), weight)


def _regression(name: str, known: Numbers) -> Label:
    mean, deviation = (float(f"{number:.3g}") for number in (known.mean(), known.std()))
    task: dict[str, Any] = {"objective": {"kind": "regression"}, "affine_map": {"scale": deviation}}
    if deviation:
        task["loss_weight"] = float(f"{1 / deviation**2:.3g}")
    weight = float(f"{1 / mean:.2g}") if mean > 0 else 0.0
    return Label(name, f"a number; mean {mean:g}, standard deviation {deviation:g}", weight, task)
