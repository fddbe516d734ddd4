"""What the columns of the data are. A column holds a scalar a row, or a fixed-size list of `length` values."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer

from recap.config.base import BaseConfig, Check, KeyPath, Name, PositiveInt, Problems
from recap.config.discrete import CodeSpace, Discrete, Position, SharedCodes, SharedTable, Vocabulary, is_one_value
from recap.config.histories import HistoryColumns
from recap.text import suggest

Dtype = Literal["float32", "bfloat16", "float16", "uint8", "bool"]
"""What numbers may be held as until the model reads them as float32."""
MantissaBits = Annotated[int, Field(ge=1, le=23)]


class Column(BaseConfig):
    """A numeric column; in YAML a bare name stands for a scalar column of that name."""

    name: Name
    """Its name in the data."""
    length: PositiveInt = 1
    """Values a row holds; above 1 the column is a fixed-size list."""
    first: PositiveInt | None = None
    """How many values, from the first on, are read; none given: all."""
    mask: Name | None = None
    """NumPy file (.npy) with a number for each of those values; where it is 0, the value is left out. A model carries
    it."""
    of: Position | None = None
    """Where the value stands, if it is no column of its own but one of a list; `name` is then the feature's alone."""
    masked_mantissa_bits: MantissaBits | None = None
    """How many of the 23 bits of a float32's mantissa, the lowest, are set to 0."""
    dtype: Dtype = "float32"
    """What the values are held as until the model reads them: less memory, less precise. Columns of one role are held
    alike, as what is wide enough for all."""

    @property
    def read(self) -> int:
        """Values that are read of a row, before the mask."""
        return self.length if self.first is None else self.first

    def checks(self) -> tuple[Check, ...]:
        """More values than there are, and a mask of one."""
        return self._first_is_there, lambda: is_one_value(self.of, self.length), self._has_values_to_mask

    def _first_is_there(self) -> Problems:
        if self.first is not None and self.first > self.length:
            yield ("first",), f"{self.first} values of {self.length} cannot be; at most length is accepted"

    def _has_values_to_mask(self) -> Problems:
        if self.mask is not None and self.length == 1:
            yield ("mask",), "a single value cannot be masked; leave the column out, or say its length"


