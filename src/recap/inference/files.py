"""Bulk prediction into a folder: a file of predictions for each input file, resumable, shared by the ranks."""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from recap.config.file.load import dump_config
from recap.data.coverage import check_known, describe
from recap.data.formats.files import read_bytes
from recap.data.formats.writers import open_writer
from recap.data.tools.convert import ENDINGS
from recap.data.tools.outputs import output_files
from recap.distributed import ONE_RANK, Ranks
from recap.errors import DataError, InputError, RecapError, RunError
from recap.inference.bulk import BackgroundWriter, BulkOptions, BulkScorer, Progress, Scored
from recap.inference.predictor import Predictor
from recap.inference.record import Finished, Record, Unscored
from recap.reporting import Say
from recap.signals import Terminated
from recap.storage import atomic_write, failure, locked, remove_unfinished, writing
from recap.text import plural


@dataclass
class Predicted:
    """What a bulk prediction did."""

    files: list[Path] = field(default_factory=list)
    """The files that are complete, in the order of the inputs."""
    before: int = 0
    """Of these, the files that were complete before."""
    rows: int = 0
    """Rows predicted now."""
    unscored: int = 0
    """Rows of all files with null predictions."""
    failed: list[str] = field(default_factory=list)
    """Inputs, or the ends of some, that could not be read."""


def predict_files(
    predictor: Predictor,
    inputs: Sequence[str],
    output: Path,
    options: BulkOptions | None = None,
    *,
    overwrite: bool = False,
    ranks: Ranks = ONE_RANK,
    progress: Progress | None = None,
    say: Say = lambda text: None,
) -> Predicted:
    """Write a file for each input file: for every row the carried columns, the prediction of each task, and the score.

    Each input is read in the format of its extension. Output files keep their path below the common folder of the
    inputs and are written atomically. Those that `output` holds already are kept if they are of the same model,
    settings and unchanged inputs; `overwrite` replaces all. With `options.lists_bad`, rows that cannot be scored get
    null predictions and are listed in `_errors.jsonl`, like files that cannot be read. Under torchrun each of the
    `ranks` takes some files, and returns the result of all.

    Raises DataError for inputs that cannot be read and for rows that cannot be scored, InputError if an output exists
    that is not of this model and these settings, or two inputs would have the same output, and RunError if one cannot
    be written. Shows the features with the most unknown values at the end; raises DataError, after all files are
    written, if they exceed `features.max_unknown`.
    """
    options = options or BulkOptions()
    bulk = BulkScorer(predictor, inputs, options)
    job = _Job(bulk, output, ranks, progress or Progress(), say)
    settings = _settings(predictor, options)
    job.plan(settings, overwrite=overwrite)
    with job.started(settings):
        result = job.run("run it again without --overwrite" if overwrite else "run the same command again")
    bulk.coverage.all_reduce(ranks)
    if ranks.is_first and (text := describe(bulk.coverage.result(), bulk.coverage.rows)) is not None:
        say(text)
    name = f"{output}: all files are written, but in the inputs"
    check_known(bulk.coverage.result(), predictor.config.features.max_unknown, name)
    return result


def _settings(predictor: Predictor, options: BulkOptions) -> dict[str, str]:
    """What the predictions for an input depend on."""
    settings = {
        "model": predictor.checksum,
        "configuration": sha256(dump_config(predictor.config).encode()).hexdigest(),
        "precision": predictor.precision,
    }
    if options.null_values:
        settings["--null-value"] = ", ".join(options.null_values)
    if options.schema_path is not None:
        try:
            settings["--schema"] = sha256(read_bytes(options.schema_path)).hexdigest()
        except OSError as error:
            raise InputError(f"--schema: {options.schema_path} cannot be read ({failure(error)})") from None
    return settings


