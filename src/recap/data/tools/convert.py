"""`recap data convert`: files of one format → files of another, one for one, a chunk at a time."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa

from recap.config.data import SourceKind
from recap.data.formats.files import find_files, relative_names
from recap.data.formats.filesystem import is_remote
from recap.data.formats.format import Format
from recap.data.formats.open import chunks_of, guess_source, open_format, stem
from recap.data.formats.packed import Survey, can_pack, pack, pack_field
from recap.data.formats.writers import Writer, open_writer, tfrecord_schema
from recap.errors import DataError, InputError

ENDINGS: dict[SourceKind, str] = {
    "parquet": ".parquet",
    "arrow": ".arrow",
    "csv": ".csv",
    "jsonl": ".jsonl",
    "tfrecord": ".tfrecord.gz",
}
"""How the files of each kind are called."""
SCHEMA = "schema.json"
"""Beside TFRecord files: the columns they hold."""


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
    """Write a file of `kind` below `output` for each file of `inputs`; give those written, and those there before.

    Files keep their path below the common folder of the inputs, and appear whole or not at all, so a command that was
    stopped goes on when it is given again. `packed`: Parquet holds lists of one length as bytes (`sources/packed.py`).
    Raises DataError for inputs that cannot be read, or columns that the format cannot hold, and InputError where two
    inputs would become one file, or one would be written over itself.
    """
    files = find_files(inputs)
    format_ = open_format(guess_source(inputs, schema_path), {}, files)
    named = reversed(list(zip(relative_names(files), files, strict=True)))
    targets = {output / f"{stem(name)}{ENDINGS[kind]}": file for name, file in named}
    if len(targets) < len(files):
        twice = sorted(set(files) - set(targets.values()))
        raise InputError(f"{twice[0]}: would become the same file as another input; convert them into two folders")
    written: list[Path] = []
    kept: list[Path] = []
    for target, file in reversed(targets.items()):
        if target.exists() and not is_remote(file) and os.path.samefile(target, file):
            raise InputError(f"{file}: would be written over itself; choose another --output")
        if target.exists() and not overwrite:
            kept.append(target)
            continue
        _convert(format_, file, target, kind, packed, after_rows)
        written.append(target)
    if kind == "tfrecord":
        _write_schema(output / SCHEMA, format_.schema(files[0]))
    return written, kept


def _convert(
    format_: Format, file: str, target: Path, kind: SourceKind, packed: bool, after_rows: Callable[[int], None]
) -> None:
    schema = format_.schema(file)
    written = _packed_schema(format_, file, schema) if packed else schema
    temporary = target.with_name(target.name + ".unfinished")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _open_writer(kind, temporary, written, file) as writer:
            for chunk in chunks_of(format_, file):
                table = format_.read(file, chunk.number, schema.names)
                _write(writer, table, written if packed else None, file)
                after_rows(table.num_rows)
        temporary.replace(target)
    except OSError as error:
        raise InputError(f"{target}: cannot be written ({error.strerror})") from None
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be written as {kind} ({error})") from None
    finally:
        temporary.unlink(missing_ok=True)


def _packed_schema(format_: Format, file: str, schema: pa.Schema) -> pa.Schema:
    """The columns of a file, packed as suits what they hold.

    How must be known when the file is begun, so the columns that can be packed are read twice.
    """
    surveys = {field.name: Survey(field.type) for field in schema if can_pack(field.type)}
    for chunk in chunks_of(format_, file) if surveys else []:
        table = format_.read(file, chunk.number, list(surveys))
        for name, survey in surveys.items():
            for lists in table.column(name).chunks:
                survey.add(lists)
    for name, survey in surveys.items():
        at = schema.get_field_index(name)
        schema = schema.set(at, pack_field(schema.field(at).with_type(survey.best), sparse=survey.sparse))
    return schema


def _write(writer: Writer, table: pa.Table, packed: pa.Schema | None, file: str) -> None:
    try:
        writer.write(table if packed is None else pack(table, packed))
    except DataError as error:
        raise DataError(f"{file}: {error}") from None


def _open_writer(kind: SourceKind, path: Path, schema: pa.Schema, file: str) -> Writer:
    try:
        return open_writer(kind, path, schema)
    except DataError as error:
        raise DataError(f"{file}: {error}") from None


def _write_schema(path: Path, schema: pa.Schema) -> None:
    path.write_text(json.dumps(tfrecord_schema(schema), indent=1) + "\n", encoding="utf-8")
