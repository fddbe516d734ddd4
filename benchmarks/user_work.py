"""What a request gains when the work for its user is done once instead of once per candidate.

    python benchmarks/user_work.py [--candidates 100 500 1500] [--events 100] [--repeats 9]

Models with random weights, one thread: half of 60 numbers and 20 codes and a vector of 256 belong to the user, a vector
of 64 to the candidate; one model has no history, the others one of `--events` events with an encoder each. Columns:
`repeated` is the time of the model for the candidates as rows of a file, `once` that of the request, `cached` that of
the next request of the same user, `encode` that of turning the tables of the request into tensors, all in
milliseconds of CPU time, medians; the gains are `repeated` / `once` and `repeated` / `cached`.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from recap.config.file.load import config_of
from recap.data.formats.location import Location
from recap.inference.predictor import Predictor
from recap.inference.requests import RequestScorer
from recap.model.directory import SavedModel, build_ranker
from recap.runtime import start_runtime

NUMBERS, CODES, IDS = 60, 20, 100_000
ENCODERS: dict[str, dict[str, Any] | None] = {
    "no history": None,
    "pooling": {"kind": "pooling"},
    "din": {"kind": "din", "target": "item"},
    "transformer": {"kind": "transformer", "target": "item", "width": 64, "num_layers": 2, "num_heads": 2},
}


def main() -> None:
    """Run the benchmark and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", nargs="+", type=int, default=[100, 500, 1500])
    parser.add_argument("--events", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=9)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print("| model | candidates | repeated | once | cached | gain | gain, cached | encode |")
    print("|---|---|---|---|---|---|---|---|")
    for name, encoder in ENCODERS.items():
        predictor = make_predictor(encoder, arguments.events)
        for candidates in arguments.candidates:
            times = measure(predictor, candidates, arguments.events, arguments.repeats)
            shown = " | ".join(f"{times[key]:.2f}" for key in ("repeated", "once", "cached"))
            gains = " | ".join(f"{times['repeated'] / times[key]:.1f}×" for key in ("once", "cached"))
            print(f"| {name} | {candidates} | {shown} | {gains} | {times['encode']:.2f} |", flush=True)


def make_predictor(encoder: dict[str, Any] | None, events: int) -> Predictor:
    """A parallel mask_net of two blocks with random weights."""
    rate = {"kind": "constant", "learning_rate": 0.01}
    history = {"ids": {"column": "watched", "table": "item"}, "max_length": events}
    values: dict[str, Any] = {
        "training": {"save_dir": "unused", "num_train_steps": 1},
        "features": {
            "continuous": [f"number{index}" for index in range(NUMBERS)],
            "discrete": {"item": {"size": IDS}, **{f"code{index}": {"size": 50} for index in range(CODES)}},
            "vectors": {"user_vector": 256, "item_vector": 64},
            **({"histories": {"watched": history}} if encoder is not None else {}),
        },
        "model": {
            "embeddings": {"default": 4, "item": 32},
            **({"histories": {"watched": {"encoder": encoder}}} if encoder is not None else {}),
            "backbone": {
                "kind": "mask_net",
                "use_parallel": True,
                "mask_blocks": [{"output_size": 128, "aggregation_size": 128}] * 2,
                "mlp": {"layer_sizes": [128]},
            },
            "sharing": {"kind": "share_all"},
            "tasks": {"like": {"tower": {"kind": "mlp", "layer_sizes": [32]}}},
        },
        "optimizer": {"backbone": rate, "towers": {"default": rate}},
        "train_data": {"source": {"inputs": "unused.parquet"}, "tasks": {"like": {}}},
    }
    config = config_of(values)
    return Predictor(SavedModel(config, {}, build_ranker(config, {})), start_runtime())


def make_request(scorer: RequestScorer, candidates: int, events: int) -> tuple[pa.Table, pa.Table]:
    """A user, and `candidates` candidates."""
    random = np.random.default_rng(0)

    def column(name: str, rows: int) -> pa.Array:
        if name.endswith("_vector"):
            width = scorer.config.features.vectors[name].length
            return pa.FixedSizeListArray.from_arrays(random.normal(size=rows * width).astype(np.float32), width)
        if name.startswith("number"):
            return pa.array(random.lognormal(size=rows).astype(np.float32))
        if name == "watched":
            return pa.array([random.integers(0, IDS, events)])
        return pa.array(random.integers(0, IDS if name == "item" else 50, rows))

    own = [*(f"number{i}" for i in range(0, NUMBERS, 2)), *(f"code{i}" for i in range(0, CODES, 2)), "user_vector"]
    own += ["watched"] if "watched" in scorer.schema else []
    user = pa.table({name: column(name, 1) for name in own})
    return user, pa.table({name: column(name, candidates) for name in scorer.schema if name not in own})


def measure(predictor: Predictor, candidates: int, events: int, repeats: int) -> dict[str, float]:
    """Column of the table → milliseconds."""
    plain, caching = RequestScorer(predictor), RequestScorer(predictor, cache_bytes=1 << 28)
    user, others = make_request(plain, candidates, events)
    rows = others
    for name in user.column_names:
        rows = rows.append_column(name, user.column(name).take(pa.array([0] * candidates)))
    batch = predictor.encoder.encode(rows, Location("request"))
    request, cached = plain.encode(user, others), caching.encode(user, others)
    measured: dict[str, Callable[[], object]] = {
        "repeated": lambda: predictor.score(batch),
        "once": lambda: plain.score([request]),
        "cached": lambda: caching.score([cached]),
        "encode": lambda: plain.encode(user, others),
    }
    times: dict[str, list[float]] = {name: [] for name in measured}
    for number in range(repeats + 2):
        for name, run in measured.items():  # in turn, so that a busy machine slows all of them
            started = time.thread_time()
            run()
            if number >= 2:
                times[name].append(1000 * (time.thread_time() - started))
    return {name: statistics.median(values) for name, values in times.items()}


if __name__ == "__main__":
    main()
