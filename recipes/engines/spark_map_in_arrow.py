"""Score Parquet files with Spark: `recap.Scorer` in `mapInArrow`.

    pip install pyspark
    export PYSPARK_PYTHON=$(which python)  # of the executors too
    spark-submit recipes/engines/spark_map_in_arrow.py runs/simulated data/candidates --output scored

Each task opens the model once and computes with one thread, since Spark sets OMP_NUM_THREADS to the cores of a task.
Rows keep their order within a partition only; list the columns of a key under `features.ids` (`--set
'features.ids=[request_id, item_id]'`) to join by.
"""

import argparse
from collections.abc import Iterator
from typing import Literal, get_args

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.pandas.types import from_arrow_schema, to_arrow_schema

import recap

Precision = Literal["auto", "float32", "bf16", "int8"]


def scored(frame: DataFrame, model: str, overrides: list[str], precision: Precision) -> DataFrame:
    """Carried columns, a column for each task, and `score`, for every row of `frame`."""

    def score(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        scorer = recap.Scorer.open(model, overrides=overrides, precision=precision)
        for batch in batches:
            yield from scorer(pa.Table.from_batches([batch])).to_batches()

    no_rows = to_arrow_schema(frame.schema).empty_table()
    schema = recap.Scorer.open(model, overrides=overrides)(no_rows).schema
    return frame.mapInArrow(score, from_arrow_schema(schema))


def main() -> None:
    """Read, score and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="model directory, checkpoint or run; a path that all executors can read")
    parser.add_argument("inputs", help="folder or file of Parquet")
    parser.add_argument("--output", required=True)
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--precision", default="float32", choices=get_args(Precision))
    options = parser.parse_args()
    spark = SparkSession.builder.getOrCreate()
    frame = spark.read.parquet(options.inputs)
    scored(frame, options.model, options.overrides, options.precision).write.parquet(options.output)
    spark.stop()


if __name__ == "__main__":
    main()
