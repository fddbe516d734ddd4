"""Histories: which columns hold the past events of a user, and the networks that read them."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from recap.config.base import BaseConfig, Check, Name, PositiveInt, Problems
from recap.config.discrete import (
    ONE_OF,
    HashSpace,
    IntegerSpace,
    SharedTable,
    VocabularySpace,
    code_kind,
    kind_of,
    kinds_meant,
)
from recap.config.network import DropoutConfig


class _Events(BaseConfig):
    """A list column with a value for each event of a row."""

    column: Name
    """The list column in the data: the oldest event first, as many as there are."""


class IntegerEvents(IntegerSpace, _Events):
    """A list of integer codes 0 … size - 1; null and other codes share one unknown bucket."""


class VocabularyEvents(VocabularySpace, _Events):
    """A list of strings; those missing from the vocabulary share one unknown bucket with null."""


class HashedEvents(HashSpace, _Events):
    """A list of integers or strings of any value, hashed; null is an unknown bucket of its own."""


class SharedEvents(SharedTable, _Events):
    """A list of the same kind of values as a discrete feature has, whose codes and embedding table it uses."""


class NumberEvents(_Events):
    """A list of numbers of any magnitude; what is null or not finite counts as 0."""


def _attribute_kind(value: Any) -> str | None:
    if not isinstance(value, dict):
        return kind_of(value) or "numbers"
    kinds = kinds_meant(value)
    return None if len(kinds) > 1 else kinds[0] if kinds else "numbers"


EventIds = Annotated[
    Annotated[IntegerEvents, Tag("integer codes")]
    | Annotated[VocabularyEvents, Tag("a vocabulary")]
    | Annotated[HashedEvents, Tag("a hash")]
    | Annotated[SharedEvents, Tag("a shared table")],
    Discriminator(code_kind, custom_error_type="one_of", custom_error_message=ONE_OF),
]
EventAttribute = Annotated[
    Annotated[IntegerEvents, Tag("integer codes")]
    | Annotated[VocabularyEvents, Tag("a vocabulary")]
    | Annotated[HashedEvents, Tag("a hash")]
    | Annotated[SharedEvents, Tag("a shared table")]
    | Annotated[NumberEvents, Tag("numbers")],
    Discriminator(
        _attribute_kind,
        custom_error_type="one_of",
        custom_error_message="at most one of size, vocabulary, hash and table may be set; numbers have none",
    ),
]


class HistoryColumns(BaseConfig):
    """Past events: a list of ids in each row, and lists of as many attributes of the same events."""

    ids: EventIds
    """What each event was about. Null in place of the list is an empty history."""
    attributes: dict[Name, EventAttribute] = {}
    """What else is known of each event, such as what was done, or how long ago."""
    max_length: PositiveInt = 50
    """Events that are read of a row, at most."""
    keep: Literal["last", "first"] = "last"
    """Which of more events are read: the last ones, which are the newest, or the first."""

    @property
    def columns(self) -> list[str]:
        """The columns of the data it is made of."""
        return [self.ids.column, *(attribute.column for attribute in self.attributes.values())]


class PoolingConfig(BaseConfig):
    """The vectors of the events, pooled; zeros where there is none."""

    kind: Literal["pooling"]
    mode: Literal["mean", "sum", "last"] = "mean"
    """Their mean, their sum, or the one of the newest event."""


class DinConfig(BaseConfig):
    """Deep Interest Network (arXiv:1706.06978): a sum of the events, each weighed by what it says of the candidate."""

    kind: Literal["din"]
    target: Name
    """The discrete feature that is the candidate; its embedding table is that of the history's ids."""
    layer_sizes: list[PositiveInt] = [36]
    """Hidden layers of the activation unit, each followed by ReLU, which weighs an event h for a candidate t by
    [h, t, h - t, h · t]."""
    normalize: bool = False
    """Whether weights go through a softmax; as in the paper they do not, so their sum tells how strong an interest
    is."""


class TransformerConfig(BaseConfig):
    """A causal transformer over the events and, as the last token, the candidate, whose output it gives."""

    kind: Literal["transformer"]
    target: Name
    """The discrete feature that is the candidate; its embedding table is that of the history's ids."""
    width: PositiveInt = 64
    """Width of tokens and of the output."""
    num_layers: PositiveInt = 2
    """Blocks of attention and a feed-forward network, each behind a LayerNorm."""
    num_heads: PositiveInt = 2
    """Heads of each attention; they part the width."""
    dropout: DropoutConfig | None = None
    """Of what each attention and each feed-forward network adds; its `rates` are of the blocks; none given: none."""

    def checks(self) -> tuple[Check, ...]:
        """A width that heads cannot part, and rates for other blocks than there are."""
        return self._heads_part_the_width, self._a_rate_a_block

    def _a_rate_a_block(self) -> Problems:
        rates = self.dropout.rates if self.dropout is not None else None
        if rates is not None and len(rates) != self.num_layers:
            yield ("dropout", "rates"), f"must hold one rate for every block, {self.num_layers}; found {len(rates)}"

    def _heads_part_the_width(self) -> Problems:
        if self.width % self.num_heads:
            yield ("num_heads",), f"{self.num_heads} heads cannot part a width of {self.width}; take a divisor of it"


HistoryEncoderConfig = Annotated[PoolingConfig | DinConfig | TransformerConfig, Field(discriminator="kind")]


class HistoryModelConfig(BaseConfig):
    """What becomes of one history."""

    encoder: HistoryEncoderConfig
    """The network that makes one vector of the events of a row."""
