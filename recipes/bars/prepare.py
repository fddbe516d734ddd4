"""The split files of a public CTR benchmark → Parquet, and the part of a configuration that reads them.

CSV files with a header: a label of 0 or 1, then columns of codes or strings, which become integer codes by the training
file's vocabulary, and columns of decimal numbers, which stay numbers. Files of any size are read in blocks.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from recap.config.file.yaml import render
from recap.data.tools.vocabulary import write_table
from recap.errors import DataError, InputError, RecapError
from recap.storage import atomic_write, replace_text
from recap.text import suggest

TASK = "label"
"""The name of the label in the prepared files."""
BLOCK_BYTES = 32 << 20
ROW_GROUP_ROWS = 32_768
EPOCHS = 100
"""The maximum; a run ends when its validation AUC stops improving."""


@dataclass(frozen=True)
class Columns:
    """The columns of the training file, by role."""

    label: str
    categorical: list[str]
    numeric: list[str]

    @property
    def types(self) -> dict[str, pa.DataType]:
        """Column → the type it is read as; codes are read as text, so that 007 and 7 differ."""
        numbers = dict.fromkeys([self.label, *self.numeric], pa.float64())
        return numbers | dict.fromkeys(self.categorical, pa.string())


def main(arguments: Sequence[str] | None = None) -> None:
    """Prepare a data set; a second run replaces its output."""
    parser = argparse.ArgumentParser(description=__doc__)
    for split in ("train", "valid", "test"):
        parser.add_argument(f"--{split}", type=Path, required=True, metavar="CSV")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--label", help="column of the label; default: the first")
    parser.add_argument(
        "--numeric", nargs="*", default=[], metavar="COLUMN", help="columns of numbers that look like codes"
    )
    parser.add_argument("--min-count", type=int, default=1, help="rows a code must occur in to be known (1)")
    parser.add_argument(
        "--batch-size", type=int, default=4096, help="rows of a step (4096); sets the length of an epoch"
    )
    options = parser.parse_args(arguments)
    files = {"train": options.train, "validation": options.valid, "test": options.test}
    rows = prepare(files, options.output, options.label, options.numeric, options.min_count, options.batch_size)
    print(", ".join(f"{split}: {count:,} rows" for split, count in rows.items()))
    print(f"next: recap train recipes/bars/dnn.yaml --set-file {options.output}/data.yaml")


def prepare(
    files: Mapping[str, Path],
    output: Path,
    label: str | None = None,
    numeric: Sequence[str] = (),
    min_count: int = 1,
    batch_size: int = 4096,
) -> dict[str, int]:
    """Write `SPLIT.parquet` for each file, the vocabularies of `train`, `data.yaml` and `test.yaml`; split → rows.

    Raises InputError for an invalid option, DataError for an invalid file.
    """
    if min(min_count, batch_size) < 1:
        raise InputError("--min-count and --batch-size must be at least 1")
    columns = _columns(files["train"], label, numeric)
    for file in files.values():
        missing = [name for name in columns.types if name not in _schema(file).names]
        if missing:
            raise DataError(f"{file}: lacks column {missing[0]!r}, which {files['train']} has")
    vocabularies = _vocabularies(files["train"], columns, min_count)
    for name, table in vocabularies.items():
        write_table(table, output / "vocabularies" / f"{name}.parquet")
    known = {name: table["value"].combine_chunks() for name, table in vocabularies.items()}
    rows = {split: _encode(file, columns, known, output / f"{split}.parquet") for split, file in files.items()}
    sizes = {name: max(len(values), 1) for name, values in known.items()}
    _write_part(output / "data.yaml", _data(columns, sizes, output, rows["train"], batch_size))
    test = {"validation_data": {"test": {"source": {"inputs": str(output / "test.parquet")}}}}
    _write_part(output / "test.yaml", test)
    return rows


def _schema(file: Path) -> pa.Schema:
    """The columns of a CSV file, with the types that its first block suggests."""
    options = pyarrow.csv.ConvertOptions(null_values=[""], strings_can_be_null=True)
    try:
        with pyarrow.csv.open_csv(
            file, pyarrow.csv.ReadOptions(block_size=BLOCK_BYTES), convert_options=options
        ) as csv:
            return csv.schema
    except FileNotFoundError:
        raise DataError(f"{file}: no such file") from None
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{file}: not readable as CSV ({error})") from None


def _columns(file: Path, label: str | None, numeric: Sequence[str]) -> Columns:
    schema = _schema(file)
    label = schema.names[0] if label is None else label
    for name in (label, *numeric):
        if name not in schema.names:
            raise InputError(f"{file}: has no column {name!r}. {suggest(name, schema.names)}")
    twice = [name for name, count in Counter(schema.names).items() if count > 1]
    if twice:
        raise DataError(f"{file}: column {twice[0]!r} appears twice; rename one")
    features = [field for field in schema if field.name != label]
    if TASK in (field.name for field in features):
        raise DataError(f"{file}: column {TASK!r} would be a feature; give --label {TASK}")
    numbers = [field.name for field in features if field.name in numeric or pa.types.is_floating(field.type)]
    return Columns(label, [field.name for field in features if field.name not in numbers], numbers)


def _blocks(file: Path, columns: Columns) -> Iterator[pa.RecordBatch]:
    """The file block by block, with the columns and types of `columns`."""
    options = pyarrow.csv.ConvertOptions(
        column_types=columns.types, include_columns=list(columns.types), null_values=[""], strings_can_be_null=True
    )
    try:
        with pyarrow.csv.open_csv(
            file, pyarrow.csv.ReadOptions(block_size=BLOCK_BYTES), convert_options=options
        ) as csv:
            yield from csv
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{file}: {error}") from None


def _vocabularies(file: Path, columns: Columns, min_count: int) -> dict[str, pa.Table]:
    """Categorical column → its values that occur in at least `min_count` rows, the most frequent first."""
    counts: dict[str, Counter[str]] = {name: Counter() for name in columns.categorical}
    for block in _blocks(file, columns):
        for name, counter in counts.items():
            block_counts = pc.value_counts(block[name].drop_null())
            values, times = (block_counts.field(field).to_pylist() for field in ("values", "counts"))
            counter.update(dict(zip(values, times, strict=True)))
    vocabularies = {}
    for name, counter in counts.items():
        frequent = sorted((-count, value) for value, count in counter.items() if count >= min_count)
        values, times = [value for _, value in frequent], [-count for count, _ in frequent]
        vocabularies[name] = pa.table({"value": pa.array(values, pa.string()), "count": pa.array(times, pa.int64())})
    return vocabularies


def _encode(file: Path, columns: Columns, known: Mapping[str, pa.Array], output: Path) -> int:
    """Write the rows of a file, with null for codes that the training file lacks; return the number of rows."""
    fields = [(TASK, pa.int8()), *((name, pa.float32()) for name in columns.numeric)]
    schema = pa.schema([*fields, *((name, pa.int32()) for name in columns.categorical)])
    rows = 0
    try:
        with atomic_write(output) as temporary:
            with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
                for block in _blocks(file, columns):
                    encoded = [_labels(block[columns.label], file, rows)]
                    encoded += [block[name].cast(pa.float32(), safe=False) for name in columns.numeric]
                    encoded += [pc.index_in(block[name], value_set=known[name]) for name in columns.categorical]
                    writer.write_table(pa.Table.from_arrays(encoded, schema=schema), row_group_size=ROW_GROUP_ROWS)
                    rows += block.num_rows
            if not rows:
                raise DataError(f"{file}: has no rows")
    except OSError as error:
        raise InputError(f"{output}: cannot be written ({error.strerror})") from None
    return rows


def _labels(values: pa.Array, file: Path, before: int) -> pa.Array:
    valid = pc.fill_null(pc.is_in(values, value_set=pa.array([0.0, 1.0])), False)
    if not pc.all(valid, min_count=0).as_py():
        row = pc.index(valid, False).as_py()
        raise DataError(f"{file}: row {before + row}: expected a label of 0 or 1, found {values[row].as_py()}")
    return values.cast(pa.int8())


def _data(columns: Columns, sizes: Mapping[str, int], output: Path, rows: int, batch_size: int) -> dict[str, object]:
    """The part of a configuration for this data set; it evaluates, logs and saves once per epoch."""
    epoch = -(-rows // batch_size)
    features: dict[str, object] = {"continuous": columns.numeric} if columns.numeric else {}
    features |= {"discrete": {name: {"size": size} for name, size in sizes.items()}} if sizes else {}
    intervals = dict.fromkeys(("train_log_every_n", "eval_log_every_n", "checkpoint_every_n"), epoch)
    train = {"inputs": str(output / "train.parquet")}
    return {
        "training": {"num_train_steps": EPOCHS * epoch, **intervals},
        "features": features,
        "train_data": {"source": train, "global_batch_size": min(batch_size, rows)},
        "validation_data": {"validation": {"source": {"inputs": str(output / "validation.parquet")}}},
    }


def _write_part(path: Path, part: Mapping[str, object]) -> None:
    replace_text(path, f"# Made by recipes/bars/prepare.py, to merge over a model: --set-file {path}\n{render(part)}")


if __name__ == "__main__":
    try:
        main()
    except RecapError as problem:
        print(problem, file=sys.stderr)
        sys.exit(problem.exit_code)
