"""`ServedModel`: which versions of a model are loaded, which of them answers, and when others take their place."""

from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path

from recap.config.base import dotted
from recap.config.serving.server import ServedModelConfig, ShadowConfig, SplitConfig
from recap.errors import CheckpointError, RecapError
from recap.reporting import Say
from recap.runs import BEST, better_checkpoint
from recap.serving.contract import Reason, RequestError
from recap.serving.models.version import Golden, Version, load_version
from recap.serving.models.versions import State, best_version, find_versions, state_of
from recap.serving.watch.watch import Watch
from recap.text import shorten


class ServedModel:
    """A model and its versions: one that answers, and with a rollout a second one.

    Attributes are replaced whole, so that the event loop may read them while `refresh` runs in another thread; a
    version that was replaced lives until the last request that it answers has finished.
    """

    def __init__(
        self,
        name: str,
        config: ServedModelConfig,
        golden: Golden,
        say: Say,
        watch: Watch,
        cache_bytes: int = 0,
    ) -> None:
        """Load the versions. Raises CheckpointError if none can be served.

        `cache_bytes`: bound of the memory for encoded histories of users, of each version.
        """
        self.name, self.config = name, config
        self._golden, self._say, self._watch, self._cache_bytes = golden, say, watch, cache_bytes
        self._refused: dict[str, State] = {}
        """Version → its state when it was refused; it is tried again when that changes."""
        self._remarks: set[str] = set()
        versions = find_versions(Path(config.path))
        self.second: Version | None = None
        """The version of the rollout."""
        if config.rollout is not None:
            self.second = self._load(config.rollout.version, self._named(versions, config.rollout.version, "rollout."))
        self.current = self._first(versions)
        """The version that answers."""
        self._say_if_another_is_better(versions)

    @property
    def versions(self) -> Sequence[Version]:
        """The loaded versions; the one that answers last."""
        second = self.second
        return [self.current] if second is None else [second, self.current]

    @property
    def shadow(self) -> Version | None:
        """The version that scores too, without answering."""
        return self.second if isinstance(self.config.rollout, ShadowConfig) else None

    def version(self, name: str | None = None, user: object = None) -> Version:
        """The version `name`, or the one that answers `user`. Raises RequestError for one that is not loaded."""
        if name is not None:
            for version in self.versions:
                if version.name == name:
                    return version
            known = ", ".join(version.name for version in self.versions)
            text = f"model {self.name}: version {shorten(repr(name))} is not loaded; loaded: {known}"
            raise RequestError(Reason.NOT_FOUND, text)
        second, rollout = self.second, self.config.rollout
        if second is None or user is None or not isinstance(rollout, SplitConfig):
            return self.current
        return second if share_of(self.name, user) < rollout.share else self.current

    def refresh(self) -> None:
        """Take the newest good version, if it is new or has changed. A bad one is refused, and the old one stays.

        Runs in a thread of its own. Never raises for a bad version or a folder that cannot be read.
        """
        try:
            versions = find_versions(Path(self.config.path))
            chosen = self._chosen(versions)
        except (CheckpointError, OSError) as error:
            self._say_once(f"model {self.name}: {error}; version {self.current.name} stays")
            return
        before = {version.name for version in self.versions}
        if self.second is not None:
            self.second = self._reloaded(self.second.name, versions, self.second)
        for name in [chosen] if chosen is not None else self._newest_first(versions):
            version = self._reloaded(name, versions, self.current)
            if version is not self.current or name == self.current.name:
                self.current = version
                break
        self._say_if_another_is_better(versions)
        for name in before - {version.name for version in self.versions}:
            self._watch.unloaded(self.name, name)

    def _chosen(self, versions: dict[str, Path]) -> str | None:
        """The version of the configuration, `best` as its name; None: the newest. Raises CheckpointError."""
        if self.config.version == BEST and BEST not in versions:
            return best_version(Path(self.config.path))
        return self.config.version

    def _say_if_another_is_better(self, versions: dict[str, Path]) -> None:
        if self.config.version is None and self.current.name == next(reversed(versions)):
            choice = f"--set {dotted(('models', self.name, 'version'))}={BEST}"
            remark = better_checkpoint(Path(self.config.path), self.current.folder, choice)
            if remark is not None:
                self._say_once(remark)

    def _newest_first(self, versions: dict[str, Path]) -> list[str]:
        """All versions, except that of the rollout."""
        second = self.config.rollout.version if self.config.rollout is not None else None
        return [name for name in reversed(versions) if name != second]

    def _first(self, versions: dict[str, Path]) -> Version:
        """The version to start with: the newest that is good, as in `refresh`."""
        chosen = self._chosen(versions)
        if chosen is not None:
            return self._load(chosen, self._named(versions, chosen, ""))
        others = self._newest_first(versions)
        if not others:
            raise CheckpointError(
                f"{self.config.path}: holds only {next(iter(versions))}, which models.{self.name}.rollout tries; add "
                "the version to compare it with"
            )
        refused: list[tuple[str, State, RecapError]] = []
        for name in others:
            state = state_of(versions[name])
            try:
                version = self._load(name, versions[name])
            except RecapError as error:
                refused.append((name, state, error))
                continue
            for other in refused:
                self._refuse(*other, f"version {name} is served")
            return version
        raise refused[0][2]

    def _named(self, versions: dict[str, Path], name: str, field: str) -> Path:
        if name not in versions:
            raise CheckpointError(
                f"models.{self.name}.{field}version: no version {shorten(repr(name))} in {self.config.path}; found: "
                f"{shorten(', '.join(versions), 300)}"
            )
        return versions[name]

    def _reloaded(self, name: str, versions: dict[str, Path], old: Version) -> Version:
        """The version `name`, if it is good and not what `old` is already; else `old`."""
        folder = versions.get(name)
        if folder is None:
            self._say_once(f"model {self.name}: version {name} was removed from {self.config.path}; it is served on")
            return old
        state = state_of(folder)
        if (name, folder, state) == (old.name, old.folder, old.state) or self._refused.get(name) == state:
            return old
        try:
            version = self._load(name, folder)
        except Exception as error:  # whatever is in the folder, the server goes on
            self._refuse(name, state, error, f"version {old.name} stays")
            return old
        self._watch.reload(self.name, "served")
        return version

    def _load(self, name: str, folder: Path) -> Version:
        version = load_version(self.name, name, folder, self.config, self._golden, self._cache_bytes)
        self._refused.pop(name, None)
        self._say(f"model {self.name}: version {name} is ready")
        self._watch.loaded(self.name, name, folder, version.scorer)
        return version

    def _refuse(self, name: str, state: State, error: Exception, consequence: str) -> None:
        """`state`: before it was loaded; if it was being copied, it has another one now, and is tried again."""
        self._refused[name] = state
        text = str(error) if isinstance(error, RecapError) else f"{type(error).__name__}: {error}"
        self._say(f"model {self.name}: version {name} is refused, {consequence}: {text}")
        self._watch.reload(self.name, "refused")

    def _say_once(self, text: str) -> None:
        if text not in self._remarks:
            self._remarks.add(text)
            self._say(text)


def share_of(model: str, user: object) -> float:
    """A number in [0, 1) that is fixed for a user and a model, and even over users; not the same for two models."""
    if isinstance(user, float) and user.is_integer():
        user = int(user)
    text = user.decode("utf-8", "replace") if isinstance(user, bytes) else str(user)
    digest = blake2b(f"{model}\0{text}".encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
