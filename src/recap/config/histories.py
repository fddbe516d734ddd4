"""Histories: the columns of a user's past events, and the networks that encode them."""

from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from recap.config.base import BaseConfig, Check, Name, PositiveInt, Problems
from recap.config.discrete import (
    ONE_OF,
    HashSpace,
    IntegerSpace,
    SharedTable,
    VocabularySpace,
    ZeroCollisionSpace,
    code_kind,
    kind_of,
    stated_kinds,
)
from recap.config.network import DropoutConfig

MAX_EVENTS = 1 << 16
"""The largest `max_length`: a batch holds as many events for each row."""


class _Events(BaseConfig):
    """A list column with one value per event."""

    column: Name
    """The list column in the data, of any length, with the oldest event first."""


class IntegerEvents(IntegerSpace, _Events):
    """A list of integer codes 0 … size - 1; null and all other codes share one bucket for unknown values."""


class VocabularyEvents(VocabularySpace, _Events):
    """A list of strings or integers from a vocabulary; null and all other values share one bucket for unknown
    values."""


class HashedEvents(HashSpace, _Events):
    """A list of any integers or strings, hashed; null has its own bucket."""


class ZeroCollisionEvents(ZeroCollisionSpace, _Events):
    """A list of any integers or strings, of which frequent ones have rows of their own; null and all others share
    one."""


class SharedEvents(SharedTable, _Events):
    """A list that shares the codes and the embedding table of a discrete feature."""


class NumberEvents(_Events):
    """A list of numbers of any magnitude; null and non-finite numbers count as 0."""


def _attribute_kind(value: Any) -> str | None:
    if not isinstance(value, dict):
        return kind_of(value) or "numbers"
    kinds = stated_kinds(value)
    if len(kinds) > 1:
        return None
    return kinds[0] if kinds else "numbers"


EventIds = Annotated[
    Annotated[IntegerEvents, Tag("integer codes")]
    | Annotated[VocabularyEvents, Tag("a vocabulary")]
    | Annotated[HashedEvents, Tag("a hash")]
    | Annotated[ZeroCollisionEvents, Tag("a zero-collision hash")]
    | Annotated[SharedEvents, Tag("a shared table")],
    Discriminator(code_kind, custom_error_type="one_of", custom_error_message=ONE_OF),
]
EventAttribute = Annotated[
    Annotated[IntegerEvents, Tag("integer codes")]
    | Annotated[VocabularyEvents, Tag("a vocabulary")]
    | Annotated[HashedEvents, Tag("a hash")]
    | Annotated[ZeroCollisionEvents, Tag("a zero-collision hash")]
    | Annotated[SharedEvents, Tag("a shared table")]
    | Annotated[NumberEvents, Tag("numbers")],
    Discriminator(
        _attribute_kind,
        custom_error_type="one_of",
        custom_error_message="needs at most one of size, vocabulary, hash, zero_collision and table",
    ),
]


class HistoryColumns(BaseConfig):
    """Past events: in each row a list of ids, and lists of attributes of the same events."""

    ids: EventIds
    """The id of the item of each event. A null list is an empty history."""
    attributes: dict[Name, EventAttribute] = {}
    """Other properties of each event, such as its action or age: name → column."""
    max_length: Annotated[int, Field(gt=0, le=MAX_EVENTS)] = 50
    """Maximum number of events read per row; memory of every batch grows with it."""
    keep: Literal["last", "first"] = "last"
    """Which events of a longer list to read: the last (newest) or the first."""

    @property
    def columns(self) -> list[str]:
        """Its columns in the data."""
        return [self.ids.column, *(attribute.column for attribute in self.attributes.values())]


class PoolingConfig(BaseConfig):
    """Pools the vectors of the events; an empty history gives zeros."""

    kind: Literal["pooling"]
    mode: Literal["mean", "sum", "last"] = "mean"
    """The mean or sum of the vectors, or that of the newest event."""


class DinConfig(BaseConfig):
    """Deep Interest Network (arXiv:1706.06978): a sum of the events, each weighted by its relevance to the
    candidate."""

    kind: Literal["din"]
    target: Name
    """The discrete feature of the candidate; it must share its embedding table with the history's ids."""
    layer_sizes: list[PositiveInt] = [36]
    """Hidden layers, Linear → ReLU each, of the network that weights an event h for a candidate t; it reads
    [h, t, h − t, h · t]."""
    normalize: bool = False
    """Whether to normalize weights by a softmax; the paper does not, so that their sum is the strength of the
    interest."""


