"""What every section of the published form shares: groups of one, and fields that cannot be taken over."""

from dataclasses import dataclass
from typing import Any, ClassVar

from recap.config.base import BaseConfig, Problems


@dataclass(frozen=True)
class Refused:
    """Marks a field whose every value but the default is refused, and says why."""

    why: str


Unread = Any
"""A section that is refused whole, whatever it holds."""


class PublishedSection(BaseConfig):
    """A section of the published form."""

    one_of: ClassVar[tuple[tuple[str, ...], ...]] = ()
    """Groups of which exactly one field is set."""

    def checks(self) -> tuple[Problems, ...]:
        """Groups of one, what is refused, and `problems`."""
        return self._groups_of_one(), self._refusals(), self.problems()

    def problems(self) -> Problems:
        """What else cannot be."""
        yield from ()

    def _groups_of_one(self) -> Problems:
        for group in self.one_of:
            given = [name for name in group if getattr(self, name) is not None]
            if len(given) != 1:
                yield (), f"exactly one of {', '.join(group)} must be set; found {' and '.join(given) or 'none'}"

    def _refusals(self) -> Problems:
        for name, field in type(self).model_fields.items():
            for mark in field.metadata:
                if isinstance(mark, Refused) and getattr(self, name) not in (field.default, []):
                    yield (name,), mark.why
