"""Large embedding tables of the published form, in our words: features of their own names, of one machine."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from recap.config.base import KeyPath
from recap.config.file.node import Node
from recap.published.convert.rates import rate_of
from recap.published.convert.tree import TreeBuilder
from recap.published.form.config import PublishedConfig
from recap.published.form.model import LargeEmbeddings, LargeTable
from recap.published.form.rates import LearningRate

_PATH: KeyPath = ("model", "large_embeddings")


@dataclass
class LargeTables:
    """Says them in the words of the published file."""

    tree: TreeBuilder
    published: PublishedConfig

    @property
    def said(self) -> LargeEmbeddings | None:
        """What the file says of them."""
        return self.published.model.large_embeddings

    @property
    def columns(self) -> list[str]:
        """The columns that hold the ids of each."""
        return [column for _, column, _ in self._tables()]

    def features(self) -> dict[str, Any]:
        """What each is in `features.discrete`."""
        found: dict[str, Any] = {}
        small = self.published.model.small_embeddings
        taken = {table.name for table in small.tables} if small is not None else set()
        for path, column, table in self._tables():
            if column in found or column in taken:
                self.tree.refuse((*path, "name"), f"{column!r} is named twice; give each table a name of its own")
            self.tree.remark((*path, "name"), f"the ids of the table are read from the column {column!r}, one a row")
            if table.vocab is None:
                found[column] = {"size": table.num_embeddings}
                continue
            found[column] = {"vocabulary": f"{table.vocab.rstrip('/')}/*.parquet"}
            text = "the first column of its files must list the ids; each has a row, so num_embeddings is left out"
            self.tree.remark((*path, "vocab"), text)
        return found

    def widths(self) -> dict[str, Any]:
        """What each is in `model.embeddings`."""
        found: dict[str, Any] = {}
        for path, column, table in self._tables():
            found[column] = table.embedding_dim
            if table.pretrained is not None:
                uri = table.pretrained.embedding_snapshot_uri.rstrip("/")
                rows = {"path": f"{uri}/*.parquet", "vector": table.pretrained.emb_name}
                found[column] = {"width": table.embedding_dim, "pretrained": rows}
                text = (
                    "must hold Parquet files of an 'id' and a vector in each row; a published snapshot is none of these"
                )
                self.tree.remark((*path, "pretrained"), text)
        return found

    def log_norms(self) -> Node | None:
        """`training.log_norms`."""
        path: KeyPath = (*_PATH, "tables_to_log")
        if self.said is None or not self.said.tables_to_log:
            return None
        self.tree.remark(path, "the norms of all tables, and of each part of the model, are logged")
        return self.tree.made(True, path)

    def optimizer(self) -> Node | None:
        """`optimizer.tables`."""
        if self.said is None:
            return None
        path: KeyPath = (*_PATH, "optimizer")
        if self.published.model.small_embeddings is not None:
            text = "is that of the small tables too; the published code moved them with the rest of the model"
            self.tree.remark(path, text)
        scheduled = self.said.optimizer.learning_rate
        if scheduled is not None:
            rate = rate_of(self.tree, (*path, "learning_rate"), scheduled)
            if self.said.optimizer.init_learning_rate is not None:
                text = "left out: learning_rate says the rate of every step, the first too"
                self.tree.remark((*path, "init_learning_rate"), text)
        else:
            rate = rate_of(self.tree, (*path, "init_learning_rate"), LearningRate())
        made = {"algorithm": self.tree.made({"kind": "sgd"}, path), "learning_rate": rate}
        return self.tree.mapping(path, {**made, "sparse": self.tree.made(True, path)})

    def _tables(self) -> Iterator[tuple[KeyPath, str, LargeTable]]:
        """Each with its path, and the column that holds its ids."""
        stored = self.published.train_data.seg_dense_schema.renamed_features
        for index, table in enumerate(self.said.tables if self.said is not None else []):
            yield (*_PATH, "tables", index), stored.get(table.name, table.name), table
