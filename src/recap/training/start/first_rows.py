"""The first rows of a training run: which features hold values that the model does not know."""

from recap.data.batch import Batch
from recap.data.coverage import Coverage, check_known, describe, too_unknown
from recap.data.sample import sampled_coverage
from recap.data.stream.batch_stream import BatchStream
from recap.distributed import Ranks
from recap.errors import DataError, InputError
from recap.reporting import Say

_STEPS = 100
_ROWS = 65_536


class FirstRows:
    """Counts the unknown values of the first batches of this process, up to `_STEPS` steps or `_ROWS` rows."""

    def __init__(self, stream: BatchStream, limit: float | None, ranks: Ranks, say: Say) -> None:
        """`limit`: `features.max_unknown`."""
        self.stream, self.limit, self.ranks, self.say = stream, limit, ranks, say
        self.coverage = Coverage(stream.source.encoder)
        self.steps = 0
        self.is_done = False

    def add(self, batch: Batch | None, *, is_last: bool) -> None:
        """Count the rows of this rank in a step; every rank must call it after each step.

        Shows the shares once there are enough rows, or at the last step. Raises InputError for features with more
        unknown values than the limit.
        """
        if self.is_done:
            return
        if batch is not None:
            self.coverage.add(batch)
            self.steps += 1
        if self.steps >= _STEPS or self.steps * self.stream.batch_rows >= _ROWS or is_last:
            self.is_done = True
            self._report()

    def _report(self) -> None:
        self.coverage.all_reduce(self.ranks)
        counts = self.coverage.result()
        text = describe(counts, self.coverage.rows)
        if text is not None:
            self.say(text)
        if too_unknown(counts, self.limit):
            separated = sampled_coverage(self.stream.source).result() if self.limit is None else counts
            try:
                check_known(separated, self.limit, "train_data")
            except DataError as error:  # the columns are wrong, not some rows, so there is nothing to save
                raise InputError(str(error)) from None
