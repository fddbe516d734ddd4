"""`recap config check --data`: validation rows that are also training rows, or earlier than some of them."""

from collections.abc import Iterator, Sequence
from contextlib import suppress

from recap.config.checks.warnings import is_training_split
from recap.config.recap import RecapConfig
from recap.data.formats.open import open_format
from recap.data.sample import sampled_chunks
from recap.data.tools.shared import shared_files
from recap.data.tools.times import microseconds_of, shown
from recap.data.tools.values import Finding, Sample
from recap.errors import DataError
from recap.text import plural


def overlap_warnings(samples: Sequence[Sample], config: RecapConfig) -> Iterator[Finding]:
    """Files of validation sets that are also training files, by name or content, or that begin before these end.

    Sets with the same `inputs` are left out, for `RecapConfig.warnings` has them, and those named after the training
    data.
    """
    train = next((sample for sample in samples if sample.path == ("train_data",)), None)
    if train is None:
        return
    end = _times(train, config)
    for sample in samples:
        inputs = None if sample is train else config.validation_data[sample.name].source.inputs
        if inputs in (None, config.train_data.source.inputs) or is_training_split(sample.name):
            continue
        path = (*sample.path, "source", "inputs")
        if shared := shared_files(train.files, sample.files, config.validation_data[sample.name].source):
            file, same = shared[0]
            which = f"{file} is" if file == same else f"{file} has the rows of {same},"
            more = f", and so are {plural(len(shared) - 1, 'other file')}" if len(shared) > 1 else ""
            yield path, f"{which} a training file{more}; hold rows out for validation"
            continue
        begin = _times(sample, config)
        if end is not None and begin is not None and begin[0] < end[1]:
            yield (
                path,
                f"{sample.name} begins at {shown(begin[0])}, before the training data end, at {shown(end[1])}, so the "
                "model knows the future of these rows, which flatters it; split by time: recap data split",
            )


def _times(sample: Sample, config: RecapConfig) -> tuple[int, int] | None:
    """The first and the last time among rows of a data set: those of some chunks, and of the first and last ones.

    None without `features.timestamp`, or if it cannot be read, which is reported where it is needed: in predictions.
    """
    column = config.features.timestamp
    if column is None:
        return None
    data = config.train_data if sample.path == ("train_data",) else config.validation_data[sample.name]
    sampled = [chunk for chunk, _ in sampled_chunks(sample.chunks)]
    times: list[int] = []
    with suppress(DataError):
        format_ = open_format(data.source, {})
        for chunk in dict.fromkeys([sample.chunks[0], sample.chunks[-1], *sampled]):
            if column not in format_.schema(chunk.file).names:
                return None
            table = format_.read(chunk.file, chunk.number, [column])
            if table.num_rows:
                values = microseconds_of(table.column(column), column)
                times += [int(values.min()), int(values.max())]
        return min(times), max(times)
    return None
