"""A warm start: weights of another model, some under other names, some left fresh."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from safetensors.torch import load_file

from recap.config.base import KeyPath, dotted
from recap.config.training import InitialWeightsConfig
from recap.errors import CheckpointError, ConfigError
from recap.model.directory import WEIGHTS, load_weights, weight_mismatches
from recap.model.names import is_below, nearest
from recap.model.ranker import Ranker

_PATH = ("training", "initial_weights")


def start_from(folder: Path, ranker: Ranker, said: InitialWeightsConfig | None) -> list[str]:
    """Give `ranker` weights of the model in `folder`; what a person should know of it.

    `said`: which go where; without it all must fit. Raises ConfigError for names that one of the models does not have,
    and CheckpointError that lists what is missing or of another shape; nothing is loaded then.
    """
    if said is None:
        try:
            load_weights(ranker, folder)
        except CheckpointError as error:
            hint = f"{dotted(_PATH)} can say what comes from which name (map), and what starts anew (fresh)"
            raise CheckpointError(f"{error}\n{hint}") from None
        return []
    there, here = load_file(folder / WEIGHTS), ranker.state_dict()
    if problems := list(_unknown(said, here.keys(), there.keys(), folder)):
        raise ConfigError("\n".join(problems))
    sources = {name: source for name in here if (source := _source(name, said)) is not None}
    taken = {name: there[source] for name, source in sources.items() if source in there}
    if shown := weight_mismatches(taken, {name: here[name] for name in sources}):
        raise CheckpointError(
            f"{folder / WEIGHTS}: does not give all weights of this model. Say in {dotted((*_PATH, 'map'))} which name "
            f"they have there, or in {dotted((*_PATH, 'fresh'))} that they, or the modules they are in, start anew:\n"
            f"  {shown}"
        )
    ranker.load_state_dict(taken, strict=False)
    left = sorted(there.keys() - set(sources.values()))
    lines = [f"{len(taken)} of {len(here)} weights are those of {folder}, the others start anew"]
    return lines + ([f"not taken from there: {', '.join(left)}"] if left else [])


def _source(name: str, said: InitialWeightsConfig) -> str | None:
    """What a weight is called in the old model; None if it starts anew."""
    told = {**said.map, **dict.fromkeys(said.fresh)}
    path = max((path for path in told if is_below(name, path)), key=len, default=None)
    if path is None:
        return name
    before = told[path]
    return before + name[len(path) :] if before is not None else None


def _unknown(said: InitialWeightsConfig, here: Iterable[str], there: Iterable[str], folder: Path) -> Iterator[str]:
    """Names that stand for no weight of this model, or of the old one, a line each."""
    named: list[tuple[KeyPath, str]] = [(("map", path), path) for path in said.map]
    named += [(("fresh", index), path) for index, path in enumerate(said.fresh)]
    for place, path in named:
        if not any(is_below(name, path) for name in here):
            yield f"{dotted((*_PATH, *place))}: {path!r} holds no weights of this model. {nearest(path, here)}"
    for path, before in said.map.items():
        if not any(is_below(name, before) for name in there):
            where = dotted((*_PATH, "map", path))
            yield f"{where}: {before!r} holds no weights of {folder}. {nearest(before, there)}"
