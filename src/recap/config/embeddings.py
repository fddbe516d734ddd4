"""Embedding tables: how wide they are, and what their rows start from."""

from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer

from recap.config.base import BaseConfig, Disagreements, Name, NonNegativeInt


class PretrainedConfig(BaseConfig):
    """Rows of a table that were learned elsewhere. A new run starts from them, and learns on."""

    path: Name
    """Parquet file, or a glob of such files, with a row for each value; a URL may stand here too."""
    id: Name = "id"
    """Its column of values: codes, or what the vocabulary lists. Values that the table does not know are passed over,
    and rows of the table that are not among them start as they would without."""
    vector: Name = "vector"
    """Its column of lists of numbers, as long as the table is wide."""


class EmbeddingConfig(BaseConfig):
    """An embedding table; in YAML its width alone may stand for it."""

    width: NonNegativeInt
    """Numbers in a row; 0 leaves the feature out."""
    pretrained: PretrainedConfig | None = None
    """Rows that were learned elsewhere; none given: all rows start close to zero."""

    def checks(self) -> tuple[Disagreements, ...]:
        """Rows for a table that is not there."""
        return (self._has_rows(),)

    def _has_rows(self) -> Disagreements:
        if self.pretrained is not None and not self.width:
            yield ("pretrained",), "width 0 leaves the feature out, so there is no table; give it a width"


def _of_width(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | dict | EmbeddingConfig):
        raise ValueError("expected a whole number, the width, or {width: …, pretrained: …}")
    return {"width": value} if isinstance(value, int) else value


def _shortest(table: EmbeddingConfig) -> int | dict[str, Any]:
    return table.width if table.pretrained is None else table.model_dump(mode="json", exclude_defaults=True)


Embedding = Annotated[
    EmbeddingConfig,
    BeforeValidator(_of_width, json_schema_input_type=NonNegativeInt | EmbeddingConfig),
    PlainSerializer(_shortest, when_used="json"),
]
