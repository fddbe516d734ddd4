"""The role of a feature column, guessed from its type, values and name."""

import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from recap.config.base import DEFAULT
from recap.config.file.starter import Columns, Guess
from recap.data.encoding.kinds import is_list, is_number, is_text
from recap.data.tools.guess.options import StatedColumns
from recap.data.tools.names import is_named, is_named_like_outcome, words

_MAX_CODES = 10_000_000
"""Rows of the largest embedding table that is proposed."""
_MAX_VOCABULARY = 200
"""Distinct strings up to which a vocabulary is written."""
_MIN_ROWS_PER_VALUE = 3
"""Rows that a value needs on average for its embedding to learn something."""
_MAX_EVENTS = 50
"""Values of a list that are read."""
_MAX_EXACT = 2**53
"""Float64 holds all integers up to it."""

_COUNT = re.compile("(count|number|num|len|length|age|size|view|like|follower|total|sum|rank)s?|days|hours")
_USER = re.compile("(user|viewer|member|customer|account|visitor)(_?id)?|uid")
_ITEM = re.compile("(item|post|video|movie|film|song|track|article|news|product|ad|creative|listing|document|doc)_?id")
_ID = re.compile("id|ids|uid|uuid|guid|sku|asin|isbn")
_TIME = re.compile("time|timestamp|ts|date|datetime|ms|at")
_INDEX = re.compile(r"__index_level_\d+__|Unnamed: \d+|")
_FILE_NAME = re.compile(r"\w[\w.-]*")


