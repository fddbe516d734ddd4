"""`recap data convert`: converts files from one format to another, file by file, a chunk at a time."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from recap.config.data import SourceKind
from recap.data.encoding.columns import as_one_array
from recap.data.encoding.kinds import decoded
from recap.data.formats.format import Chunk
from recap.data.formats.parquet.packed import Survey, can_pack, pack, pack_field
from recap.data.formats.tables import TableFiles
from recap.data.formats.writers import open_writer, tfrecord_schema
from recap.data.tools.outputs import output_files
from recap.errors import DataError, InputError
from recap.storage import atomic_write, check_not_an_input, failure, writing

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
    Parquet (`formats/parquet/packed.py`). Raises DataError for inputs that cannot be read and columns that the format
    cannot hold, InputError if two inputs would become one file, or an output would replace its input.
    """
    files = TableFiles.open(inputs, schema_path)
    targets = output_files(files.files, output, ENDINGS[kind])
    schemas = {file: _decoded_schema(schema, kind) for file, schema in _schemas(files).items()}
    schema_text = _schema_text(files, schemas, output, overwrite=overwrite) if kind == "tfrecord" else None
    present = [] if overwrite else [target for target in targets.values() if target.exists()]
    todo = [file for file, target in targets.items() if target not in present]
    for file, tables in files.tables_by_file(files=todo):
        schema = schemas[file]
        packed_schema = _packed_schema(files, file, schema) if packed else None
        _write_file(tables, file, targets[file], kind, schema, packed_schema, after_rows)
    if schema_text is not None:
        with writing(output / SCHEMA), atomic_write(output / SCHEMA) as temporary:
            temporary.write_text(schema_text, encoding="utf-8")
    return [targets[file] for file in todo], present


def _schemas(files: TableFiles) -> dict[str, pa.Schema]:
    """File → the columns to write.

    A column without a value may have type null in its file; it gets its type in the first file that has another. Raises
    DataError if no file holds rows.
    """
    schemas = {file: files.schema(file) for file in files.files}
    types: dict[str, pa.DataType] = {}
    for schema in schemas.values():
        types = {field.name: field.type for field in schema if not pa.types.is_null(field.type)} | types
    for file, schema in schemas.items():
        nulls = [index for index, kind in enumerate(schema.types) if pa.types.is_null(kind)]
        for index in nulls:
            field = schema.field(index)
            schemas[file] = schemas[file].set(index, field.with_type(types.get(field.name, field.type)))
    return schemas


def _schema_text(files: TableFiles, schemas: Mapping[str, pa.Schema], output: Path, *, overwrite: bool) -> str:
    """The content of `schema.json`. Raises InputError if the output folder has another one."""
    first = files.files[0]
    with _add_file(first):
        text = json.dumps(tfrecord_schema(schemas[first]), indent=1) + "\n"
    file = output / SCHEMA
    check_not_an_input([file], files.files)
    if file.is_file() and not overwrite and file.read_bytes() != text.encode():
        raise InputError(f"{file}: lists other columns; add --overwrite to replace it, or choose another --output")
    return text


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
                    typed = _with_types(table, schema)
                    with _add_file(file):
                        writer.write(typed if packed is None else pack(typed, packed))
                    after_rows(table.num_rows)
    except OSError as error:
        raise InputError(f"{target}: cannot be written ({failure(error)})") from None
    except (pa.ArrowException, UnicodeDecodeError, OverflowError) as error:  # Python's times end in the year 9999
        raise DataError(f"{file}: cannot be written as {kind} ({error})") from None


def _decoded_schema(schema: pa.Schema, kind: SourceKind) -> pa.Schema:
    """`schema` without the types that no writer of `kind` knows: views of text for most, run-end encoding for all."""
    views = kind in ("csv", "tfrecord")
    return pa.schema(
        [
            field.with_type(decoded(pa.nulls(0, field.type)).type)
            if pa.types.is_run_end_encoded(field.type) or (views and _is_view(field.type))
            else field
            for field in schema
        ],
        schema.metadata,
    )


def _is_view(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string_view(kind) or pa.types.is_binary_view(kind))


def _with_types(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """`table` with the types of `schema`: another one for columns of nulls, and decoded ones."""
    if table.schema.types == schema.types:
        return table
    columns = [
        column if column.type == kind else decoded(as_one_array(column)).cast(kind)
        for column, kind in zip(table.columns, schema.types, strict=True)
    ]
    return pa.table(columns, schema=schema)


@contextmanager
def _add_file(file: str) -> Iterator[None]:
    """Add the file to a DataError about its columns."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{file}: {error}") from None


def _packed_schema(files: TableFiles, file: str, schema: pa.Schema) -> pa.Schema:
    """The `schema` of a file, with its list columns packed as suits their values.

    A writer needs the schema before the first row, so the columns that can be packed are read twice.
    """
    surveys = {field.name: Survey(field.type) for field in schema if can_pack(field.type)}
    if surveys:
        for _, table in files.tables(list(surveys), files.chunks_of(file)):
            for name, survey in surveys.items():
                for lists in table.column(name).chunks:
                    survey.add(lists)
    for name, survey in surveys.items():
        index = schema.get_field_index(name)
        field = pack_field(schema.field(index).with_type(survey.narrowest_kind), sparse=survey.sparse)
        schema = schema.set(index, field)
    return schema
