"""Several ranks give the results of one: the same rows per step, the same losses, the same end."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from support import Recorder, feed_config, feed_values, write_feed
from torch.distributed import HashStore
from torch.testing import assert_close
from training.runs import assert_same_run, files, records, with_overflow

from recap.config.file.load import load_config
from recap.config.recap import JobMode
from recap.data.batch import Batch, assemble, slice_selections
from recap.data.encoding.assets import load_assets
from recap.data.open import open_stream
from recap.data.stream.batch_stream import BatchStream
from recap.distributed import ONE_RANK, Ranks
from recap.errors import InputError, RunError
from recap.model.directory import build_ranker
from recap.rendezvous import agreed_store, ranks_from_environment
from recap.runs import Run
from recap.runtime import Runtime, seed_torch
from recap.training.balancing.build import build_balancing
from recap.training.optimizer.scheduled import ScheduledOptimizer
from recap.training.parallel import DataParallel
from recap.training.step import TrainStep
from recap.training.trainer import train as run_training

SAMPLING = {"batch_multiplier": 3, "keep_positives_of": ["share"]}
ENVIRONMENT = {
    "RANK": "1",
    "WORLD_SIZE": "2",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
}


# The rows of a step.


@given(rows=st.integers(0, 300), world_size=st.integers(1, 9))
def test_shares_of_ranks_partition_the_rows_evenly(rows: int, world_size: int) -> None:
    shares = [range(rows)[Ranks(rank, world_size).share(rows)] for rank in range(world_size)]
    assert [row for share in shares for row in share] == list(range(rows))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@given(
    parts=st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=1, max_size=5),
    start=st.integers(0, 40),
    count=st.integers(0, 40),
    seed=st.integers(0, 99),
)
def test_sliced_selections_hold_the_rows_of_the_slice(
    parts: list[tuple[int, bool]], start: int, count: int, seed: int
) -> None:
    torch.manual_seed(seed)
    none = torch.zeros(9, 0)
    batch = Batch(torch.rand(9, 1), none, none.long(), {})
    picks = [(batch, slice(9 - size, 9) if whole else torch.randperm(9)[:size].numpy()) for size, whole in parts]
    whole = assemble(picks).continuous
    assert torch.equal(
        assemble(slice_selections(picks, slice(start, start + count))).continuous, whole[start : start + count]
    )


def open_share(feed: Path, mode: JobMode, ranks: Ranks, batch_rows: int, sampled: bool = False) -> BatchStream:
    train_data = {
        **feed_values(feed, feed / "run")["train_data"],
        "global_batch_size": batch_rows,
        "num_epochs": 2,
        "downsample_negatives": SAMPLING if sampled else None,
    }
    config = feed_config(feed, feed / "run", train_data=train_data)
    split = None if mode is JobMode.TRAIN else "validation"
    return open_stream(config, load_assets(config.features), mode, split, ranks=ranks)


def row_keys(batch: Batch) -> torch.Tensor:
    """The vector and weight of each row, which identify it."""
    assert batch.weights is not None
    return torch.cat([batch.vectors["vector"], batch.weights], dim=1)


@pytest.mark.parametrize("mode", [JobMode.TRAIN, JobMode.EVALUATE])
@given(batch_rows=st.integers(2, 130), world_size=st.integers(1, 5), batches=st.integers(0, 3), sampled=st.booleans())
@settings(max_examples=20, deadline=None)
def test_ranks_together_read_the_batches_of_one_from_any_position(
    feed: Path, mode: JobMode, batch_rows: int, world_size: int, batches: int, sampled: bool
) -> None:
    sampled = sampled and mode is JobMode.TRAIN
    whole = open_share(feed, mode, ONE_RANK, batch_rows, sampled)
    rest = iter(whole)
    for _, _batch in zip(range(batches), rest, strict=False):
        pass
    shares = [open_share(feed, mode, Ranks(rank, world_size), batch_rows, sampled) for rank in range(world_size)]
    for share in shares:
        share.load_state_dict(whole.state_dict())
    ranks = [iter(share) for share in shares]
    for _, batch in zip(range(4), rest, strict=False):
        together = torch.cat([row_keys(next(rank)) for rank in ranks])
        assert torch.equal(together, row_keys(batch))
        assert all(share.state_dict() == whole.state_dict() for share in shares)
    for stream in (rest, *ranks):
        stream.close()


def test_rank_0_draws_like_a_single_process_and_others_differ() -> None:
    drawn = []
    for arguments in ((3, 5), (3, 5, 0), (3, 5, 1), (3, 5, 2), (3, 6)):
        seed_torch(*arguments)
        drawn.append(torch.rand(4).tolist())
    assert drawn[0] == drawn[1]
    assert len({tuple(numbers) for numbers in drawn}) == 4


def test_ranks_with_too_few_rows_per_micro_batch_are_refused(feed: Path, tmp_path: Path) -> None:
    config = feed_config(feed, tmp_path / "run", training={"gradient_accumulation": 3})
    ranker = build_ranker(config, load_assets(config.features))
    balancing = build_balancing(config, ranker.parameters(), torch.device("cpu"))
    optimizer = ScheduledOptimizer(config, ranker)
    runtime = Runtime(torch.device("cpu"))
    for world_size in (1, 10):  # 64 rows: 6 per rank are 3 micro-batches of 2
        DataParallel(Ranks(0, world_size)).check_batch(64, 3, 2)
    with pytest.raises(InputError, match=r"global_batch_size: 64 rows are too few for 11 ranks .* at least 66"):
        TrainStep(config, ranker, balancing, optimizer, runtime, DataParallel(Ranks(0, 11)))


# The environment.


def test_without_torchrun_there_is_one_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    assert ranks_from_environment() == ONE_RANK


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"MASTER_PORT": None, "LOCAL_RANK": None},
            "RANK=1 but not LOCAL_RANK, MASTER_PORT; start the ranks with torchrun",
        ),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE=two, .*expected whole numbers"),
        ({"LOCAL_RANK": "-1"}, "LOCAL_RANK=-1, .*expected whole numbers"),
        ({"RANK": "2"}, "RANK=2, .*below the world size"),
        ({"LOCAL_WORLD_SIZE": "1"}, "LOCAL_WORLD_SIZE=1, .*below the world size"),
    ],
)
def test_an_invalid_environment_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, str | None], message: str
) -> None:
    for name, value in {**ENVIRONMENT, **changes}.items():
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=message):
        ranks_from_environment()


def test_a_valid_environment_gives_the_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    assert ranks_from_environment() == Ranks(1, 2, 1, 2)


@pytest.mark.slow
def test_only_some_commands_run_in_several_processes(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "recap", "compare", str(tmp_path)]
    # Nobody listens at this port, so other ranks cannot be asked, and the error is printed.
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | ENVIRONMENT)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        "only 'recap train', 'recap evaluate', 'recap calibrate' and 'recap predict' can run in several processes; "
        "run this command without torchrun"
    )


@given(stale=st.lists(st.integers(1, 3), max_size=3))
@settings(max_examples=10, deadline=None)
def test_ranks_find_their_group_in_a_store_that_earlier_groups_used(stale: list[int]) -> None:
    store = HashStore()
    groups = []
    for world_size in (*stale, 3):
        with ThreadPoolExecutor(world_size) as pool:
            found = list(
                pool.map(lambda rank, size=world_size: agreed_store(store, Ranks(rank, size)), range(world_size))
            )
        found[0].set("mine", str(world_size))
        assert all(part.get("mine") == str(world_size).encode() for part in found)
        groups.append(found)
    for earlier in groups[:-1]:
        earlier[0].set("mine", "stale")
    assert groups[-1][0].get("mine") == b"3"


# Under torchrun.


ALL = os.environ | {"OMP_NUM_THREADS": "1"}
PAGE = (Path(__file__).parents[2] / "docs" / "distributed.md").read_text()
DOCUMENTED, _ = re.findall(r"^torchrun (.+) 2 -m recap train ranker.yaml$", PAGE, re.MULTILINE)
LAUNCH = [sys.executable, "-m", "torch.distributed.run", *shlex.split(DOCUMENTED)]
"""The command on the page about training, with the number of ranks as a parameter."""


LIMIT = 400.0
"""Seconds after which something hangs, also on a busy machine."""
CAPTURED: dict[str, Any] = {"capture_output": True, "text": True, "timeout": LIMIT, "env": ALL}


def command(ranks: int, *arguments: str | Path) -> list[str]:
    return [*LAUNCH, str(ranks), "-m", "recap", "train", *map(str, arguments)]


def train(ranks: int, *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command(ranks, *arguments), **CAPTURED)


def finish(ranks: int, *arguments: str | Path) -> None:
    done = train(ranks, *arguments)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("next: recap ") == 1


def started(ranks: int, config: Path, run: Path, *options: str) -> "subprocess.Popen[str]":
    """Start a run with `options` of torchrun, and wait for its first checkpoint."""
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    line = command(ranks, config)
    process = subprocess.Popen([*line[:3], *options, *line[3:]], text=True, env=ALL, **pipes)
    wait_for_step(1, process, run)
    return process


def wait_for_step(step: int, process: "subprocess.Popen[str]", run: Path) -> None:
    """Wait for a checkpoint of `step` or a later one."""
    while max(Run(run).checkpoints, default=0) < step:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)


def restarted_ranks(process: "subprocess.Popen[str]", before: dict[str, psutil.Process]) -> dict[str, psutil.Process]:
    """The ranks when all of them have started after those `before`."""
    known = {rank.pid for rank in before.values()}
    while True:
        assert process.poll() is None, process.communicate()[1]
        ranks = live_ranks(process)
        if ranks.keys() == before.keys() and not known & {rank.pid for rank in ranks.values()}:
            return ranks
        time.sleep(0.01)


def live_ranks(process: "subprocess.Popen[str]") -> dict[str, psutil.Process]:
    """Rank → its process."""
    ranks = {}
    for child in psutil.Process(process.pid).children():
        with suppress(psutil.Error, KeyError):  # it ended, or torchrun has only forked it
            ranks[child.environ()["RANK"]] = child
    return ranks


def write_config(folder: Path, run: str, *, plain: bool = True, **sections: dict[str, Any]) -> Path:
    """`plain`: without dropout and BatchNorm, whose results depend on which rank has a row."""
    values = feed_values(folder / "feed", folder / run)
    if plain:
        tower = {"kind": "mlp", "layer_sizes": [8]}
        values["model"] |= {
            "featurization": {"kind": "double_norm_log", "batch_norm": None},
            "backbone": {"kind": "mlp", "layer_sizes": [16], "final_layer_activation": True},
            "tasks": {"like": {"tower": tower}, "share": {"tower": tower, "pos_weight": 2.0}},
        }
    for section, changes in sections.items():
        values[section] = values[section] | changes
    file = folder / f"{run}.yaml"
    file.parent.mkdir(exist_ok=True)
    file.write_text(yaml.safe_dump(values))
    return file


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    write_feed(folder / "feed")
    return folder


def assert_alike(left: Path, right: Path, step: int) -> None:
    """Assert the same position in the data, and losses, metrics and weights that are equal up to rounding."""
    places = [
        json.loads((Run(run).checkpoint_path(step) / "state.json").read_text())["stream"] for run in (left, right)
    ]
    assert places[0] == places[1]
    lines = [records(run) for run in (left, right)]
    assert [line.keys() for line in lines[0]] == [line.keys() for line in lines[1]]
    for first, second in zip(*lines, strict=True):
        for name, value in first.items():
            expected = second[name]
            assert value == (
                pytest.approx(expected, rel=1e-5, abs=1e-5) if isinstance(expected, float) else expected
            ), name
    first_weights, second_weights = (files(run, step, "weights.safetensors") for run in (left, right))
    for name, weight in first_weights.items():
        # Adam divides by the root of tiny second moments, so rounding shows up to a share of the rate.
        assert_close(weight, second_weights[name], atol=2e-4, rtol=1e-3, msg=lambda text, name=name: f"{name}: {text}")


CONSTANT = {"kind": "constant", "learning_rate": 0.001}
RATES = {"backbone": CONSTANT, "towers": {"default": CONSTANT}}
UNEVEN = {"global_batch_size": 63}


@pytest.mark.slow
def test_collectives_agree_on_three_ranks() -> None:
    script = Path(__file__).with_name("collectives.py")
    paths = {"PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([*LAUNCH, "3", str(script)], **CAPTURED | {"env": ALL | paths})
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == [
        "rank 0 noticed",
        "rank 0 of 3 is done",
        "rank 1 noticed",
        "rank 1 of 3 is done",
        "rank 2 of 3 is done",
    ]


AGREEING: dict[str, dict[str, Any]] = {
    "uneven": {"train_data": UNEVEN},
    "averaged": {
        "training": {
            "gradient_accumulation": 3,
            "ema": {"decay": 0.9},
            "watch": {"metric": "auc", "split": "validation"},
            "log_norms": True,
        },
        "optimizer": {"clip_gradients": {"kind": "norm", "max_norm": 0.1}},
    },
    "uncertainty": {"optimizer": {"balancing": {"kind": "uncertainty"}}, "training": {"gradient_accumulation": 2}},
    "pcgrad": {"optimizer": {"balancing": {"kind": "pcgrad"}}, "training": {"gradient_accumulation": 2}},
    "grad_norm": {"optimizer": {"balancing": {"kind": "grad_norm"}}},
}
"""Name of a run → changes of its configuration."""
POLICIES: dict[str, dict[str, Any]] = {
    "raise": {"kind": "raise"},
    **{kind: {"kind": kind, "budget": 1} for kind in ("skip", "rollback")},
}


def write_overflow(folder: Path, run: str, policy: dict[str, Any], feed: Path) -> Path:
    """A run over a feed with a row whose loss overflows."""
    source = {"source": {"kind": "parquet", "inputs": str(feed / "train" / "*.parquet")}, "weight": "weight"}
    training = {"non_finite": policy, "num_train_steps": 8}
    file = write_config(folder, run, training=training, train_data=source, optimizer=RATES)
    values = yaml.safe_load(file.read_text())
    values["validation_data"]["validation"]["weight"] = None
    for task in values["model"]["tasks"].values():
        task |= {"pos_weight": 10.0, "initial_rate": "none"}  # the rate would be that of the heavy row
    file.write_text(yaml.safe_dump(values))
    return file


def in_this_process(config: Path, *overrides: str) -> list[str]:
    """Train as a single process; return the messages, the last of which is perhaps an error."""
    recorder = Recorder()
    try:
        run_training(load_config(config, overrides), recorder)
    except RunError as error:
        return [*recorder.messages, str(error)]
    return recorder.messages


@pytest.mark.slow
def test_two_ranks_agree_with_one_on_losses_metrics_weights_and_bad_steps(folder: Path) -> None:
    feed = with_overflow(write_feed(folder / "overflow"), "part-1.parquet", 17)
    messages, files_of_two = list[str](), list[Path]()
    for ranks in ("one", "two"):
        for name, sections in AGREEING.items():
            changes = {**sections, "optimizer": RATES | sections.get("optimizer", {})}
            files_of_two.append(write_config(folder, f"{ranks}/{name}", **changes))
        for name, policy in POLICIES.items():
            files_of_two.append(write_overflow(folder, f"{ranks}/{name}", policy, feed))
        if ranks == "one":
            messages = [text for file in files_of_two for text in in_this_process(file) if "is not finite" in text]
            files_of_two.clear()
    script = str(Path(__file__).with_name("runs.py"))
    done = subprocess.run([*LAUNCH, "2", script, *map(str, files_of_two)], **CAPTURED)
    assert done.returncode == 0, done.stderr
    ends = [line for line in done.stdout.splitlines() if " ended with " in line]
    assert sorted(ends) == sorted(f"{file} ended with {int(file.stem == 'raise')}" for file in files_of_two * 2)
    printed = done.stdout + done.stderr
    assert len(messages) == len(POLICIES)
    for text in messages:
        assert "part-1.parquet: row 17 (last checkpoint: " in text
        assert printed.count(text.replace(str(folder / "one"), str(folder / "two"))) == 1, printed
    assert not re.findall(r"^.*(?:Warning|\[W\d+).*$", printed, re.MULTILINE)
    for name in (*AGREEING, *POLICIES):
        one, two = folder / "one" / name, folder / "two" / name
        assert_alike(two, one, max(Run(one).checkpoints))


@pytest.mark.slow
def test_a_run_resumes_with_another_world_size_without_losing_rows(folder: Path) -> None:
    every = {"train_log_every_n": 1, "eval_log_every_n": 4}
    whole, changing = (
        write_config(folder, run, training=every, train_data=UNEVEN, optimizer=RATES) for run in ("whole", "changing")
    )
    in_this_process(whole)
    finish(2, changing, "training.num_train_steps=4")
    in_this_process(changing, "training.num_train_steps=8")
    finish(4, changing)
    assert_alike(folder / "changing", folder / "whole", 12)
    assert (
        json.loads((Run(folder / "changing").checkpoint_path(12) / "state.json").read_text())["stream"]["row"]
        == 12 * 63
    )


(DOCUMENTED_RESTARTS,) = re.findall(r"^torchrun .*(--max-restarts \d+) .* -m recap train", PAGE, re.MULTILINE)
RESTARTS = [*shlex.split(DOCUMENTED_RESTARTS), "--monitor-interval", "0.1"]
LONG = {"num_train_steps": 90, "checkpoint_every_n": 15, "eval_log_every_n": 40}


@pytest.mark.slow
def test_two_ranks_save_on_sigterm_and_resume_bit_for_bit(folder: Path) -> None:
    finish(2, write_config(folder, "unstopped", plain=False, training=LONG))
    config = write_config(folder, "stopped", plain=False, training=LONG)
    process = started(2, config, folder / "stopped")
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=LIMIT)
    saved = list(Run(folder / "stopped").checkpoints)[-1]
    assert 15 <= saved < 90
    assert errors.count(f"stopped by SIGTERM after step {saved}, which is saved") == 1, errors
    finish(2, config)
    assert_same_run(folder / "unstopped", folder / "stopped", 90)


@pytest.mark.slow
def test_ranks_whose_torchrun_was_killed_save_and_stop(folder: Path) -> None:
    config = write_config(folder, "orphaned", training=LONG | {"num_train_steps": 100_000})
    process = started(2, config, folder / "orphaned")
    ranks = list(live_ranks(process).values())
    process.kill()
    _, errors = process.communicate(timeout=LIMIT)
    assert psutil.wait_procs(ranks, timeout=LIMIT)[1] == []
    saved = list(Run(folder / "orphaned").checkpoints)[-1]
    assert f"stopped by SIGTERM after step {saved}, which is saved" in errors


@pytest.mark.slow
def test_a_killed_rank_ends_all_ranks_with_one_message(folder: Path) -> None:
    config = write_config(folder, "killed", training=LONG | {"num_train_steps": 100_000})
    process = started(2, config, folder / "killed")
    ranks = live_ranks(process)
    ranks["1"].kill()
    _, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 1
    assert errors.count("another process of this run ended or hangs") == 1, errors
    assert not any(rank.is_running() for rank in ranks.values())


@pytest.mark.slow
def test_killed_ranks_are_started_again_and_end_as_if_undisturbed(folder: Path) -> None:
    finish(3, write_config(folder, "calm", plain=False, training=LONG))
    config, run = write_config(folder, "elastic", plain=False, training=LONG), folder / "elastic"
    process = started(3, config, run, *RESTARTS)
    first = live_ranks(process)
    assert len(first) == 3
    first["1"].kill()
    second = restarted_ranks(process, first)
    wait_for_step(max(Run(run).checkpoints) + 1, process, run)  # which only restarted ranks reach
    for rank in second.values():
        rank.kill()
    restarted_ranks(process, second)
    _, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, errors
    assert errors.count("Traceback") == 0, errors
    assert_same_run(run, folder / "calm", 90)  # bit for bit; sums over three ranks depend on their order
    assert all(path.name.startswith("step_") for path in (run / "checkpoints").iterdir()), "a partial checkpoint"


@pytest.mark.slow
def test_a_mistake_on_all_ranks_is_reported_once(folder: Path) -> None:
    config = write_config(folder, "misnamed")
    config.write_text(config.read_text().replace("num_train_steps", "num_train_step"))
    done = train(2, config)
    assert done.returncode == 1
    assert done.stderr.count("'num_train_step' is unknown") == 1, done.stderr
    assert "exitcode  : 2" in done.stderr


@pytest.mark.slow
def test_a_bad_row_read_by_all_ranks_is_reported_once(folder: Path) -> None:
    table = pq.read_table(folder / "feed" / "train" / "part-0.parquet")
    bad = table.set_column(table.column_names.index("like"), "like", pa.array([7] * len(table), pa.int8()))
    (folder / "bad").mkdir()
    pq.write_table(bad, folder / "bad" / "part-0.parquet")
    source = {"kind": "parquet", "inputs": str(folder / "bad" / "*.parquet")}
    done = train(2, write_config(folder, "unread", train_data={"source": source}))
    assert done.returncode == 1
    assert done.stderr.count("found 7, expected 0 or 1") == 1, done.stderr
    assert "exitcode  : 2" in done.stderr
