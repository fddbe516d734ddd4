"""What the columns of the data are. A column holds a scalar a row, or a fixed-size list of `length` values."""

from difflib import get_close_matches
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, PlainSerializer, Tag

from recap.config.base import BaseConfig, Disagreements, Name, NonNegativeInt, PositiveInt


class Position(BaseConfig):
    """One value of a list column."""

    column: Name
    """The list column in the data."""
    index: NonNegativeInt
    """Which of its values, counted from 0."""


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

    def checks(self) -> tuple[Disagreements, ...]:
        """More values than there are, and a mask of one."""
        return self._first_is_there(), _is_one_value(self.of, self.length), self._has_values_to_mask()

    def _first_is_there(self) -> Disagreements:
        if self.first is not None and self.first > self.length:
            yield ("first",), f"{self.first} values of {self.length} cannot be; at most length is accepted"

    def _has_values_to_mask(self) -> Disagreements:
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


def _is_one_value(of: Position | None, length: int) -> Disagreements:
    if of is not None and length > 1:
        yield ("length",), f"{length} values cannot be one of {of.column!r}; leave length or of out"


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


class IntegerCodes(BaseConfig):
    """A discrete column of integer codes 0 … size - 1; null and other codes share one unknown bucket."""

    size: PositiveInt
    """Number of codes."""
    length: PositiveInt = 1
    """Codes a row holds, each with its own embedding; above 1 the column is a fixed-size list."""
    of: Position | None = None
    """Where the code stands, if it is no column of its own but one of a list."""

    def checks(self) -> tuple[Disagreements, ...]:
        """One code of a list, and many."""
        return (_is_one_value(self.of, self.length),)


class Vocabulary(BaseConfig):
    """A discrete column of strings; those missing from the vocabulary share one unknown bucket with null."""

    vocabulary: Name
    """Parquet file whose first column lists the known strings, each once."""
    length: PositiveInt = 1
    """Strings a row holds, each with its own embedding; above 1 the column is a fixed-size list."""


def _discrete_kind(value: Any) -> str | None:
    """Which of the two is meant, by the one key that only it has, misspelt or not."""
    if isinstance(value, IntegerCodes | Vocabulary) or not isinstance(value, dict):
        return "a vocabulary" if isinstance(value, Vocabulary) else "integer codes"
    keys = [str(key) for key in value if key not in ("length", "of")]
    meant = {"integer codes": get_close_matches("size", keys), "a vocabulary": get_close_matches("vocabulary", keys)}
    kinds = [kind for kind, near in meant.items() if near]
    return kinds[0] if len(kinds) == 1 else None


Discrete = Annotated[
    Annotated[IntegerCodes, Tag("integer codes")] | Annotated[Vocabulary, Tag("a vocabulary")],
    Discriminator(
        _discrete_kind,
        custom_error_type="one_of",
        custom_error_message="exactly one of size and vocabulary must be set",
    ),
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
    ids: Carried = []
    """Columns carried from the input to the predictions, never fed to the model."""
    user: Name | None = None
    """Whose impression a row is: groups rows for grouped metrics, and is carried to the predictions."""
    timestamp: Name | None = None
    """When the impression was served; carried to the predictions."""

    @property
    def carried(self) -> list[CarriedColumn]:
        """Columns that predictions repeat from their input, in order, each once."""
        named = [CarriedColumn(name=name) for name in (self.user, self.timestamp) if name is not None]
        return list({column.name: column for column in (*named, *self.ids)}.values())

    @property
    def columns(self) -> list[str]:
        """Columns of the data that the model's inputs are made of, each once."""
        parts = {column.name: column.of for column in (*self.continuous, *self.binary)}
        parts |= {name: discrete.of for name, discrete in self.discrete.items() if isinstance(discrete, IntegerCodes)}
        named = [(parts.get(name), name) for name in self.inputs]
        return list(dict.fromkeys(name if of is None else of.column for of, name in named))

    @property
    def inputs(self) -> list[str]:
        """What the model reads, in the order of its input."""
        numeric = [column.name for column in (*self.continuous, *self.binary)]
        return [*numeric, *self.discrete, *self.vectors]
