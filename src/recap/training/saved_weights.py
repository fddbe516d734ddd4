"""The running statistics of BatchNorm in evaluation and in saved models, estimated anew if configured.

Training averages the statistics of its last micro-batches, at most some dozens and under weights that still moved, and
of the raw weights, not of their moving average. Wu & Johnson, "Rethinking 'Batch' in BatchNorm" (arXiv:2105.07576,
section 3), call the remedy PreciseBN.
"""

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager

import torch
from torch import Tensor, nn

from recap.config.recap import RecapConfig
from recap.data.batch import Batch
from recap.data.stream.batch_stream import BatchStream
from recap.model.ranker import Ranker
from recap.runtime import Runtime
from recap.training.average import WeightAverage
from recap.training.parallel import Strategy
from recap.training.step import split_rows


class SavedWeights:
    """The weights that are evaluated and saved: averages if configured, with estimated statistics if configured.

    Frozen BatchNorms and BatchRenorm keep their statistics.
    """

    def __init__(
        self,
        config: RecapConfig,
        ranker: Ranker,
        average: WeightAverage,
        stream: BatchStream,
        runtime: Runtime,
        strategy: Strategy,
    ) -> None:
        self.rows, self.micro_batches = config.training.batch_norm_rows, config.training.gradient_accumulation or 1
        self.ranker, self.average, self.stream = ranker, average, stream
        self.runtime, self.strategy = runtime, strategy
        ranker.train()
        named = {name: layer for name, layer in ranker.named_modules() if isinstance(layer, nn.BatchNorm1d)}
        self.names = [name for name, layer in named.items() if layer.training]
        self.layers = [named[name] for name in self.names]
        self.estimates: list[Tensor] = []
        """The estimated statistics of the current weights; empty if they are not estimated."""

    @property
    def _statistics(self) -> dict[str, Tensor]:
        """The running means and variances by name."""
        return {
            f"{name}.{key}": buffer
            for name, layer in zip(self.names, self.layers, strict=True)
            for key, buffer in layer.named_buffers(recurse=False)
            if buffer.is_floating_point()
        }

    def forget(self) -> None:
        """The weights moved."""
        self.estimates = []

    def estimate(self) -> None:
        """Estimate the statistics of the current weights, unless that is done; every rank must call it.

        One pass over the first `batch_norm_rows` rows of the training stream, in micro-batches as in training, but
        without dropout: the mean over micro-batches of their means, and of their variances. Raises DataError.
        """
        if self.rows is None or self.estimates or not self.layers:
            return
        statistics = list(self._statistics.values())
        before = [tensor.clone() for tensor in statistics]
        try:
            with self._averaging(), self.average.applied(), torch.no_grad(), self.runtime.autocast():
                for number, batch in enumerate(self._micro_batches(self.rows), start=1):
                    for layer in self.layers:
                        layer.momentum = 1 / number
                    self.ranker.raw_outputs(batch)
            self.strategy.average_statistics(statistics)
            estimates = [tensor.clone() for tensor in statistics]
        finally:  # training goes on with its own, also after a signal or bad data
            for tensor, value in zip(statistics, before, strict=True):
                tensor.copy_(value)
        self.estimates = estimates

    @contextmanager
    def _averaging(self) -> Iterator[None]:
        """For the block: evaluation mode, in which BatchNorm alone works as in training, and counts no batches."""
        settings = [(layer.momentum, layer.num_batches_tracked) for layer in self.layers]
        self.ranker.eval()
        for layer in self.layers:
            layer.train()
            layer.num_batches_tracked = None
        try:
            yield
        finally:
            for layer, (momentum, batches) in zip(self.layers, settings, strict=True):
                layer.momentum, layer.num_batches_tracked = momentum, batches
            self.ranker.train()

    def _micro_batches(self, rows: int) -> Iterator[Batch]:
        """This rank's share of the first rows of the training stream, at most one epoch."""
        with closing(iter(self.stream.restarted())) as batches:
            for number, batch in enumerate(batches, start=1):
                for part in split_rows(batch, self.micro_batches):
                    yield part.to(self.runtime.device)
                if number * self.stream.batch_rows >= min(rows, self.stream.order.rows):
                    return

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Swap averages and estimates into the ranker for the block."""
        with self.average.applied():
            self._swap()
            try:
                yield
            finally:
                self._swap()

    def _swap(self) -> None:
        if self.estimates:
            for index, buffer in enumerate(self._statistics.values()):
                self.estimates[index], buffer.data = buffer.data, self.estimates[index]

    def state_dict(self) -> Mapping[str, Tensor]:
        """The statistics of training by name, if saved models have others. Do not call it while those are applied."""
        return self._statistics if self.rows is not None else {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.forget()
        for name, buffer in self._statistics.items():
            buffer.copy_(state[name])
