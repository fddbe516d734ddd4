"""Strata: the rows of a split whose metrics are reported separately."""

from typing import Annotated

from pydantic import BeforeValidator

from recap.config.base import BaseConfig, Name


def _code_or_string(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError("expected a whole number or text")
    return value


class StratumConfig(BaseConfig):
    """The rows with one value of a discrete feature, whose metrics are reported separately."""

    feature: Name
    """A discrete feature with one code per row, not hashed; its embedding may have width 0."""
    value: Annotated[int | str, BeforeValidator(_code_or_string)]
    """The value that selects rows: an integer code, or an entry of the vocabulary as a string."""
