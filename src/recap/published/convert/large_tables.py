"""Large embedding tables in the published form → discrete features in ours, each with its own column of ids."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from recap.config.base import KeyPath
from recap.config.file.node import Node
from recap.published.convert.rates import convert_rate
from recap.published.convert.tree import TreeBuilder
from recap.published.form.config import PublishedConfig
from recap.published.form.model import LargeTable
from recap.published.form.rates import LearningRate

_PATH: KeyPath = ("model", "large_embeddings")


@dataclass
class LargeTables:
    """Converts `model.large_embeddings`."""

    tree: TreeBuilder
    published: PublishedConfig

    @property
    def columns(self) -> list[str]:
        """The column of ids of each table."""
        return [column for _, column, _ in self._tables()]

    def features(self) -> dict[str, Any]:
        """Entries of `features.discrete`."""
        features: dict[str, Any] = {}
        small = self.published.model.small_embeddings
        taken = {table.name for table in small.tables} if small is not None else set()
        for path, column, table in self._tables():
            if column in features or column in taken:
                self.tree.refuse((*path, "name"), f"{column!r} is used twice; give each table its own name")
            self.tree.remark((*path, "name"), f"the ids of this table are read from column {column!r}, one per row")
            if table.vocab is None:
                features[column] = {"size": table.num_embeddings}
                continue
            features[column] = {"vocabulary": f"{table.vocab.rstrip('/')}/*.parquet"}
            text = "the first column of its files must list the ids; each has a row, so num_embeddings is left out"
            self.tree.remark((*path, "vocab"), text)
        return features

    def widths(self) -> dict[str, Any]:
        """Entries of `model.embeddings`."""
        widths: dict[str, Any] = {}
        for path, column, table in self._tables():
            widths[column] = table.embedding_dim
            if table.pretrained is not None:
                uri = table.pretrained.embedding_snapshot_uri.rstrip("/")
                rows = {"path": f"{uri}/*.parquet", "vector": table.pretrained.emb_name}
                widths[column] = {"width": table.embedding_dim, "pretrained": rows}
                text = "must hold Parquet files with an 'id' and a vector per row; a published snapshot cannot be read"
                self.tree.remark((*path, "pretrained"), text)
        return widths

    def log_norms(self) -> Node | None:
        """The field `training.log_norms`."""
        large, path = self.published.model.large_embeddings, (*_PATH, "tables_to_log")
        if large is None or not large.tables_to_log:
            return None
        self.tree.remark(path, "the norms of all tables and of each part of the model are logged")
        return self.tree.node(True, path)

    def optimizer(self) -> Node | None:
        """The section `optimizer.tables`."""
        large, path = self.published.model.large_embeddings, (*_PATH, "optimizer")
        if large is None:
            return None
        text = (
            "the published code divided these tables among processes; training.sharded_tables: {} does that here, for "
            "widths that are multiples of 4"
        )
        self.tree.remark((*_PATH, "tables"), text)
        if self.published.model.small_embeddings is not None:
            text = "also applies to the small tables; the published code trained them with the rest of the model"
            self.tree.remark(path, text)
        if large.optimizer.learning_rate is not None:
            rate = convert_rate(self.tree, (*path, "learning_rate"), large.optimizer.learning_rate)
            if large.optimizer.init_learning_rate is not None:
                text = "left out: learning_rate gives the rate of every step, including the first"
                self.tree.remark((*path, "init_learning_rate"), text)
        else:
            rate = convert_rate(self.tree, (*path, "init_learning_rate"), LearningRate())
        entries = {"algorithm": self.tree.node({"kind": "sgd"}, path), "learning_rate": rate}
        return self.tree.mapping(path, {**entries, "sparse": self.tree.node(True, path)})

    def _tables(self) -> Iterator[tuple[KeyPath, str, LargeTable]]:
        """The key path, column of ids, and section of each table."""
        large = self.published.model.large_embeddings
        stored = self.published.train_data.seg_dense_schema.renamed_features
        for index, table in enumerate(large.tables if large is not None else []):
            yield (*_PATH, "tables", index), stored.get(table.name, table.name), table
