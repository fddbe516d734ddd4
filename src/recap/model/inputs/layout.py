"""`InputLayout`: what the columns of a network's input are."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise


@dataclass(frozen=True)
class InputLayout:
    """The columns of [B, width]: numbers first, then embeddings end to end."""

    numbers: int
    """Columns that are not embeddings: featurized numbers, vectors, the position, histories, outputs of a network."""
    embeddings: Sequence[int] = ()
    """Width of each embedding, in order."""
    names: Sequence[str] = ()
    """The feature of each embedding."""

    @classmethod
    def of_numbers(cls, width: int) -> "InputLayout":
        """`width` columns without embeddings, such as the output of another network."""
        return cls(width)

    @property
    def width(self) -> int:
        """The number of columns."""
        return self.numbers + sum(self.embeddings)

    def parts(self, count: int) -> "tuple[InputLayout, list[list[int]]]":
        """The layout of all numbers and one of `count` equal parts of every embedding, and the columns of each part."""
        part = InputLayout(self.numbers, [width // count for width in self.embeddings], self.names)
        starts = list(accumulate(self.embeddings, initial=self.numbers))
        columns = [
            [*range(self.numbers)]
            + [
                start + number * width + column
                for start, width in zip(starts, part.embeddings, strict=False)
                for column in range(width)
            ]
            for number in range(count)
        ]
        return part, columns

    def columns_of(self, features: Collection[str]) -> list[slice]:
        """The columns of each embedding of `features`, in order."""
        ends = pairwise(accumulate(self.embeddings, initial=self.numbers))
        return [slice(*end) for name, end in zip(self.names, ends, strict=True) if name in features]
