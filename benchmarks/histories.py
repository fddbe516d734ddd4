"""What encoders of histories cost by the number of events.

    python benchmarks/histories.py [--events 100 500 1000 2000] [--candidates 200] [--repeats 5]

Encoders alone, with random weights, one thread, embeddings of width 32, rows of 256 other inputs. Columns, in
milliseconds of CPU time, medians:
`a row` is one row with all its events; `a request` is the events of a user and `--candidates` candidates, of which
`events` is done once and cached between requests; `training` is a row forward and backward, in micro-batches of 4.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from recap.config.histories import HistoryModelConfig
from recap.model.histories import build_history_encoder
from recap.model.histories.encoder import CandidateEncoder
from recap.model.layers import rows_in_lanes

WIDTH, ROW, MICRO_BATCH = 32, 256, 4
BLOCKS = {"width": 64, "num_layers": 2, "num_heads": 2}
ENCODERS: dict[str, dict[str, Any]] = {
    "din": {"kind": "din", "target": "item"},
    "transformer": {"kind": "transformer", "target": "item", **BLOCKS},
    "hstu": {"kind": "hstu", "target": "item", **BLOCKS},
    "hstu with ages": {"kind": "hstu", "target": "item", "ages": "age", **BLOCKS},
    "hstu with ages, interleaved": {"kind": "hstu", "target": "item", "ages": "age", "interleave": "action", **BLOCKS},
    "one_trans": {"kind": "one_trans", "num_tokens": 8, **BLOCKS},
}


def main() -> None:
    """Run the benchmark and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", nargs="+", type=int, default=[100, 500, 1000, 2000])
    parser.add_argument("--candidates", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"| encoder | events | a row | a request of {arguments.candidates} | of it, events | training |")
    print("|---|---|---|---|---|---|")
    for name, values in ENCODERS.items():
        for events in arguments.events:
            times = measure(values, events, arguments.candidates, arguments.repeats)
            print(f"| {name} | {events:,} | {' | '.join(f'{value:.1f}' for value in times)} |", flush=True)


def measure(values: dict[str, Any], count: int, candidates: int, repeats: int) -> list[float]:
    """Milliseconds of a row, of a request, of the events in it, and of a row in training."""
    config = HistoryModelConfig.model_validate({"encoder": values}).encoder
    encoder = build_history_encoder(config, WIDTH, count, ROW)
    assert isinstance(encoder, CandidateEncoder)
    tokens = 2 * count if "interleave" in values else count
    events, targets = (
        torch.randn(MICRO_BATCH, tokens, WIDTH),
        torch.randn(candidates, WIDTH if "target" in values else ROW),
    )
    lengths, ages = torch.full((MICRO_BATCH,), tokens), 1e6 * torch.rand(MICRO_BATCH, tokens)

    def row() -> Tensor:
        return encoder(events[:1], lengths[:1], targets[:1], ages[:1])  # type: ignore[no-any-return]

    def request() -> Tensor:
        return encoder.attend(encoder.encode(events[0], ages[0]), targets)

    def training() -> None:
        encoder(events, lengths, targets[:MICRO_BATCH], ages).sum().backward()

    with torch.inference_mode(), rows_in_lanes():
        times = [median(run, repeats) for run in (row, request, lambda: encoder.encode(events[0], ages[0]))]
    return [*times, median(training, repeats) / MICRO_BATCH]


def median(run: Callable[[], object], repeats: int) -> float:
    """Milliseconds of CPU time."""
    times = []
    for _ in range(repeats + 1):
        started = time.thread_time()
        run()
        times.append(1000 * (time.thread_time() - started))
    return statistics.median(times[1:])


if __name__ == "__main__":
    main()
