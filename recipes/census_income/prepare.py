"""Census-Income (KDD) → Parquet and vocabularies, as `income.yaml` and `college.yaml` read them.

Categories stay strings. Amounts are written unchanged, and either in buckets or, where few values occur, as
categories; counts as codes and as numbers; years counted from the first one. The configurations list the features,
which depend on their tasks. The survey's weight is left out.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recap.data.tools.vocabulary import write_table
from recap.errors import DataError, InputError, RecapError
from recap.storage import atomic_write

LABELS = ("label_income", "label_never_married", "label_college")
AMOUNTS = ("wage_per_hour", "capital_gains", "capital_losses", "stock_dividends")
VALUES = ("capital_gains", "capital_losses")
"""Amounts whose values are also written as categories: few occur, and close ones stand for different incomes."""
BUCKETS = ("wage_per_hour", "stock_dividends")
"""Amounts that are also written in buckets."""
CODES = ("age", "det_ind_code", "det_occ_code", "num_emp", "own_or_self", "vet_benefits", "weeks_worked")
COUNTS = ("age", "weeks_worked", "num_emp")
"""Codes that are also written as numbers, because their order means something."""
CATEGORIES = (
    "class_worker",
    "education",
    "hs_college",
    "major_ind_code",
    "major_occ_code",
    "race",
    "hisp_origin",
    "sex",
    "union_member",
    "unemp_reason",
    "full_or_part_emp",
    "tax_filer_stat",
    "region_prev_res",
    "state_prev_res",
    "det_hh_fam_stat",
    "det_hh_summ",
    "mig_chg_msa",
    "mig_chg_reg",
    "mig_move_reg",
    "mig_same",
    "mig_prev_sunbelt",
    "fam_under_18",
    "country_father",
    "country_mother",
    "country_self",
    "citizenship",
    "vet_question",
    "income_50k",
)
FIRST_YEAR = 94
SPLITS = ("train", "validation")


def main(arguments: Sequence[str] | None = None) -> None:
    """Prepare the recipe's data; a second run replaces its output."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, required=True, help="folder of train.parquet and validation.parquet")
    parser.add_argument("--output", type=Path, required=True, help="folder for the prepared files")
    options = parser.parse_args(arguments)
    rows = prepare(options.source, options.output)
    print(f"written: {', '.join(f'{split} {count:,} rows' for split, count in rows.items())} in {options.output}")


def prepare(source: Path, output: Path) -> dict[str, int]:
    """Write both splits, and the vocabularies of the training one; split → rows. Raises DataError."""
    tables = {split: _read(source / f"{split}.parquet") for split in SPLITS}
    for name in (*CATEGORIES, *(f"{amount}_value" for amount in VALUES)):
        known = sorted(value for value in tables["train"][name].unique().to_pylist() if value is not None)
        write_table(pa.table({"value": known}), output / "vocabularies" / f"{name}.parquet")
    for split, table in tables.items():
        _write(table, output / f"{split}.parquet")
    return {split: table.num_rows for split, table in tables.items()}


def _read(path: Path) -> pa.Table:
    """The columns that the configurations read."""
    names = [*LABELS, *AMOUNTS, *CODES, "year", *CATEGORIES]
    try:
        missing = [name for name in names if name not in pq.read_schema(path).names]
        if missing:
            raise DataError(f"{path}: lacks column {missing[0]!r}")
        table = pq.read_table(path, columns=names)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; --source must be the folder of the Census-Income files") from None
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: not readable as Parquet ({error})") from None
    columns = {name: table[name].cast(pa.int8()) for name in LABELS}
    columns |= {name: table[name].cast(pa.float32()) for name in AMOUNTS}
    columns |= {f"{name}_bucket": _bucket(table[name]) for name in BUCKETS}
    columns |= {f"{name}_value": table[name].cast(pa.int32()) for name in VALUES}
    columns |= {name: table[name].cast(pa.int32()) for name in CODES}
    columns |= {f"{name}_number": table[name].cast(pa.float32()) for name in COUNTS}
    columns["year"] = pc.subtract(table["year"], FIRST_YEAR).cast(pa.int32())
    columns |= {name: pc.utf8_trim_whitespace(table[name].cast(pa.string())) for name in CATEGORIES}
    return pa.table(columns)


def _bucket(amounts: pa.ChunkedArray) -> pa.ChunkedArray:
    """0 for nothing, otherwise eighths of an octave from 1 up, so that capped amounts and tax brackets stay apart."""
    return pc.round(pc.multiply(8.0, pc.log2(pc.add(amounts, 1.0)))).cast(pa.int32())


def _write(table: pa.Table, path: Path) -> None:
    """Write a file atomically. Raises InputError."""
    try:
        with atomic_write(path) as temporary:
            pq.write_table(table, temporary, compression="zstd", row_group_size=16_384)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from None


if __name__ == "__main__":
    try:
        main()
    except RecapError as problem:
        print(problem, file=sys.stderr)
        sys.exit(problem.exit_code)
