"""Files that two data sets have in common."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recap.config.data import ParquetConfig
from recap.data.tools import shared
from recap.data.tools.shared import shared_with


def source(*inputs: str | Path) -> ParquetConfig:
    return ParquetConfig.model_validate({"kind": "parquet", "inputs": [str(file) for file in inputs]})


def test_files_are_shared_by_path_link_and_copy(tmp_path: Path) -> None:
    for name, value in (("one", 1), ("other", 2)):
        pq.write_table(pa.table({"x": [value]}), tmp_path / f"{name}.parquet")
    (tmp_path / "copy.parquet").write_bytes((tmp_path / "one.parquet").read_bytes())
    (tmp_path / "link.parquet").symlink_to(tmp_path / "one.parquet")
    same = [str(tmp_path / f"{name}.parquet") for name in ("copy", "link", "one")]
    assert shared_with(source(tmp_path / "one.parquet"), source(tmp_path / "*.parquet")) == same
    assert shared_with(source(tmp_path / "missing.parquet"), source(tmp_path / "*.parquet")) == []


def test_an_object_store_is_not_listed_for_local_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pq.write_table(pa.table({"x": [1]}), tmp_path / "one.parquet")
    listed: list[object] = []
    find_files = shared.find_files
    monkeypatch.setattr(shared, "find_files", lambda inputs: listed.append(inputs) or find_files(inputs))
    local = source(tmp_path / "one.parquet")
    assert shared_with(source("s3://bucket/train/*.parquet"), local) == []
    assert listed == [local.inputs]
