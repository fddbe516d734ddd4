"""What several checks of a whole configuration ask."""

from typing import TYPE_CHECKING

from recap.text import suggest

if TYPE_CHECKING:
    from recap.config.recap import RecapConfig


def is_position(config: "RecapConfig", name: str) -> bool:
    """Whether a discrete feature is the position, which has no table among the embeddings."""
    debias = config.model.position_debias
    return debias is not None and debias.feature == name


def unknown(name: str, what: str, known: list[str]) -> str:
    """What is said of a name that nothing has."""
    return f"{name!r} is no {what} of this configuration. {suggest(name, known)}"
