"""The base of all sections of the published form: groups of fields of which one is set, and refused fields."""

from dataclasses import dataclass
from typing import Any, ClassVar

from recap.config.base import BaseConfig, Check, Problems


@dataclass(frozen=True)
class Refused:
    """Marks a field that is refused if it differs from its default, with the reason."""

    reason: str


Unread = Any
"""The type of a section that is refused, whatever it contains."""


class PublishedSection(BaseConfig):
    """A section of the published form."""

    one_of: ClassVar[tuple[tuple[str, ...], ...]] = ()
    """Groups of fields, exactly one of which must be set."""

    def checks(self) -> tuple[Check, ...]:
        """Check `one_of`, refused fields and `problems`."""
        return self._groups_of_one, self._refusals, self.problems

    def problems(self) -> Problems:
        """Problems of this kind of section; override it."""
        yield from ()

    def _groups_of_one(self) -> Problems:
        for group in self.one_of:
            fields = [name for name in group if getattr(self, name) is not None]
            if len(fields) != 1:
                yield (), f"exactly one of {', '.join(group)} must be set; found {' and '.join(fields) or 'none'}"

    def _refusals(self) -> Problems:
        for name, field in type(self).model_fields.items():
            for mark in field.metadata:
                if isinstance(mark, Refused) and getattr(self, name) not in (field.default, []):
                    yield (name,), mark.reason
