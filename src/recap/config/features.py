"""The section `features`: the columns of the data. A column has one value per row, or a list of `length` values."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer

from recap.config.base import (
    BaseConfig,
    Check,
    FreeOnResume,
    KeyPath,
    Name,
    OrderMatters,
    PositiveInt,
    Problems,
    ShapesWeights,
)
from recap.config.discrete import (
    CodeSpace,
    Discrete,
    ListElement,
    SharedCodes,
    SharedTable,
    Vocabulary,
    element_problems,
)
from recap.config.histories import HistoryColumns
from recap.text import suggest

Dtype = Literal["float32", "bfloat16", "float16", "uint8", "bool"]
"""Types in which numbers may be stored until the model reads them as float32."""
MantissaBits = Annotated[int, Field(ge=1, le=23)]


class Column(BaseConfig):
    """A numeric column. In YAML, a name alone is a column of that name with one value per row."""

    name: Name
    """Name of the feature and, without `of`, of its column."""
    length: PositiveInt = 1
    """Values per row; above 1 the column is a list of fixed size."""
    first: PositiveInt | None = None
    """Number of leading values to read. Optional; default: all."""
    mask: Name | None = None
    """NumPy file (.npy) with a number for each value read; values where it is 0 are dropped. Model directories include
    it. Optional; off by default."""
    of: ListElement | None = None
    """The list element to read, for a feature without a column of its own. Optional; default: the column `name`."""
    masked_mantissa_bits: MantissaBits | None = None
    """Number of lowest bits, of the 23 mantissa bits of a float32, to set to 0. Optional; off by default."""
    dtype: Dtype = "float32"
    """The type in which values are stored until the model reads them; a smaller one saves memory and loses precision.
    Columns of a role share a type that is wide enough for all of them."""

    @property
    def read(self) -> int:
        """Values read per row, before the mask."""
        return self.length if self.first is None else self.first

    def checks(self) -> tuple[Check, ...]:
        return self._first_fits_length, lambda: element_problems(self.of, self.length), self._has_values_to_mask

    def _first_fits_length(self) -> Problems:
        if self.first is not None and self.first > self.length:
            yield ("first",), f"must be at most length, {self.length}; found {self.first}"

    def _has_values_to_mask(self) -> Problems:
        if self.mask is not None and self.length == 1:
            yield ("mask",), "needs a length above 1, found 1; set length, or remove mask"


class VectorColumn(BaseConfig):
    """A pretrained vector. In YAML, a number alone is its length."""

    length: PositiveInt
    """Values per row."""
    masked_mantissa_bits: MantissaBits | None = None
    """Number of lowest bits, of the 23 mantissa bits of a float32, to set to 0. Optional; off by default."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """The type in which values are stored until the model reads them; a smaller one saves memory and loses
    precision."""


class CarriedColumn(BaseConfig):
    """A column that is copied to the predictions. In YAML, a name alone is a column of that name."""

    name: Name
    """Name of the column in the predictions and, without `of`, in the data."""
    of: ListElement | None = None
    """The list element to read, if there is no column `name`. Optional; default: the column `name`."""


def _named(value: object) -> object:
    if not isinstance(value, str | dict | Column | CarriedColumn):
        raise ValueError("expected a column name, or a mapping with 'name'")
    return {"name": value} if isinstance(value, str) else value


def _of_length(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | dict | VectorColumn):
        raise ValueError("expected a length, or a mapping with 'length'")
    return {"length": value} if isinstance(value, int) else value


def _shortest(column: Column | CarriedColumn) -> str | dict[str, Any]:
    values = column.model_dump(mode="json", exclude_defaults=True)
    if isinstance(column, Column):
        values |= {"length": column.length}
    return column.name if column == type(column)(name=column.name) else values


def _shortest_vector(vector: VectorColumn) -> int | dict[str, Any]:
    values = vector.model_dump(mode="json", exclude_defaults=True)
    return vector.length if values.keys() == {"length"} else values


Columns = list[
    Annotated[
        Column,
        BeforeValidator(_named, json_schema_input_type=Name | Column),
        PlainSerializer(_shortest, when_used="json"),
    ]
]
Carried = list[
    Annotated[
        CarriedColumn,
        BeforeValidator(_named, json_schema_input_type=Name | CarriedColumn),
        PlainSerializer(_shortest, when_used="json"),
    ]
]
Vectors = dict[
    Name,
    Annotated[
        VectorColumn,
        BeforeValidator(_of_length, json_schema_input_type=PositiveInt | VectorColumn),
        PlainSerializer(_shortest_vector, when_used="json"),
    ],
]


class FeaturesConfig(BaseConfig):
    """The section `features`."""

    continuous: Annotated[Columns, ShapesWeights()] = []
    """Numeric columns of any magnitude; null and NaN are allowed."""
    binary: Annotated[Columns, ShapesWeights()] = []
    """Columns of 0/1 or false/true; null counts as 0."""
    discrete: Annotated[dict[Name, Discrete], ShapesWeights(), OrderMatters()] = {}
    """Categorical columns; `model.embeddings` gives the widths of their embeddings."""
    vectors: Annotated[Vectors, ShapesWeights(), OrderMatters()] = {}
    """Pretrained vectors, lists of floats of fixed size: column → length."""
    histories: Annotated[dict[Name, HistoryColumns], ShapesWeights(), OrderMatters()] = {}
    """Past events of a user, such as the ids of watched videos: lists of any length; `model.histories` encodes
    them."""
    ids: Carried = []
    """Columns to copy to the predictions; the model does not read them."""
    user: Name | None = None
    """Column of the user; groups rows for some metrics and losses, and is copied to the predictions. Optional;
    default: no column."""
    timestamp: Name | None = None
    """Column of the time when the impression was served; copied to the predictions. Optional; default: no column."""
    request: Annotated[Name | None, FreeOnResume()] = None
    """Column of the request whose results the rows are: one list that the user saw, which metrics rank. Training reads
    it if a loss has `group: request`. Optional; default: no column."""
    names: Annotated[dict[Name, Name], FreeOnResume()] = {}
    """Vector, or numeric column of several values → text file with a name for each of its values, one per line. Reports
    then show NAME[weekday], for example. Optional; default: NAME[0], NAME[1], …"""
    groups: Annotated[dict[Name, Annotated[list[Name], Field(min_length=1)]], FreeOnResume()] = {}
    """Features by name of their group, such as those that say the same: reports show the importance of a group as a
    whole. Optional; default: each feature alone."""
    max_unknown: Annotated[float | None, Field(ge=0, le=1), FreeOnResume()] = None
    """Largest share of the values of a feature that may be unknown, missing or not finite: above it, training,
    evaluation, prediction and `config check --data` stop with an error. Optional; default: an error only if none of
    the values that are present is known. 1 accepts everything."""

    def checks(self) -> tuple[Check, ...]:
        return (
            self._shared_tables_exist,
            self._histories_have_plain_names,
            self._names_are_of_lists,
            self._groups_are_of_features,
        )

    def _shared_tables_exist(self) -> Problems:
        for path, column in self._coded():
            if not isinstance(column, SharedTable):
                continue
            owner = self.discrete.get(column.table)
            if isinstance(owner, SharedTable):
                text = f"{column.table!r} shares the table of {owner.table!r}; write table: {owner.table}"
                is_itself = path == ("discrete", column.table)
                yield (*path, "table"), "a feature cannot share its own table" if is_itself else text
            elif column.table not in self.discrete:
                owners = [name for name, codes in self.discrete.items() if not isinstance(codes, SharedTable)]
                text = f"unknown table {column.table!r}. {suggest(column.table, owners)}"
                yield (*path, "table"), text

    def _histories_have_plain_names(self) -> Problems:
        for name in self.histories:
            if "/" in name:
                yield (
                    ("histories", name),
                    f"{name!r} contains '/', which is reserved; rename the history",
                )

    def _names_are_of_lists(self) -> Problems:
        lists = [column.name for column in (*self.continuous, *self.binary) if column.length > 1] + list(self.vectors)
        for name in self.names:
            if name not in lists:
                yield ("names", name), f"unknown vector or column of several values {name!r}. {suggest(name, lists)}"

    def _groups_are_of_features(self) -> Problems:
        groups: dict[str, str] = {}
        for group, members in self.groups.items():
            if group in self.inputs:
                yield ("groups", group), f"{group!r} is a feature; choose another name for the group"
            for index, name in enumerate(members):
                if name not in self.inputs:
                    yield ("groups", group, index), f"unknown feature {name!r}. {suggest(name, self.inputs)}"
                elif name in groups:
                    yield ("groups", group, index), f"{name!r} is in group {groups[name]!r} already"
                groups.setdefault(name, group)

    def _coded(self) -> list[tuple[KeyPath, object]]:
        """Every column that may have codes, with its path in this section."""
        coded: list[tuple[KeyPath, object]] = [(("discrete", name), column) for name, column in self.discrete.items()]
        for name, history in self.histories.items():
            coded.append((("histories", name, "ids"), history.ids))
            coded += [(("histories", name, "attributes", key), events) for key, events in history.attributes.items()]
        return coded

    @property
    def code_spaces(self) -> dict[str, CodeSpace]:
        """Name of a table → its code space: discrete features first, then histories.

        Columns that share the table of another are left out.
        """
        return {_table_name(path): column for path, column in self._coded() if isinstance(column, CodeSpace)}

    def path_of_table(self, table: str) -> KeyPath:
        """The key path of the code space of a table."""
        paths = {_table_name(path): path for path, _ in self._coded()}
        return ("features", *paths[table])

    def table_of(self, name: str, column: SharedCodes) -> str:
        """The table that the codes of `column` index; `name` if it has its own."""
        return column.table if isinstance(column, SharedTable) else name

    def own_table(self, name: str) -> str:
        """The table whose width is `model.embeddings[name]`: that of a feature, or of the ids of a history."""
        return name if name in self.discrete else f"{name}/ids"

    def width_name(self, table: str) -> str:
        """The name in `model.embeddings` of a table's width; tables of a history are as wide as that of its ids."""
        if table in self.discrete:
            return table
        history = table.partition("/")[0]
        ids = self.table_of(f"{history}/ids", self.histories[history].ids)
        return ids if ids in self.discrete else history

    def codes_per_value(self, table: str) -> int:
        """Rows of a table per value; above 1 if values are hashed several times."""
        return self.code_spaces[table].codes

    @property
    def carried(self) -> list[CarriedColumn]:
        """Columns copied to the predictions, in order, each once."""
        columns = [CarriedColumn(name=name) for name in (self.user, self.timestamp) if name is not None]
        return list({column.name: column for column in (*columns, *self.ids)}.values())

    @property
    def columns(self) -> list[str]:
        """Columns of the data that the model reads, each once."""
        parts = {column.name: column.of for column in (*self.continuous, *self.binary)}
        parts |= {name: discrete.of for name, discrete in self.discrete.items() if not isinstance(discrete, Vocabulary)}
        plain = [name for name in self.inputs if name not in self.histories]
        named = [(parts.get(name), name) for name in plain]
        events = [column for history in self.histories.values() for column in history.columns]
        return list(dict.fromkeys([*(name if of is None else of.column for of, name in named), *events]))

    @property
    def inputs(self) -> list[str]:
        """The features that the model reads, in the order of its input."""
        numeric = [column.name for column in (*self.continuous, *self.binary)]
        return [*numeric, *self.discrete, *self.vectors, *self.histories]


def _table_name(path: KeyPath) -> str:
    """The name of the table at a path in `features`: (discrete, NAME) → NAME, (histories, NAME, ids) → NAME/ids."""
    return "/".join(map(str, path[1:]))
