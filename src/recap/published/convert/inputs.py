"""Featurization, position debias and strata in the published form → ours."""

from collections.abc import Sequence
from dataclasses import dataclass

from recap.config.base import KeyPath
from recap.config.featurization import BINARY
from recap.config.file.node import Node
from recap.published.convert.features import ROLES, VECTORS
from recap.published.convert.large_tables import LargeTables
from recap.published.convert.tree import TreeBuilder
from recap.published.form.config import PublishedConfig
from recap.published.form.model import DoubleNormLog, LayerNorm, SmallTable, ZScoreLog

_PATH: KeyPath = ("model", "featurization_config")
_POSITIONS = 65_536
"""Size of the position feature; the published form has no limit. The embedding is limited by `max_position`."""


@dataclass
class InputsConverter:
    """Converts featurization, position debias and strata."""

    tree: TreeBuilder
    published: PublishedConfig
    tables: Sequence[SmallTable]
    """The tables of `small_embeddings`."""

    def featurization(self) -> Node | None:
        """The section `model.featurization`."""
        featurization = self.published.model.featurization_config
        if featurization is None:
            text = "no featurization_config; set to double_norm_log with BatchNorm and LayerNorm"
            self.tree.remark(("model",), text)
            return self.tree.node({"kind": "double_norm_log", "layer_norm": {}}, ("model",))
        join = self._join(featurization.feature_names_to_concat)
        if featurization.double_norm_log_config is not None:
            return self._double_norm_log(featurization.double_norm_log_config, join)
        if featurization.z_score_log_config is not None:
            return self._z_score_log(featurization.z_score_log_config, join)
        kind = "log1p_abs" if featurization.log1p_abs_config is not None else "clip_log1p_abs"
        path: KeyPath = (*_PATH, f"{kind}_config")
        clip = self.tree.copy_fields(path, "clip_magnitude")
        return self.tree.mapping(path, {"kind": self.tree.node(kind, path), **clip, "join": join})

    def codes(self) -> list[SmallTable]:
        """Discrete features without a table: the position, and those that only strata read."""
        debias = self.published.model.position_debias_config
        position: list[SmallTable] = []
        if debias is not None:
            index = debias.position_feature_index
            position = [SmallTable(name=self._position, num_embeddings=_POSITIONS, embedding_dim=0, index=index)]
        max_values: dict[int, int] = {}
        for stratum in self.published.model.stratifiers or []:
            if stratum.index not in self._features:
                max_values[stratum.index] = max(stratum.value, max_values.get(stratum.index, 0))
        return position + [
            SmallTable(name=f"discrete_{index}", num_embeddings=value + 1, embedding_dim=0, index=index)
            for index, value in max_values.items()
        ]

    @property
    def _features(self) -> dict[int, str]:
        """Index in the discrete column → the feature that the model embeds, or the position."""
        debias = self.published.model.position_debias_config
        position = {debias.position_feature_index: self._position} if debias is not None else {}
        return position | {table.index: table.name for table in self.tables}

    def unembedded(self) -> dict[str, int]:
        """Entries of `model.embeddings` for features that only strata read."""
        return {table.name: 0 for table in self.codes() if table.name != self._position}

    def strata(self) -> Node | None:
        """The section `strata`."""
        path: KeyPath = ("model", "stratifiers")
        strata: dict[str, Node | None] = {}
        for number, stratum in enumerate(self.published.model.stratifiers or []):
            stratum_path: KeyPath = (*path, number)
            if stratum.name in strata:
                self.tree.refuse(
                    (*stratum_path, "name"), f"{stratum.name!r} is used twice; give each stratum its own name"
                )
            feature = self._features.get(stratum.index, f"discrete_{stratum.index}")
            entries = {
                "feature": self.tree.node(feature, (*stratum_path, "index")),
                **self.tree.copy_fields(stratum_path, "value"),
            }
            strata[stratum.name] = self.tree.mapping(stratum_path, entries)
        return self.tree.mapping(path, strata) if strata else None

    @property
    def _position(self) -> str:
        """A name for the position that no table has."""
        taken = [*(table.name for table in self.tables), *LargeTables(self.tree, self.published).columns]
        names = ("position", *(f"position_{number}" for number in range(len(taken) + 1)))
        return next(name for name in names if name not in taken)

    def position_debias(self) -> Node | None:
        """The section `model.position_debias`."""
        path: KeyPath = ("model", "position_debias_config")
        debias = self.published.model.position_debias_config
        if debias is None:
            return None
        self.tree.remark(path, "evaluation and prediction hide the position and do not read its column")
        for table in self.tables:
            if table.index == debias.position_feature_index:
                text = f"{table.name!r} of small_embeddings embeds the position too, and is never hidden"
                self.tree.remark((*path, "position_feature_index"), text)
        return self.tree.mapping(
            path,
            {
                "feature": self.tree.node(self._position, (*path, "position_feature_index")),
                **self.tree.copy_fields(path, "max_position", "num_dims", "drop_probability"),
            },
        )

    def _z_score_log(self, config: ZScoreLog, join: Node | None) -> Node:
        path: KeyPath = (*_PATH, "z_score_log_config")
        text = "must be a file written by 'recap data analysis'; run that on this data"
        self.tree.remark((*path, "analysis_path"), text)
        if config.schema_path is not None:
            text = "left out: the rows of our analysis are in the order of the columns"
            self.tree.remark((*path, "schema_path"), text)
        norms = {"batch_norm": self.tree.node({}, (*path, "use_batch_norm"))} if config.use_batch_norm else {}
        if config.use_renorm:
            norms = {"batch_norm": self.tree.node({}, path), "renorm": self.tree.node(True, (*path, "use_renorm"))}
        return self.tree.mapping(
            path,
            {
                "kind": self.tree.node("z_score_log", path),
                "analysis": self.tree.copy((*path, "analysis_path")),
                "clip_magnitude": self.tree.copy((*path, "clip_magnitude")),
                **norms,
                "join": join,
            },
        )

    def _double_norm_log(self, config: DoubleNormLog, join: Node | None) -> Node:
        path: KeyPath = (*_PATH, "double_norm_log_config")
        layer_norm: Node | None = None
        if config.layer_norm_config is not None:
            layer_norm = self._layer_norm((*path, "layer_norm_config"), config.layer_norm_config)
        return self.tree.mapping(
            path,
            {
                "kind": self.tree.node("double_norm_log", path),
                "batch_norm": self.tree.copy((*path, "batch_norm_config")) or self.tree.node(None, path),
                "clip_magnitude": self.tree.copy((*path, "clip_magnitude")),
                "layer_norm": layer_norm or self.tree.node(None, path),
                "join": join,
            },
        )

    def _layer_norm(self, path: KeyPath, norm: LayerNorm) -> Node:
        affine = norm.center if norm.center == norm.scale else "scale" if norm.scale else "shift"
        return self.tree.mapping(
            path,
            {
                "epsilon": self.tree.epsilon((*path, "epsilon"), norm.epsilon),
                "affine": self.tree.node(affine, (*path, "center")),
            },
        )

    def _join(self, names: list[str]) -> Node | None:
        """The features joined to the continuous ones; None for our default."""
        path: KeyPath = (*_PATH, "feature_names_to_concat")
        if names == [BINARY]:
            return None
        self.tree.remark(path, "takes effect; the published code ignored it")
        stored = self.published.train_data.seg_dense_schema.renamed_features
        known = {*stored, *self.published.train_data.seg_dense_schema.features, *VECTORS}
        for index, name in enumerate(names):
            if name in ROLES and name != BINARY:
                text = f"not applicable: {name} is not a vector; continuous is always joined, and codes are embedded"
                self.tree.refuse((*path, index), text)
            elif name not in known and name != BINARY:
                self.tree.refuse((*path, index), f"unknown feature {name!r}; add it to seg_dense_schema")
        return self.tree.node([name if name == BINARY else stored.get(name, name) for name in names], path)
