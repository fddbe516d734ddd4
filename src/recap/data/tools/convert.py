"""`recap data convert`: converts files from one format to another, file by file, a chunk at a time."""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from recap.config.data import SourceKind
from recap.data.formats.files import relative_names
from recap.data.formats.format import Chunk, list_chunks
from recap.data.formats.object_stores import is_remote
from recap.data.formats.open import stem
from recap.data.formats.packed import Survey, can_pack, pack, pack_field
from recap.data.formats.tables import TableFiles
from recap.data.formats.writers import open_writer, tfrecord_schema
from recap.errors import DataError, InputError
from recap.storage import atomic_write

ENDINGS: dict[SourceKind, str] = {
    "parquet": ".parquet",
    "arrow": ".arrow",
    "csv": ".csv",
    "jsonl": ".jsonl",
    "tfrecord": ".tfrecord.gz",
}
"""Format → extension of the files written."""
SCHEMA = "schema.json"
"""Lists the columns of the TFRecord files in its folder."""


def convert_files(
    inputs: Sequence[str],
    output: Path,
    kind: SourceKind,
    schema_path: str | None = None,
    *,
    packed: bool = False,
    overwrite: bool = False,
    after_rows: Callable[[int], None] = lambda rows: None,
) -> tuple[list[Path], list[Path]]:
    """Write a file of `kind` below `output` for each file of `inputs`; return the files written and those skipped.

    Files keep their path below the common folder of the inputs. They are written atomically and existing ones are
    skipped, so that a repeated command continues a stopped one. `packed`: store lists of one length as bytes, for
    Parquet (`formats/packed.py`). Raises DataError for inputs that cannot be read and columns that the format cannot
    hold, InputError if two inputs would become one file, or an output would replace its input.
    """
    files = TableFiles.open(inputs, schema_path)
    targets = _targets(files.files, output, kind)
    present = [] if overwrite else [target for target in targets.values() if target.exists()]
    todo = [file for file, target in targets.items() if target not in present]
    for file, tables in files.tables_by_file(files=todo):
        schema = files.schema(file)
        packed_schema = _packed_schema(files, file) if packed else None
        _write_file(tables, file, targets[file], kind, schema, packed_schema, after_rows)
    if kind == "tfrecord":
        text = json.dumps(tfrecord_schema(files.schema(files.files[0])), indent=1) + "\n"
        with atomic_write(output / SCHEMA) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return [targets[file] for file in todo], present


def _targets(files: Sequence[str], output: Path, kind: SourceKind) -> dict[str, Path]:
    """Input file → output file. Raises InputError."""
    named = zip(files, relative_names(files), strict=True)
    targets = {file: output / f"{stem(name)}{ENDINGS[kind]}" for file, name in named}
    sources: dict[Path, str] = {}
    for file, target in targets.items():
        if sources.setdefault(target, file) != file:
            raise InputError(f"{file}: would become the same file as {sources[target]}; convert them into two folders")
        if target.exists() and not is_remote(file) and os.path.samefile(target, file):
            raise InputError(f"{file}: would be overwritten by its own output; choose another --output")
    return targets


def _write_file(
    tables: Iterable[tuple[Chunk, pa.Table]],
    file: str,
    target: Path,
    kind: SourceKind,
    schema: pa.Schema,
    packed: pa.Schema | None,
    after_rows: Callable[[int], None],
) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(target) as temporary:
            with _add_file(file):
                writer = open_writer(kind, temporary, packed or schema)
            with writer:
                for _, table in tables:
                    with _add_file(file):
                        writer.write(table if packed is None else pack(table, packed))
                    after_rows(table.num_rows)
    except OSError as error:
        raise InputError(f"{target}: cannot be written ({error.strerror})") from None
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be written as {kind} ({error})") from None


@contextmanager
def _add_file(file: str) -> Iterator[None]:
    """Add the file to a DataError about its columns."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{file}: {error}") from None


def _packed_schema(files: TableFiles, file: str) -> pa.Schema:
    """The schema of a file, with its list columns packed as suits their values.

    A writer needs the schema before the first row, so the columns that can be packed are read twice.
    """
    schema = files.schema(file)
    surveys = {field.name: Survey(field.type) for field in schema if can_pack(field.type)}
    if surveys:
        for _, table in files.tables(list(surveys), list_chunks(files.format, file)):
            for name, survey in surveys.items():
                for lists in table.column(name).chunks:
                    survey.add(lists)
    for name, survey in surveys.items():
        index = schema.get_field_index(name)
        field = pack_field(schema.field(index).with_type(survey.narrowest_kind), sparse=survey.sparse)
        schema = schema.set(index, field)
    return schema
