"""Speed and memory of `recap data aggregate` on a large simulated log.

    python benchmarks/aggregate.py [--rows 20000000] [--memory-gib 4] [--folder DIR] [--duckdb]

Writes a log of fifty days with users, authors and items of which few are popular, then runs the aggregates below in a
process of its own, which may allocate no more than `--memory-gib` (beyond the files that it maps). Prints rows/s,
seconds of CPU, and the peak of the memory that it allocated. `--duckdb` computes the same columns as `few` with
DuckDB's windows, in the same memory; it must be installed.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from recap.config.aggregates.spec import AggregatesConfig
from recap.data.aggregate.run import aggregate_files

DAYS, FILE_ROWS, GROUP_ROWS = 50, 1_000_000, 65_536
FEW = {
    "time": {"column": "time_ms", "unit": "ms"},
    "delay": "10m",
    "keys": {"user": ["user_id"]},
    "aggregates": [
        {"kind": "count", "keys": ["user"], "windows": ["1d", "7d"]},
        {"kind": "rate", "keys": ["user"], "priors": {"click": 0.1}, "strength": 20.0, "windows": ["1d", "7d"]},
    ],
}
"""Four columns of one key, which DuckDB computes too."""
MANY = FEW | {
    "keys": {"user": ["user_id"], "item": ["item_id"], "author": ["author_id"], "pair": ["user_id", "author_id"]},
    "aggregates": [
        {"kind": "count", "keys": ["user", "item", "author", "pair"], "windows": ["30m", "1d", "7d", "all"]},
        {
            "kind": "rate",
            "keys": ["user", "item", "author", "pair"],
            "priors": {"click": "running", "like": 0.01},
            "strength": 20.0,
            "windows": ["1d", "7d", "all"],
        },
        {"kind": "recency", "keys": ["user", "pair"], "labels": ["click"]},
        {"kind": "last", "keys": ["user"], "columns": ["item_id"], "length": 20, "labels": ["click"]},
    ],
}
"""43 columns of four keys."""
DUCKDB = """
COPY (
  SELECT * EXCLUDE (row) FROM (
    SELECT *,
      count(*) OVER (key RANGE BETWEEN 86400000 PRECEDING AND 1 PRECEDING) AS user_count_1d,
      count(*) OVER (key RANGE BETWEEN 604800000 PRECEDING AND 1 PRECEDING) AS user_count_7d,
      (coalesce(sum(click) OVER (key RANGE BETWEEN 87000000 PRECEDING AND 600001 PRECEDING), 0) + 2.0)
        / (count(click) OVER (key RANGE BETWEEN 87000000 PRECEDING AND 600001 PRECEDING) + 20) AS user_click_rate_1d,
      (coalesce(sum(click) OVER (key RANGE BETWEEN 605400000 PRECEDING AND 600001 PRECEDING), 0) + 2.0)
        / (count(click) OVER (key RANGE BETWEEN 605400000 PRECEDING AND 600001 PRECEDING) + 20) AS user_click_rate_7d
    FROM (SELECT *, row_number() OVER () AS row FROM read_parquet('{log}/*.parquet'))
    WINDOW key AS (PARTITION BY user_id ORDER BY time_ms)
  ) ORDER BY row
) TO '{output}' (FORMAT parquet, COMPRESSION zstd)
"""


def main() -> None:
    """Write the log, run each part in a process, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000_000)
    parser.add_argument("--memory-gib", type=float, default=4.0)
    parser.add_argument("--folder", type=Path, help="for the log and temporary files; default: a temporary one")
    parser.add_argument("--duckdb", action="store_true")
    parser.add_argument("--part", choices=("few", "many", "duckdb"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        run_part(options.part, options.folder, options.memory_gib)
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as made:
        folder = Path(made)
        write_log(folder / "log", options.rows)
        for part in ("few", "many", *(["duckdb"] if options.duckdb else [])):
            arguments = ["--part", part, "--folder", str(folder), "--memory-gib", str(options.memory_gib)]
            done = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True, check=False)
            if done.returncode:
                print(f"{part}: failed: {done.stderr.strip().splitlines()[-1]}")
                continue
            seconds, cpu, peak = json.loads(done.stdout)
            print(
                f"{part}: {options.rows:,} rows in {seconds:.0f} s, {options.rows / seconds:,.0f} rows/s, "
                f"{cpu:.0f} s of CPU, peak {peak / 2**30:.2f} GiB"
            )


def write_log(folder: Path, rows: int) -> None:
    """Write a log in the order of time."""
    folder.mkdir()
    random = np.random.default_rng(0)
    step = DAYS * 86_400_000 / rows
    for number, first in enumerate(range(0, rows, FILE_ROWS)):
        count = min(FILE_ROWS, rows - first)
        items = popular(random, count, 200_000)
        columns = {
            "time_ms": (1_700_000_000_000 + (first + np.arange(count)) * step).astype(np.int64),
            "user_id": popular(random, count, max(rows // 50, 10)),
            "item_id": items,
            "author_id": items % 20_000,
            "click": (random.random(count) < 0.1).astype(np.int8),
            "like": (random.random(count) < 0.01).astype(np.int8),
        }
        pq.write_table(pa.table(columns), folder / f"{number:04}.parquet", row_group_size=GROUP_ROWS)


def popular(random: np.random.Generator, count: int, ids: int) -> np.ndarray:
    """[count] ids below `ids`: the share of the lowest x of them is √x."""
    return (random.random(count) ** 2 * ids).astype(np.int64)


def run_part(part: str, folder: Path, memory_gib: float) -> None:
    """Run one part; print its seconds, those of CPU, and its peak memory as JSON."""
    limit = int(memory_gib * 2**30)
    if part != "duckdb":  # DuckDB reserves more than it uses, and limits itself
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    with Peak() as peak:
        start = time.perf_counter()
        if part == "duckdb":
            import duckdb

            connection = duckdb.connect()
            connection.execute(f"SET memory_limit='{limit // 2**20}MiB'; SET temp_directory='{folder}/duckdb'")
            connection.execute(DUCKDB.format(log=folder / "log", output=folder / "duckdb.parquet"))
        else:
            spec = AggregatesConfig.model_validate(FEW if part == "few" else MANY)
            aggregate_files(spec, [str(folder / "log" / "*.parquet")], folder / part)
        seconds = time.perf_counter() - start
    print(json.dumps([seconds, time.process_time(), peak.bytes]))


class Peak:
    """The highest memory of this process that is not a mapped file, sampled twenty times a second."""

    def __enter__(self) -> "Peak":
        self.bytes, self._ended = 0, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        process = psutil.Process()
        while not self._ended.wait(0.05):
            memory = process.memory_info()
            self.bytes = max(self.bytes, memory.rss - memory.shared)

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


if __name__ == "__main__":
    main()