class _BlocksConfig(BaseConfig):
    """Blocks over tokens, of which the events come first; `kind` comes first."""

    kind: str
    width: PositiveInt = 64
    """Width of the tokens."""
    num_layers: PositiveInt = 2
    """Number of blocks."""
    num_heads: PositiveInt = 2
    """Heads of each attention; must divide `width`."""
    dropout: DropoutConfig | None = None
    """Dropout of what a block adds to a token; `rates` has one entry per block. Optional; off by default."""

    def checks(self) -> tuple[Check, ...]:
        return self._heads_divide_width, self._rates_fit

    def _rates_fit(self) -> Problems:
        rates = self.dropout.rates if self.dropout is not None else None
        if rates is not None and len(rates) != self.num_layers:
            yield ("dropout", "rates"), f"must have one rate per block, {self.num_layers}; found {len(rates)}"

    def _heads_divide_width(self) -> Problems:
        if self.width % self.num_heads:
            yield ("num_heads",), f"must divide width, {self.width}; found {self.num_heads}"


class TransformerConfig(_BlocksConfig):
    """A causal transformer over the events and then the candidate; the output is the candidate's."""

    kind: Literal["transformer"]
    target: Name
    """The discrete feature of the candidate; it must share its embedding table with the history's ids."""


class HstuConfig(_BlocksConfig):
    """Hierarchical sequential transduction units (arXiv:2402.17152) over the events and then the candidate; the output
    is the candidate's."""

    kind: Literal["hstu"]
    target: Name
    """The discrete feature of the candidate; it must share its embedding table with the history's ids."""
    ages: Name | None = None
    """The attribute that is the age of each event, a number: seconds from the event to the impression. Attention then
    depends on the time between events too. Optional; default: it depends on their order only."""
    interleave: Name | None = None
    """The attribute, such as the action, that is a token of its own after that of its event; there are twice as many
    tokens then. Optional; default: all attributes are added to their event."""


class OneTransConfig(_BlocksConfig):
    """OneTrans (arXiv:2510.26104): a transformer over the events and then tokens made of all other inputs of the row,
    each with weights of its own; the output is theirs."""

    kind: Literal["one_trans"]
    num_tokens: PositiveInt = 8
    """Number of tokens that the other inputs become; the output is `num_tokens` times as wide as a token."""
    retained_events: list[PositiveInt] | None = None
    """Number of the newest events that pass on after each block but the last, which passes on none. Optional; default:
    from `max_length` towards `num_tokens` in equal steps."""

    def checks(self) -> tuple[Check, ...]:
        return *super().checks(), self._retained_events_fit

    def _retained_events_fit(self) -> Problems:
        retained = self.retained_events
        if retained is None:
            return
        if len(retained) != self.num_layers - 1:
            text = f"must have one number for each block but the last, {self.num_layers - 1}; found {len(retained)}"
            yield ("retained_events",), text
        for index, (before, after) in enumerate(pairwise(retained), start=1):
            if after > before:
                yield ("retained_events", index), f"must be at most the number before it, {before}; found {after}"

    def retained(self, max_length: int) -> list[int]:
        """`retained_events` of a history of `max_length` events, with its default."""
        if self.retained_events is not None:
            return [min(count, max_length) for count in self.retained_events]
        last = min(self.num_tokens, max_length)
        steps = range(1, self.num_layers)
        return [max_length - (max_length - last) * step // self.num_layers for step in steps]


HistoryEncoderConfig = Annotated[
    PoolingConfig | DinConfig | TransformerConfig | HstuConfig | OneTransConfig, Field(discriminator="kind")
]


def target_of(encoder: HistoryEncoderConfig) -> str | None:
    """The discrete feature of the candidate that an encoder reads, if it reads one."""
    return None if isinstance(encoder, PoolingConfig | OneTransConfig) else encoder.target


class HistoryModelConfig(BaseConfig):
    """How one history is encoded."""

    encoder: HistoryEncoderConfig
    """The network that turns the events of a row into one vector."""
