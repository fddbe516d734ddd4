"""`InputLayout`: what the columns of a network's input are."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class InputLayout:
    """The columns of [B, width]: numbers first, then embeddings end to end."""

    numbers: int
    """Columns that are not embeddings: featurized numbers, vectors, the position, histories, outputs of a network."""
    embeddings: Sequence[int] = ()
    """Width of each embedding, in order."""

    @classmethod
    def of_numbers(cls, width: int) -> "InputLayout":
        """`width` columns without embeddings, such as the output of another network."""
        return cls(width)

    @property
    def width(self) -> int:
        """The number of columns."""
        return self.numbers + sum(self.embeddings)