class _Job:
    """The files of one job, of which this rank takes its share."""

    def __init__(self, bulk: BulkScorer, output: Path, ranks: Ranks, progress: Progress, say: Say) -> None:
        self.bulk, self.output, self.ranks, self.progress, self.say = bulk, output, ranks, progress, say
        self.targets = output_files(bulk.inputs, output, ENDINGS[bulk.kind])
        self.record = Record(output, ranks.rank)
        self.before: list[Finished] = []
        self.done: list[Finished] = []
        self.left: list[str] = []
        """The files to predict, on all ranks."""
        self.todo: list[str] = []
        """Those of this rank."""
        if not ranks.is_first:
            bulk.unreadable = []  # rank 0 lists the files that no rank can open

    def plan(self, settings: dict[str, str], *, overwrite: bool) -> None:
        """Find what is left to do, and check this rank's share of it; writes nothing. Raises InputError, RunError."""
        stamps = sorted(self.bulk.stamps.items())
        self.ranks.check_equal({"the input files": str(stamps), "the model and its settings": str(settings)})
        finished = self._finished(settings, overwrite=overwrite) if self.ranks.is_first else []
        self.before = list(map(Finished.of, self.ranks.broadcast_object([asdict(done) for done in finished])))
        complete = {done.output for done in self.before}
        self.left = [file for file in self.bulk.stamps if self._name(file) not in complete]
        sizes = {file: self.bulk.stamps[file][1] for file in self.left}
        share = shares(sizes, self.ranks.world_size)[self.ranks.rank]
        error = None
        try:
            self.todo = self.bulk.check([file for file in self.left if file in share])
        except RecapError as caught:
            error = caught
        self._meet("checked", error, None)

    def _finished(self, settings: dict[str, str], *, overwrite: bool) -> list[Finished]:
        """The files that are complete for these settings. Raises InputError for files that may not be replaced."""
        self.record.read()
        differences = self.record.differences(settings)
        present = sorted(name for name in self.record.outputs if os.path.lexists(self.output / name))
        if self.record.settings is not None and differences and present and not overwrite:
            raise InputError(
                f"{self.output}: holds predictions of another model or other settings, which differ in: "
                f"{', '.join(differences)}; add --overwrite to replace them, or choose another --output"
            )
        for file, target in self.targets.items():
            if os.path.lexists(target) and not overwrite and self._name(file) not in self.record.outputs:
                raise InputError(f"{target}: already exists; add --overwrite to replace it, or choose another --output")
        if overwrite or differences:
            others = [name for name in present if name not in set(map(self._name, self.targets))]
            if differences and others:
                self.say(f"{plural(len(others), 'file')} of other settings stay in {self.output}, such as {others[0]}")
            return []
        return [done for done in map(self._complete, self.targets) if done is not None]

    def _complete(self, file: str) -> Finished | None:
        """The record of a file whose predictions are complete, and still there."""
        done = self.record.finished.get(self._name(file))
        if done is None or (done.input, done.stamp) != (file, self.bulk.stamps.get(file)):
            return None
        if done.unscored and not self.bulk.lists_bad:
            return None  # the error that these rows are now comes again
        target = self.targets[file]
        return done if target.is_file() and target.stat().st_size == done.bytes else None

    @contextmanager
    def started(self, settings: dict[str, str]) -> Iterator[None]:
        """Make the folders, remove what killed jobs left, and write the record; the block is then the only writer.

        Raises InputError and RunError.
        """
        with ExitStack() as stack:
            if self.ranks.is_first:
                self._make_folders()
                busy = "another recap predict writes into this folder; wait for it, or choose another --output"
                stack.enter_context(locked(self.output, busy))
                self._start_record(settings)
            self.ranks.barrier()
            yield

    def _make_folders(self) -> None:
        for folder in {self.output: None} | {self.targets[file].parent: None for file in self.left}:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(
                    f"--output: cannot create the folder {folder} ({error.strerror}); choose another"
                ) from None

    def _start_record(self, settings: dict[str, str]) -> None:
        for file in self.left:
            remove_unfinished(self.targets[file])
        current = {self._name(file) for file in self.targets}
        same = self.record.settings == settings
        others = [done for name, done in self.record.finished.items() if same and name not in current]
        self.record.start(settings, sorted(current), [*others, *self.before])

    def run(self, to_continue: str) -> Predicted:
        """Predict the files of this rank; return the result of all ranks. Raises RecapError."""
        for bad in self.bulk.unreadable:
            self.record.add_error(bad)
        self.progress.start(len(self.todo), self.bulk.rows(self.todo))
        error = None
        try:
            for file, tables in self.bulk.scored(self.todo):
                self._predict(file, tables)
                self.progress.finish_file()
        except RecapError as caught:
            error = caught
        except Terminated:
            if self.ranks.is_first:
                of = "of this rank's files" if self.ranks.is_distributed else "files"
                count = f"{len(self.done):,} of {len(self.todo):,} {of}"
                self.say(f"{count} are written and complete; to continue, {to_continue}")
            raise
        finally:
            self.record.close()
        answer = {
            "done": [asdict(done) for done in self.done],
            "failed": sorted({bad.file for bad in self.bulk.unreadable}),
            "todo": len(self.todo),
        }
        answers = self._meet("predicted", error, answer, to_continue)
        done = [*self.before, *(Finished.of(item) for part in answers for item in part["done"])]
        by_name = {item.output: item for item in done}
        failed = {file for part in answers for file in part["failed"]}
        return Predicted(
            [target for file, target in self.targets.items() if self._name(file) in by_name],
            len(self.before),
            sum(item["rows"] for part in answers for item in part["done"]),
            sum(item.unscored for item in by_name.values()),
            [file for file in self.bulk.inputs if file in failed],
        )

    def _predict(self, file: str, tables: Iterable[Scored]) -> None:
        """Write the predictions for one file."""
        target, bulk = self.targets[file], self.bulk
        rows = unscored = 0
        try:
            with (
                writing(target),
                atomic_write(target) as temporary,
                BackgroundWriter(open_writer(bulk.kind, temporary, bulk.schema(file)), file, bulk.kind) as writer,
            ):
                for table, bad in tables:
                    for item in bad:
                        self.record.add_error(item)
                    writer.write(table)
                    rows, unscored = rows + table.num_rows, unscored + len(bad)
                    self.progress.advance(table.num_rows)
        except DataError as error:
            if not bulk.lists_bad:
                raise
            self._give_up(Unscored.of(file, None, error))
            for _ in tables:
                pass
            return
        torn = [bad for bad in bulk.unreadable if bad.file == file]
        for bad_end in torn:
            self.record.add_error(bad_end)
        done = Finished(file, bulk.stamps[file], self._name(file), target.stat().st_size, rows, unscored)
        self.done.append(done)
        if not torn:
            self.record.add(done)

    def _give_up(self, bad: Unscored) -> None:
        self.bulk.unreadable.append(bad)
        self.record.add_error(bad)

    def _meet(self, name: str, error: RecapError | None, answer: Any, to_continue: str = "") -> list[Any]:
        """Wait for all ranks; return their answers. Raises the errors of all on each of them."""
        text = None if error is None else str(error)
        answers = self.ranks.gather(name, [text, isinstance(error, InputError), answer])
        texts = list(dict.fromkeys(text for text, _, _ in answers if text is not None))
        if name == "predicted" and self.ranks.is_first:
            self.record.join()
            done, todo = (sum(part) for part in zip(*((len(a["done"]), a["todo"]) for _, _, a in answers), strict=True))
            if texts and done:
                self.say(f"{done:,} of {todo:,} files are written and complete; to continue, {to_continue}")
        if not texts:
            return [answer for _, _, answer in answers]
        if error is not None and len(texts) == 1:
            raise error
        kind = InputError if all(is_input for text, is_input, _ in answers if text is not None) else RunError
        raise kind("\n".join(texts))

    def _name(self, file: str) -> str:
        return self.targets[file].relative_to(self.output).as_posix()


def shares(sizes: dict[str, int], count: int) -> list[set[str]]:
    """`count` disjoint sets of files with about equal sums of `sizes`: largest first, each to the smallest share."""
    parts: list[set[str]] = [set() for _ in range(count)]
    sums = [0] * count
    for file in sorted(sizes, key=lambda file: (-sizes[file], file)):
        smallest = sums.index(min(sums))
        parts[smallest].add(file)
        sums[smallest] += max(1, sizes[file])
    return parts