@dataclass
class Roles:
    """Collects columns by role."""

    stated: StatedColumns
    share: float
    """Sampled rows / all rows."""
    folder: str | None
    """Where vocabularies are written; None: nowhere, so strings are hashed."""
    columns: Columns = field(default_factory=Columns)
    vocabularies: dict[str, pa.Table] = field(default_factory=dict)
    """File → the values of a column (`value`) with their counts (`count`), the most frequent first."""

    def add(self, name: str, values: pa.Array) -> None:
        """Add a column from the sampled values, decoded."""
        present = values.drop_null()
        if name == self.stated.user or (self.stated.user is None and self._is_user(name)):
            self._add_user(name, values)
        elif name == self.stated.time:
            self._add_time(name, str(values.type))
        elif _INDEX.fullmatch(name):
            self._leave_out(name, "the index of a table, not a property of the row")
        elif name == DEFAULT or not name or "${" in name or "\0" in name:
            self._leave_out(name, "its name has a special meaning in a configuration; rename it")
        elif not len(present):
            self._leave_out(name, "null in every sampled row")
        elif is_list(values.type):
            self._add_list(name, present)
        elif pa.types.is_timestamp(values.type) or pa.types.is_date(values.type):
            self._add_time(name, str(values.type))
        elif is_text(values.type):
            self._add_text(name, values)
        elif is_number(values.type):
            self._add_number(name, values)
        else:
            self._leave_out(name, f"type {values.type} is not supported")

    @property
    def is_complete(self) -> bool:
        """Whether every row was sampled."""
        return self.share >= 1

    def drop(self, guess: Guess, role: list[Guess], why: str) -> None:
        """Leave out a column of a role."""
        role.remove(guess)
        self._leave_out(guess.name, why)
        if isinstance(guess.value, dict):
            self.vocabularies.pop(guess.value.get("vocabulary", ""), None)

    def _leave_out(self, name: str, why: str) -> None:
        self.columns.left_out.append(Guess(name, why))

    def _is_user(self, name: str) -> bool:
        return bool(_USER.fullmatch("_".join(words(name)))) and not self.columns.user

    def _add_user(self, name: str, values: pa.Array) -> None:
        kind = values.type
        whole = pa.types.is_integer(kind) or (is_number(kind) and _is_whole(values))
        if values.null_count or not (whole or is_text(kind)):
            why = "null in some rows" if values.null_count else "neither integers nor strings"
            self._leave_out(name, f"named like a user, but {why}; every row needs its user")
            return
        self.columns.user.append(Guess(name, "groups rows for metrics per user"))
        self._add_id(name, values, carried=False)

    def _add_id(self, name: str, values: pa.Array, *, carried: bool) -> None:
        """A hashed feature if its values repeat enough; `carried` also under `ids`."""
        distinct = self._distinct(values)
        shown = f"about {distinct:,} distinct ids" if self.share < 1 else f"{distinct:,} distinct ids"
        is_user = bool(self.columns.user) and self.columns.user[-1].name == name
        repeats = len(values) / self.share >= _MIN_ROWS_PER_VALUE * distinct
        if repeats:
            self.columns.discrete.append(Guess(name, shown, _hash(distinct)))
        elif is_user:
            self._leave_out(name, f"as a feature: {shown}, with too few rows each")
        if carried or not (repeats or is_user):
            self.columns.ids.append(Guess(name, shown))

    def _distinct(self, values: pa.Array) -> int:
        """Distinct values of all rows, estimated from the sample (Chao 1984)."""
        counts = pc.value_counts(values.drop_null()).field("counts").to_numpy()
        if self.share >= 1:
            return len(counts)
        once, twice = int((counts == 1).sum()), int((counts == 2).sum())
        return min(len(counts) + once * max(once - 1, 0) // (2 * (twice + 1)), int(len(values) / self.share))

    def _add_time(self, name: str, kind: str) -> None:
        if name != self.stated.time and (self.columns.timestamp or self.stated.time is not None):
            self._leave_out(name, "another time; a model can learn from an age or hour derived from it")
        else:
            self.columns.timestamp.append(Guess(name, f"{kind}; assumed to be when the impression was served"))

    def _add_text(self, name: str, texts: pa.Array) -> None:
        distinct = len(texts.drop_null().unique())
        if name == self.stated.item or _ID.fullmatch(words(name)[-1]):
            self._add_id(name, texts, carried=name == self.stated.item or self._is_item(name))
        elif is_named(name, _TIME) and _is_time(texts):
            self._add_time(name, "times as text")
        elif distinct == 1 and not texts.null_count:
            self._leave_out(name, f"always {texts[0].as_py()!r}")
        elif distinct > len(texts) // 2 > 50:
            self.columns.ids.append(Guess(name, f"{distinct:,} distinct strings in {len(texts):,} rows"))
        else:
            self.columns.discrete.append(Guess(name, f"{distinct:,} strings seen", self._strings(name, texts)))

    def _strings(self, name: str, texts: pa.Array) -> dict[str, Any]:
        """The codes of strings: a vocabulary for few of them, else a hash."""
        counted = pc.value_counts(texts.drop_null())
        if self.folder is None or len(counted) > _MAX_VOCABULARY or not _FILE_NAME.fullmatch(name):
            return _hash(self._distinct(texts))
        table = pa.table({"value": counted.field("values"), "count": counted.field("counts")})
        file = f"{self.folder}/{name}.parquet"
        self.vocabularies[file] = table.sort_by([("count", "descending"), ("value", "ascending")])
        return {"vocabulary": file}

    def _is_item(self, name: str) -> bool:
        return self.stated.item is None and bool(_ITEM.fullmatch("_".join(words(name))))

    def _add_number(self, name: str, values: pa.Array) -> None:
        def add(role: list[Guess], comment: str, value: Any = None) -> None:
            role.append(Guess(name, comment, value))

        present = _numbers(values)
        finite = present[np.isfinite(present)]
        distinct = np.unique(finite)
        low, high = (float(distinct[0]), float(distinct[-1])) if len(distinct) else (0.0, 0.0)
        whole = bool(len(finite)) and bool((finite == np.trunc(finite)).all())
        if name == self.stated.item or (whole and _ID.fullmatch(words(name)[-1])):
            if pa.types.is_floating(values.type) and max(abs(low), abs(high)) > _MAX_EXACT:
                self._leave_out(name, "ids as floats, which cannot hold such large ones exactly; store integers")
            else:
                self._add_id(name, values, carried=name == self.stated.item or self._is_item(name))
        elif len(distinct) <= 1:
            self._leave_out(name, f"always {low:g}" if len(distinct) else "never a finite number")
        elif set(distinct) <= {0.0, 1.0} and len(finite) == len(present):
            add(self.columns.binary, f"0 or 1; {finite.mean():.1%} are 1")
        elif is_named(name, _TIME) and 19_000_000 < low <= high < 22_000_000:
            self._leave_out(name, "a date in digits; a model can learn from an age or weekday derived from it")
        elif is_named(name, _TIME) and low > 1e8:
            self._add_time(name, "large numbers, named like a time")
        elif is_named_like_outcome(name):
            self._leave_out(name, "named like an outcome, which is known only after the impression")
        elif _counts_rows(present, whole=whole):
            self._leave_out(name, "counts the rows, so it is an index")
        elif whole and low >= 0 and high < 64 and not is_named(name, _COUNT):
            add(self.columns.discrete, f"{low:,.0f} to {high:,.0f} seen", {"size": int(high) + 1})
        else:
            missing = values.null_count / len(values)
            add(self.columns.continuous, f"{low:.4g} to {high:.4g}" + (f", {missing:.0%} null" if missing else ""))

    def _add_list(self, name: str, lists: pa.Array) -> None:
        lengths = pc.unique(pc.list_value_length(lists)).to_pylist()
        flat = lists.flatten()
        longest = max(lengths)
        if not len(flat.drop_null()):
            comment = "empty lists"
        elif pa.types.is_floating(flat.type) and not _is_finite(flat):
            comment = "lists of floats, some of them not finite"
        elif pa.types.is_floating(flat.type) and len(lengths) == 1:
            self.columns.vectors.append(Guess(name, f"lists of {longest} floats", longest))
            return
        elif pa.types.is_fixed_size_list(lists.type) and pa.types.is_integer(flat.type) and _are_codes(flat):
            high = pc.max(flat).as_py()
            value = {"size": high + 1, "length": longest}
            self.columns.discrete.append(Guess(name, f"lists of {longest} codes, up to {high:,} seen", value))
            return
        elif pa.types.is_integer(flat.type) or is_text(flat.type):
            codes = self._strings(name, flat) if is_text(flat.type) else _hash(self._distinct(flat))
            value = {"ids": {"column": name, **codes}, "max_length": min(longest, _MAX_EVENTS)}
            self.columns.histories.append(Guess(name, f"lists of up to {longest:,} values", value))
            return
        elif pa.types.is_floating(flat.type):
            comment = "lists of floats of varying length"
        else:
            comment = f"type {lists.type} is not supported"
        self._leave_out(name, comment)


def _numbers(values: pa.Array) -> npt.NDArray[np.float64]:
    numbers: npt.NDArray[np.float64] = values.drop_null().cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return numbers


def _is_whole(values: pa.Array) -> bool:
    numbers = _numbers(values)
    return bool(np.isfinite(numbers).all() and (numbers == np.trunc(numbers)).all())


def _is_finite(floats: pa.Array) -> bool:
    """Whether all values that are not null are finite as float32."""
    numbers = floats.drop_null().cast(pa.float32(), safe=False).to_numpy(zero_copy_only=False)
    return bool(np.isfinite(numbers).all())


def _are_codes(integers: pa.Array) -> bool:
    low, high = (bound.as_py() for bound in pc.min_max(integers).values())
    return bool(0 <= low <= high < _MAX_CODES)


def _counts_rows(numbers: npt.NDArray[np.float64], *, whole: bool) -> bool:
    """Whether values go up by 1 from row to row, except between chunks of the sample."""
    if not whole or len(numbers) < 20:
        return False
    steps = np.diff(numbers)
    return bool((steps == 1).mean() >= 0.99 and (steps > 0).all())


def _is_time(texts: pa.Array) -> bool:
    for kind in (pa.timestamp("us"), pa.timestamp("us", "UTC")):
        try:
            texts.cast(kind)
        except pa.ArrowException:
            continue
        return True
    return False


def _hash(distinct: int) -> dict[str, Any]:
    """A hash with room for twice the distinct values."""
    buckets = 100
    while buckets < min(2 * distinct, _MAX_CODES):
        buckets = buckets * 5 // 2 if str(buckets)[0] == "2" else buckets * 2  # 100, 200, 500, 1000, …
    return {"hash": {"buckets": buckets}}
