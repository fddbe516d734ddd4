"""A warm start: loads the weights of another model; weights may be renamed or start fresh."""

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


def start_from(folder: Path, ranker: Ranker, config: InitialWeightsConfig | None) -> list[str]:
    """Load weights of the model in `folder` into `ranker`; return messages for the user.

    `config` maps names between the models; without it all weights must fit. Raises ConfigError for unknown names, and
    CheckpointError, which lists weights that are missing or have another shape; both load nothing.
    """
    if config is None:
        try:
            load_weights(ranker, folder)
        except CheckpointError as error:
            hint = f"{dotted(_PATH)} can map names of the old model (map) and let weights start fresh (fresh)"
            raise CheckpointError(f"{error}\n{hint}") from None
        return []
    old, new = load_file(folder / WEIGHTS), ranker.state_dict()
    if problems := list(_unknown(config, new.keys(), old.keys(), folder)):
        raise ConfigError("\n".join(problems))
    sources = {name: source for name in new if (source := _source(name, config)) is not None}
    taken = {name: old[source] for name, source in sources.items() if source in old}
    if shown := weight_mismatches(taken, {name: new[name] for name in sources}):
        raise CheckpointError(
            f"{folder / WEIGHTS}: lacks weights of this model. Give their old names in "
            f"{dotted((*_PATH, 'map'))}, or list them or their modules in {dotted((*_PATH, 'fresh'))}:\n  {shown}"
        )
    ranker.load_state_dict(taken, strict=False)
    unused = sorted(old.keys() - set(sources.values()))
    lines = [f"{len(taken)} of {len(new)} weights come from {folder}, the others start fresh"]
    return lines + ([f"unused weights of {folder}: {', '.join(unused)}"] if unused else [])


def _source(name: str, config: InitialWeightsConfig) -> str | None:
    """The name of a weight in the old model; None if it starts fresh."""
    sources = {**config.map, **dict.fromkeys(config.fresh)}
    path = max((path for path in sources if is_below(name, path)), key=len, default=None)
    if path is None:
        return name
    source = sources[path]
    return source + name[len(path) :] if source is not None else None


def _unknown(config: InitialWeightsConfig, new: Iterable[str], old: Iterable[str], folder: Path) -> Iterator[str]:
    """A message for each name in `config` that the model it refers to lacks."""
    named: list[tuple[KeyPath, str]] = [(("map", path), path) for path in config.map]
    named += [(("fresh", index), path) for index, path in enumerate(config.fresh)]
    for key, path in named:
        if not any(is_below(name, path) for name in new):
            yield f"{dotted((*_PATH, *key))}: no weights of this model are named {path!r}. {nearest(path, new)}"
    for path, source in config.map.items():
        if not any(is_below(name, source) for name in old):
            key_path = dotted((*_PATH, "map", path))
            yield f"{key_path}: no weights of {folder} are named {source!r}. {nearest(source, old)}"
