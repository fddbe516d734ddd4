"""Writes the simulated feed: training and validation data, the vocabulary, and the true probabilities."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recap.data.simulate.world import BLOCK_MS, BLOCK_ROWS, LANGUAGES, START_MS, TASKS, World
from recap.data.tools.outputs import check_folder
from recap.errors import InputError
from recap.storage import atomic_write, replace_text, writing

BLOCKS_PER_FILE = 4
TRUTH = "truth.json"
VOCABULARY = "languages.parquet"
UNFINISHED = "unfinished.json"
"""Marks a folder in which a feed is being written."""
MADE_OF = "made_of"
_OWN_FILES = re.compile(
    rf"(truth/)?(train|validation)/part-\d{{5,}}\.parquet(\.unfinished)?|({TRUTH}|{VOCABULARY})(\.unfinished)?"
)
_FOLDERS = ("train/", "validation/", "truth/")
_BINS = 1 << 16


def simulate(
    output: Path,
    *,
    rows: int = 500_000,
    validation_rows: int = 100_000,
    seed: int = 0,
    embedding_size: int = 32,
    downsample: Mapping[str, float] | None = None,
    overwrite: bool = False,
    after_rows: Callable[[int], None] = lambda rows: None,
) -> bool:
    """Write a feed into `output`; return False if it already holds the same feed.

    `train/` and `validation/` hold Parquet files; `truth/` the true probability of each label, row by row;
    `languages.parquet` the vocabulary; and `truth.json`, written last, the metrics of the true probabilities on the
    validation rows. `downsample`: task → probability with which its negatives stay in `train/`. Memory does not grow
    with `rows`. Raises InputError for invalid arguments, if `output` holds files that are not of a feed, and without
    `overwrite` if it holds another feed; RunError if a file cannot be written.
    """
    downsample = dict(downsample or {})
    _check(rows, validation_rows, embedding_size, downsample)
    made_of = {
        "rows": rows,
        "validation_rows": validation_rows,
        "seed": seed,
        "embedding_size": embedding_size,
        "downsample": downsample,
    }
    if _is_complete(output, made_of, overwrite=overwrite):
        return False
    _start(output, made_of)
    world = World(seed, embedding_size)
    validation_start = START_MS + -(-rows // BLOCK_ROWS) * BLOCK_MS
    _write_split(world, output, "train", rows, START_MS, downsample, after_rows)
    metrics = _write_split(world, output, "validation", validation_rows, validation_start, {}, after_rows)
    with writing(output / VOCABULARY) as file, atomic_write(file) as temporary:
        pq.write_table(pa.table({"value": list(LANGUAGES)}), temporary)
    replace_text(output / TRUTH, json.dumps({MADE_OF: made_of, "validation": metrics}, indent=1) + "\n")
    (output / UNFINISHED).unlink()
    return True


def _check(rows: int, validation_rows: int, embedding_size: int, downsample: Mapping[str, float]) -> None:
    if rows < 1 or validation_rows < 1:
        raise InputError(f"rows: must be at least 1 for train and validation, found {rows} and {validation_rows}")
    if embedding_size < 8:
        raise InputError(f"embedding size: must be at least 8, found {embedding_size}")
    for task, rate in downsample.items():
        if task not in TASKS:
            raise InputError(f"downsample: unknown task {task!r}. Known: {', '.join(TASKS)}")
        if not 0 < rate <= 1:
            raise InputError(f"downsample: the rate of {task} must be in (0, 1], found {rate:g}")


def _is_complete(output: Path, made_of: Mapping[str, object], *, overwrite: bool) -> bool:
    """Whether `output` holds the complete feed of arguments `made_of`.

    Raises InputError if it holds another feed, or files that the feed would replace or be mixed with.
    """
    check_folder(output)
    if not output.exists():
        return False
    present, unfinished = _made_of(output / TRUTH), (output / UNFINISHED).exists()
    if present is not None and not unfinished and not overwrite:
        if present == made_of:
            return True
        raise InputError(f"{output}: holds another feed ({present}); add --overwrite, or choose another folder")
    is_feed = present is not None or unfinished
    for name in sorted(str(file.relative_to(output)) for file in _files(output)):
        if not is_feed or (name.startswith(_FOLDERS) and not _OWN_FILES.fullmatch(name)):
            raise InputError(f"{output}: holds other files ({name}, …); choose an empty or a new folder")
    return False


def _made_of(truth: Path) -> object:
    """The arguments of the feed with this `truth.json`; None if the file is missing or something else."""
    try:
        content = json.loads(truth.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content.get(MADE_OF) if isinstance(content, dict) else None


def _files(folder: Path) -> Iterator[Path]:
    """Everything below a folder that is not a folder; links to folders are not followed."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            yield from _files(path)
        else:
            yield path