class VectorColumn(BaseConfig):
    """A pretrained vector; in YAML its bare length stands for it."""

    length: PositiveInt
    """Values a row holds."""
    masked_mantissa_bits: MantissaBits | None = None
    """As for a numeric column."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """What the values are held as until the model reads them: less memory, less precise."""


class CarriedColumn(BaseConfig):
    """A column that is carried to the predictions; in YAML a bare name stands for a column of that name."""

    name: Name
    """Its name there, and in the data."""
    of: Position | None = None
    """Where the value stands in the data, if it is no column of its own but one of a list."""


def _named(value: object) -> object:
    if not isinstance(value, str | dict | Column | CarriedColumn):
        raise ValueError("expected the name of a column, or a mapping with its name")
    return {"name": value} if isinstance(value, str) else value


def _of_length(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | dict | VectorColumn):
        raise ValueError("expected a whole number of values, or {length: …, dtype: …}")
    return {"length": value} if isinstance(value, int) else value


def _shortest(column: Column | CarriedColumn) -> str | dict[str, Any]:
    said = column.model_dump(mode="json", exclude_defaults=True)
    if isinstance(column, Column):
        said |= {"length": column.length}
    return column.name if column == type(column)(name=column.name) else said


def _shortest_vector(vector: VectorColumn) -> int | dict[str, Any]:
    said = vector.model_dump(mode="json", exclude_defaults=True)
    return vector.length if said.keys() == {"length"} else said


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

    continuous: Columns = []
    """Numbers of any magnitude; null and NaN are allowed."""
    binary: Columns = []
    """0/1 (or false/true) columns; null counts as 0."""
    discrete: dict[Name, Discrete] = {}
    """Categorical columns, each with an embedding of width `model.embeddings`."""
    vectors: Vectors = {}
    """Pretrained vectors: fixed-size lists of floats, name → length."""
    histories: dict[Name, HistoryColumns] = {}
    """Past events of a user, such as the ids of what was watched: lists of any length, read by `model.histories`."""
    ids: Carried = []
    """Columns carried from the input to the predictions, never fed to the model."""
    user: Name | None = None
    """Whose impression a row is: groups rows for grouped metrics, and is carried to the predictions."""
    timestamp: Name | None = None
    """When the impression was served; carried to the predictions."""

    def checks(self) -> tuple[Check, ...]:
        """Tables that are shared, and names of histories."""
        return self._tables_are_there, self._histories_have_plain_names

    def _tables_are_there(self) -> Problems:
        for path, column in self._coded():
            if not isinstance(column, SharedTable):
                continue
            owner = self.discrete.get(column.table)
            if isinstance(owner, SharedTable):
                why = f"{column.table!r} has no table of its own, it uses that of {owner.table!r}; name the owner"
                yield (*path, "table"), why if path != ("discrete", column.table) else "a feature cannot use its own"
            elif column.table not in self.discrete:
                owners = [name for name, each in self.discrete.items() if not isinstance(each, SharedTable)]
                text = f"{column.table!r} is no discrete feature with a table. {suggest(column.table, owners)}"
                yield (*path, "table"), text

    def _histories_have_plain_names(self) -> Problems:
        for name in self.histories:
            if "/" in name:
                yield ("histories", name), f"{name!r} holds '/', which parts a history from its columns; rename it"

    def _coded(self) -> list[tuple[KeyPath, object]]:
        """Everything that may have codes, with its place."""
        found: list[tuple[KeyPath, object]] = [(("discrete", name), column) for name, column in self.discrete.items()]
        for name, history in self.histories.items():
            found.append((("histories", name, "ids"), history.ids))
            found += [(("histories", name, "attributes", key), each) for key, each in history.attributes.items()]
        return found

    @property
    def code_spaces(self) -> dict[str, CodeSpace]:
        """Every code space by the name of its table: those of discrete features, then those of histories.

        Features and events that share a table have none of their own.
        """
        return {"/".join(map(str, path[1:])): column for path, column in self._coded() if isinstance(column, CodeSpace)}

    def place_of(self, table: str) -> KeyPath:
        """Where the code space of a table is declared, from the root of the file."""
        paths = {"/".join(map(str, path[1:])): path for path, _ in self._coded()}
        return ("features", *paths[table])

    def table_of(self, name: str, column: SharedCodes) -> str:
        """The name of the table in which the codes of `column` are rows; `name` is its own."""
        return column.table if isinstance(column, SharedTable) else name

    def own_table(self, name: str) -> str:
        """The table that is as wide as `model.embeddings` says under `name`: that of a feature, or a history's ids."""
        return name if name in self.discrete else f"{name}/ids"

    def codes_of_a_value(self, table: str) -> int:
        """Rows of a table that one value stands for: more than 1 where it is hashed more than once."""
        return self.code_spaces[table].codes

    @property
    def carried(self) -> list[CarriedColumn]:
        """Columns that predictions repeat from their input, in order, each once."""
        named = [CarriedColumn(name=name) for name in (self.user, self.timestamp) if name is not None]
        return list({column.name: column for column in (*named, *self.ids)}.values())

    @property
    def columns(self) -> list[str]:
        """Columns of the data that the model's inputs are made of, each once."""
        parts = {column.name: column.of for column in (*self.continuous, *self.binary)}
        parts |= {name: discrete.of for name, discrete in self.discrete.items() if not isinstance(discrete, Vocabulary)}
        plain = [name for name in self.inputs if name not in self.histories]
        named = [(parts.get(name), name) for name in plain]
        events = [column for history in self.histories.values() for column in history.columns]
        return list(dict.fromkeys([*(name if of is None else of.column for of, name in named), *events]))

    @property
    def inputs(self) -> list[str]:
        """What the model reads, in the order of its input."""
        numeric = [column.name for column in (*self.continuous, *self.binary)]
        return [*numeric, *self.discrete, *self.vectors, *self.histories]
