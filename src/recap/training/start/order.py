"""Whether the values with wide rows are the frequent ones, in a sample of the training rows."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from recap.data.batch import Batch
from recap.model.ranker import Ranker
from recap.text import plural


def order_warnings(ranker: Ranker, sample: Sequence[Batch]) -> Iterator[str]:
    """A message for each table with a block whose values occur less often than those of the next, narrower one."""
    inputs = ranker.inputs
    for table, lift in inputs.lifts_by_table.items():
        counts = [0] * len(lift.blocks)
        for batch in sample:
            codes = inputs.codes(batch, inputs.discrete)
            for number, block in enumerate(lift.blocks):
                counts[number] += sum(int((codes[name] > 0).sum()) for name in block.features if name in codes)
        rates = [count / (block.num_embeddings - 1) for count, block in zip(counts, lift.blocks, strict=True)]
        for (wide, narrow), block in zip(pairwise(rates), lift.blocks[1:], strict=True):
            if wide < narrow:
                rows = plural(sum(map(len, sample)), "row")
                yield (
                    f"warning: model.embeddings.{table}.narrow: the values before place {block.before:,} occur less "
                    f"often than those after it ({wide:.3g} and {narrow:.3g} times each in a sample of {rows}). Sort "
                    "the vocabulary by frequency, as `recap data vocabulary` writes it"
                )