def _start(output: Path, made_of: Mapping[str, object]) -> None:
    """Mark `output` as an unfinished feed, then delete the files of the feed before. Raises InputError, RunError."""
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--output: cannot create {output} ({error.strerror}); choose another") from None
    replace_text(output / UNFINISHED, json.dumps({MADE_OF: made_of}) + "\n")
    for file in [file for file in _files(output) if _OWN_FILES.fullmatch(str(file.relative_to(output)))]:
        with writing(file):
            file.unlink()


def _write_split(
    world: World,
    output: Path,
    split: str,
    rows: int,
    start_ms: int,
    downsample: Mapping[str, float],
    after_rows: Callable[[int], None],
) -> dict[str, dict[str, float]]:
    """Write the rows of a split and their true probabilities; return task → metrics of the probabilities."""
    metrics = {task: _TruthMetrics() for task in TASKS}
    blocks = -(-rows // BLOCK_ROWS)
    for first in range(0, blocks, BLOCKS_PER_FILE):
        tables = []
        for number in range(first, min(first + BLOCKS_PER_FILE, blocks)):
            size = min(BLOCK_ROWS, rows - number * BLOCK_ROWS)
            block = world.block(["train", "validation"].index(split), number, start_ms + number * BLOCK_MS, size)
            mask = _sample(block.rows, downsample, np.random.default_rng([world.seed, 3, number]))
            data, truth = block.rows.filter(mask), block.truth.filter(mask)
            for task, metric in metrics.items():
                metric.add(truth.column(task).to_numpy(), data.column(task).to_numpy())
            tables.append((data, truth))
            after_rows(size)
        name = f"part-{first // BLOCKS_PER_FILE:05d}.parquet"
        for index, folder in enumerate((output / split, output / "truth" / split)):
            with writing(folder / name) as file:
                folder.mkdir(parents=True, exist_ok=True)
                with atomic_write(file) as temporary:
                    _write_tables([pair[index] for pair in tables], temporary)
    return {task: metric.result() for task, metric in metrics.items()}


def _sample(rows: pa.Table, downsample: Mapping[str, float], random: np.random.Generator) -> pa.Array:
    """A mask of the rows to write: all positives, and a sample of the negatives."""
    mask = np.ones(rows.num_rows, bool)
    for task, rate in downsample.items():
        mask &= (rows.column(task).to_numpy() == 1) | (random.random(rows.num_rows) < rate)
    return pa.array(mask)


def _write_tables(tables: list[pa.Table], path: Path) -> None:
    with pq.ParquetWriter(path, tables[0].schema, compression="zstd", compression_level=1) as writer:
        for table in tables:
            writer.write_table(table)


class _TruthMetrics:
    """Log loss and AUC of the true probabilities, in constant memory; no model can do better."""

    def __init__(self) -> None:
        self.rows, self.loss = 0, 0.0
        self.bins = np.zeros((2, _BINS))  # negatives and positives by logit, 5e-4 apart

    def add(
        self,
        truth: "np.ndarray[tuple[int], np.dtype[np.float64]]",
        labels: "np.ndarray[tuple[int], np.dtype[np.int8]]",
    ) -> None:
        """Add rows: probabilities and 0/1 labels, [B] each."""
        self.rows += len(truth)
        self.loss -= float(np.log(np.where(labels == 1, truth, 1 - truth)).sum())
        logits = np.log(truth) - np.log1p(-truth)
        bins = ((logits.clip(-16, 16) + 16) / 32 * (_BINS - 1)).astype(np.int64)
        for label in (0, 1):
            self.bins[label] += np.bincount(bins[labels == label], minlength=_BINS)

    def result(self) -> dict[str, float]:
        """`positives`, `rate`, `log_loss` and `auc` (0.5 if a class is missing)."""
        negatives, positives = self.bins
        pairs = negatives.sum() * positives.sum()
        below = np.cumsum(negatives) - negatives
        area = float((positives * (below + 0.5 * negatives)).sum() / pairs) if pairs else 0.5
        count = float(positives.sum())
        rows = max(self.rows, 1)
        return {"positives": count, "rate": count / rows, "log_loss": self.loss / rows, "auc": area}
