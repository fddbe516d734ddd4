"""How a published file says its columns become numbers, in our words."""

from collections.abc import Sequence
from dataclasses import dataclass

from recap.config.base import MIN_EPSILON, KeyPath
from recap.config.featurization import BINARY
from recap.config.file.node import Node
from recap.published.convert.columns import ROLES, VECTORS
from recap.published.convert.large import LargeTables
from recap.published.convert.tree import TreeBuilder
from recap.published.form.config import PublishedConfig
from recap.published.form.model import Featurization, LayerNorm, SmallTable

_PATH: KeyPath = ("model", "featurization_config")
_POSITIONS = 65_536
"""Positions that are known, where the published form sets no limit; the table of the embedding is not larger for it."""


@dataclass
class InputsConverter:
    """Says them in the words of the published file."""

    tree: TreeBuilder
    published: PublishedConfig
    tables: Sequence[SmallTable]

    def featurization(self) -> Node | None:
        """`model.featurization`."""
        said = self.published.model.featurization_config
        if said is None:
            text = "no featurization_config is given; ours is taken, double_norm_log between BatchNorm and LayerNorm"
            self.tree.remark(("model",), text)
            return None
        if said.double_norm_log_config is not None:
            return self._double_norm_log(said)
        join = self._join(said.feature_names_to_concat)
        if said.z_score_log_config is not None:
            return self._z_score_log(join)
        kind = "log1p_abs" if said.log1p_abs_config is not None else "clip_log1p_abs"
        path: KeyPath = (*_PATH, f"{kind}_config")
        clip = self.tree.copies(path, "clip_magnitude")
        return self.tree.mapping(path, {"kind": self.tree.made(kind, path), **clip, "join": join})

    def codes(self) -> list[SmallTable]:
        """Codes that are read but not embedded as others are."""
        debias = self.published.model.position_debias_config
        found: list[SmallTable] = []
        if debias is not None:
            index = debias.position_feature_index
            found = [SmallTable(name=self._position, num_embeddings=_POSITIONS, embedding_dim=0, index=index)]
        most: dict[int, int] = {}
        for each in self.published.model.stratifiers or []:
            if each.index not in self._features:
                most[each.index] = max(each.value, most.get(each.index, 0))
        return found + [
            SmallTable(name=f"discrete_{index}", num_embeddings=value + 1, embedding_dim=0, index=index)
            for index, value in most.items()
        ]

    @property
    def _features(self) -> dict[int, str]:
        """Index of a code → the feature it is, of those that the model embeds."""
        debias = self.published.model.position_debias_config
        position = {debias.position_feature_index: self._position} if debias is not None else {}
        return position | {table.index: table.name for table in self.tables}

    def unembedded(self) -> dict[str, int]:
        """The widths of codes that only strata read."""
        return {table.name: 0 for table in self.codes() if table.name != self._position}

    def strata(self) -> Node | None:
        """`strata`."""
        path: KeyPath = ("model", "stratifiers")
        found: dict[str, Node | None] = {}
        for index, each in enumerate(self.published.model.stratifiers or []):
            where: KeyPath = (*path, index)
            if each.name in found:
                self.tree.refuse((*where, "name"), f"{each.name!r} is named twice; give each stratum a name of its own")
            feature = self.tree.made(self._features.get(each.index, f"discrete_{each.index}"), (*where, "index"))
            found[each.name] = self.tree.mapping(
                where, {"feature": feature, "value": self.tree.copied((*where, "value"))}
            )
        return self.tree.mapping(path, found) if found else None

    @property
    def _position(self) -> str:
        """The name of the position, which no table has."""
        taken = [*(table.name for table in self.tables), *LargeTables(self.tree, self.published).columns]
        return next(
            name for name in ("position", *(f"position_{n}" for n in range(len(taken) + 1))) if name not in taken
        )

    def position_debias(self) -> Node | None:
        """`model.position_debias`."""
        path: KeyPath = ("model", "position_debias_config")
        said = self.published.model.position_debias_config
        if said is None:
            return None
        self.tree.remark(path, "at inference and in evaluation the position is hidden, and its column not read")
        for table in self.tables:
            if table.index == said.position_feature_index:
                text = f"{table.name!r} of small_embeddings embeds the position too, and is never hidden"
                self.tree.remark((*path, "position_feature_index"), text)
        return self.tree.mapping(
            path,
            {
                "feature": self.tree.made(self._position, (*path, "position_feature_index")),
                **self.tree.copies(path, "max_position", "num_dims", "drop_probability"),
            },
        )

    def _z_score_log(self, join: Node | None) -> Node:
        path: KeyPath = (*_PATH, "z_score_log_config")
        self.tree.remark((*path, "analysis_path"), "must be a file of 'recap data analysis'; write it anew")
        said = self.published.model.featurization_config
        assert said is not None
        config = said.z_score_log_config
        assert config is not None
        if config.schema_path is not None:
            self.tree.remark((*path, "schema_path"), "left out: rows of the analysis stand in the order of the columns")
        norms = {"batch_norm": self.tree.made({}, (*path, "use_batch_norm"))} if config.use_batch_norm else {}
        if config.use_renorm:
            norms = {"batch_norm": self.tree.made({}, path), "renorm": self.tree.made(True, (*path, "use_renorm"))}
        return self.tree.mapping(
            path,
            {
                "kind": self.tree.made("z_score_log", path),
                "analysis": self.tree.copied((*path, "analysis_path")),
                "clip_magnitude": self.tree.copied((*path, "clip_magnitude")),
                **norms,
                "join": join,
            },
        )

    def _double_norm_log(self, featurization: Featurization) -> Node:
        path: KeyPath = (*_PATH, "double_norm_log_config")
        said = featurization.double_norm_log_config
        assert said is not None
        layer_norm: Node | None = None
        if said.layer_norm_config is not None:
            layer_norm = self._layer_norm((*path, "layer_norm_config"), said.layer_norm_config)
        return self.tree.mapping(
            path,
            {
                "kind": self.tree.made("double_norm_log", path),
                "batch_norm": self.tree.copied((*path, "batch_norm_config")) or self.tree.made(None, path),
                "clip_magnitude": self.tree.copied((*path, "clip_magnitude")),
                "layer_norm": layer_norm or self.tree.made(None, path),
                "join": self._join(featurization.feature_names_to_concat),
            },
        )

    def _layer_norm(self, path: KeyPath, said: LayerNorm) -> Node:
        copied = self.tree.copied((*path, "epsilon"))
        affine = said.center if said.center == said.scale else "scale" if said.scale else "shift"
        return self.tree.mapping(
            path,
            {
                "epsilon": accepted_epsilon(self.tree, (*path, "epsilon"), said.epsilon, copied),
                "affine": self.tree.made(affine, (*path, "center")),
            },
        )

    def _join(self, names: list[str]) -> Node | None:
        path: KeyPath = (*_PATH, "feature_names_to_concat")
        if names == [BINARY]:
            return None
        stored = self.published.train_data.seg_dense_schema.renamed_features
        known = {*stored, *self.published.train_data.seg_dense_schema.features, *VECTORS}
        for index, name in enumerate(names):
            if name in ROLES and name != BINARY:
                why = f"means nothing here: {name} is no vector; continuous is always there, codes are embedded"
                self.tree.refuse((*path, index), why)
            elif name not in known and name != BINARY:
                self.tree.refuse((*path, index), f"{name!r} is no feature of seg_dense_schema; name it there")
        return self.tree.made([name if name == BINARY else stored.get(name, name) for name in names], path)


def accepted_epsilon(tree: TreeBuilder, path: KeyPath, value: float, copied: Node | None) -> Node | None:
    """An epsilon that keeps a division finite."""
    if value >= MIN_EPSILON:
        return copied
    tree.remark(path, f"{value:g} becomes {MIN_EPSILON:g}, the smallest accepted: it keeps a division finite")
    return tree.made(MIN_EPSILON, path)
