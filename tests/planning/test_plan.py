"""Plans: costs without memory, what goes where, what fits, and what takes time."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model.rankers import make_config, make_ranker

from recap.config.file.load import config_of
from recap.config.recap import RecapConfig
from recap.errors import InputError
from recap.model.directory import new_ranker, write_model
from recap.model.summary import summarise
from recap.planning.machines import GIB, GPUS, MEASURED, Machine, machine_for, read_measured
from recap.planning.memory import DENSE, Bytes, placement_of
from recap.planning.network import network_costs
from recap.planning.plan import Plan, make_plan
from recap.planning.work import distinct, step_work
from recap.storage import atomic_directory
from recap.training.optimizer.memory import training_memory

ASSETS = {"language": pa.array(["en", "ja"])}
RATE = {"kind": "constant", "learning_rate": 0.01}


def tables_config(
    sharding: dict[str, str] | None, *, rows: int = 1000, width: int = 16, batch: int = 4096, **training: Any
) -> RecapConfig:
    """Two tables of the same size, `post` looked up by two columns, and a small network."""
    kinds = set((sharding or {}).values())
    return config_of(
        {
            "training": {"sharded_tables": None if sharding is None else {"tables": sharding}, **training},
            "features": {
                "continuous": ["age"],
                "discrete": {"post": {"size": rows - 1}, "other": {"table": "post"}, "author": {"size": rows - 1}},
            },
            "model": {
                "embeddings": {"default": width},
                "tasks": {"like": {"tower": {"kind": "mlp", "layer_sizes": [8]}}},
            },
            "train_data": {"source": {"inputs": "none"}, "global_batch_size": batch, "tasks": {"like": {}}},
            "optimizer": {
                "tables": {
                    "algorithm": {"kind": "rowwise_adagrad" if kinds <= {"row_wise", "table_wise"} else "adagrad"},
                    "learning_rate": RATE,
                    "sparse": True,
                },
                "backbone": RATE,
                "towers": {"default": RATE},
            },
        }
    )


def gpu(memory_gib: float) -> Machine:
    return machine_for("h100", None, memory_gib)


@pytest.mark.parametrize(
    "case",
    ["mlp-share_all", "dcn-mmoe", "history_transformer", "history_din", "position_debias", "z_score_log_renorm"],
)
def test_costs_without_memory_are_those_of_a_real_ranker(case: str) -> None:
    config = make_config(case)
    network = network_costs(config, ASSETS, "float32")
    ranker = make_ranker(config)
    summary, memory = summarise(ranker, config, ASSETS), training_memory(config, ranker)
    weight_bytes = sum(tensor.nbytes for tensor in (*ranker.parameters(), *ranker.buffers()))
    assert network.flops == summary.flops
    assert network.activation_bytes == summary.activation_bytes
    fullest = placement_of(config, network, 1, None).fullest
    assert fullest.weights == weight_bytes
    assert fullest.gradients == memory.gradient_bytes
    assert fullest.optimizer == memory.moment_bytes


def test_a_lookup_is_a_value_times_its_codes_and_events() -> None:
    network = network_costs(make_config("history_din"), ASSETS, "float32")
    lookups = {table.spec.name: table.lookups for table in network.tables}
    assert lookups["hour"] == 1 + 5  # one hour of the row, and one of each of 5 events
    assert lookups["post"] == 2 * (1 + 5)  # two hashes of each


def test_a_table_of_ten_billion_rows_takes_no_memory_to_plan() -> None:
    config = tables_config({"default": "row_wise"}, rows=10_000_000_000, width=64, batch=65_536)
    plan = make_plan(config, {}, 128, 8, gpu(80))
    post = plan.placement.parts[0]
    assert post.bytes.weights == 10_000_000_000 // 128 * 64 * 4
    assert post.bytes.optimizer == 10_000_000_000 // 128 * 4
    assert plan.fit.fits


@settings(max_examples=30, deadline=None)
@given(
    ranks=st.integers(1, 70),
    rows=st.integers(2, 3000),
    width=st.sampled_from([4, 12, 16, 64, 100]),
    sharding=st.sampled_from(["row_wise", "table_wise", "column_wise", "auto"]),
)
def test_divided_tables_are_on_the_ranks_once(ranks: int, rows: int, width: int, sharding: str) -> None:
    config = SHARDED[sharding]
    placement = placement_of(config, network_of(rows, width), ranks, config.training.sharded_tables)
    for part in placement.parts[:-1]:
        whole, holders = rows * width * 4, part.ranks
        assert 1 <= holders <= ranks
        assert whole <= part.bytes.weights * holders < whole + width * 4 * ranks
        if part.sharding in ("table_wise", "column_wise"):
            pieces = [piece for piece in placement.pieces if piece.table == part.name]
            assert sum(piece.width for piece in pieces) == width
            assert len(pieces) == holders
    assert placement.fullest.total <= placement_of(config, network_of(rows, width), 1, None).fullest.total * 3 + 2**22


def network_of(rows: int, width: int) -> Any:
    """The costs of `tables_config` with other sizes of tables."""
    tables = [replace(table, spec=replace(table.spec, num_embeddings=rows, width=width)) for table in NETWORK.tables]
    return replace(NETWORK, tables=tuple(tables))


NETWORK = network_costs(tables_config(None), {}, "float32")
SHARDED = {kind: tables_config({"default": kind}) for kind in ("row_wise", "table_wise", "column_wise", "auto")}
POST_BY_ROWS = tables_config({"post": "row_wise", "author": "table_wise"})


@given(ranks=st.integers(2, 200), batch=st.integers(400, 100_000))
def test_exchange_is_what_a_count_by_rank_finds(ranks: int, batch: int) -> None:
    """Each lookup goes to the rank of its row: one in W stays, if rows are uniform."""
    data = POST_BY_ROWS.train_data.model_copy(update={"global_batch_size": batch})
    config = POST_BY_ROWS.model_copy(update={"train_data": data})
    placement = placement_of(config, NETWORK, ranks, config.training.sharded_tables)
    work = step_work(config, NETWORK, placement, ranks)
    own = -(-batch // ranks)
    by_rows = 2 * own * (ranks - 1) / ranks  # two columns read post
    to_one = own * (ranks - 1)  # the rank that holds author answers all others
    assert work.ids_bytes == pytest.approx(8 * (by_rows + to_one), abs=8)
    assert work.vectors_bytes == pytest.approx(2 * 16 * 4 * (by_rows + to_one), abs=128)
    assert work.summed_bytes == pytest.approx(2 * (ranks - 1) / ranks * NETWORK.learned_bytes, abs=1)
    assert work.gathered_bytes == 0


def test_whole_sparse_tables_gather_the_gradients_of_all_other_ranks() -> None:
    config = tables_config(None, rows=10**9)
    network = network_of(10**9, 16)
    work = step_work(config, network, placement_of(config, network, 4, None), 4)
    lookups = 1024 * 3  # almost all of them distinct
    assert work.gathered_bytes == pytest.approx(3 * lookups * (16 * 4 + 8), rel=1e-3)
    assert work.ids_bytes == work.vectors_bytes == 0


@given(rows=st.integers(2, 400), lookups=st.integers(1, 2000))
def test_expected_distinct_rows_are_those_of_random_ids(rows: int, lookups: int) -> None:
    random = np.random.default_rng([rows, lookups])
    draws = [len(np.unique(random.integers(0, rows, lookups))) for _ in range(60)]
    assert abs(distinct(rows, lookups) - np.mean(draws)) < 0.5 + 4 * (np.std(draws) + 0.1) / 60**0.5


@pytest.mark.parametrize("sharding", ["row_wise", "table_wise", "column_wise"])
def test_the_smallest_number_of_ranks_fits_and_one_less_does_not(sharding: str) -> None:
    config = tables_config({"default": sharding}, rows=100_000_000)
    network = network_of(100_000_000, 16)
    machine = gpu(4)
    found = make_plan(config, {}, 1, 8, machine).fit
    assert not found.fits
    assert found.largest == "post"
    limit = (machine.memory_gib - machine.reserved_gib) * GIB if machine.memory_gib else 0
    sharded = config.training.sharded_tables
    if sharding == "table_wise":  # a table is larger than a rank
        assert found.smallest_world is None
        assert found.smallest_world_row_wise is not None
    else:
        assert found.smallest_world is not None
        assert placement_of(config, network, found.smallest_world, sharded).fullest.total <= limit
        assert placement_of(config, network, found.smallest_world - 1, sharded).fullest.total > limit


def test_the_memory_of_tables_may_be_limited_by_the_configuration() -> None:
    config = tables_config({"default": "row_wise"}, rows=10_000_000)
    limited = config.training.sharded_tables
    assert limited is not None
    changed = config.model_copy(
        update={
            "training": config.training.model_copy(
                update={"sharded_tables": limited.model_copy(update={"memory_gib": 0.5})}
            )
        }
    )
    assert make_plan(config, {}, 2, 8, gpu(80)).fit.fits
    fit = make_plan(changed, {}, 2, 8, gpu(80)).fit
    assert not fit.fits
    assert fit.smallest_world is not None
    assert make_plan(changed, {}, fit.smallest_world, 8, gpu(80)).fit.fits


def test_a_faster_device_and_links_never_take_longer() -> None:
    config = tables_config({"default": "row_wise"}, batch=65_536)
    times = {name: make_plan(config, {}, 64, 8, GPUS[name]).time for name in ("a100", "h100", "h200")}
    for part in ("compute", "memory", "exchange", "summing"):
        a100, h100, h200 = (getattr(time, part) for time in times.values())
        assert a100 >= h100 >= h200
    one_node = make_plan(config, {}, 64, 64, GPUS["h100"]).time
    assert one_node.exchange < times["h100"].exchange
    assert one_node.summing < times["h100"].summing


def test_one_rank_exchanges_nothing() -> None:
    plan = make_plan(tables_config({"default": "row_wise"}), {}, 1, 8, GPUS["h100"])
    assert plan.work.exchanged_bytes == plan.work.rounds == 0
    assert plan.time.exchange == plan.time.latency == plan.time.summing == plan.time.hidden == 0


def test_every_rank_holds_a_teacher_and_scores_with_it(tmp_path: Path) -> None:
    teacher = tables_config(None, rows=50)
    ranker = new_ranker(teacher, {})
    with atomic_directory(tmp_path / "teacher") as folder:
        write_model(folder, teacher, {}, ranker.state_dict())

    def plan_of(directory: Path | None, **training: Any) -> Plan:
        values = tables_config({"default": "row_wise"}, **training).model_dump(mode="json")
        if directory is not None:
            values["model"]["tasks"]["like"]["distillation"] = {"kind": "model", "directory": str(directory)}
        return make_plan(config_of(values), {}, 2, 8, gpu(80))

    plan, alone = plan_of(tmp_path / "teacher", precision="bf16"), plan_of(None, precision="bf16")
    weight_bytes = sum(tensor.nbytes for tensor in (*ranker.parameters(), *ranker.buffers()))
    assert plan.placement.fullest == alone.placement.fullest + Bytes(weights=weight_bytes)
    assert [part.name for part in plan.placement.parts if not part.rows] == [f"teacher {tmp_path / 'teacher'}", DENSE]
    assert plan.placement.sharded_bytes == alone.placement.sharded_bytes
    assert plan.work.teacher_flops == network_costs(teacher, {}, "float32").flops * plan.work.examples
    flops = plan.machine.flops
    assert plan.time.compute == pytest.approx(alone.time.compute + plan.work.teacher_flops / flops["float32"])
    assert plan.time.memory > alone.time.memory
    assert plan.work.operations > alone.work.operations
    in_turn = plan_of(tmp_path / "teacher", precision="bf16", gradient_accumulation=4)
    assert in_turn.work.teacher_flops == plan.work.teacher_flops
    assert in_turn.work.operations == 4 * plan.work.operations

    missing = plan_of(tmp_path / "nowhere", precision="bf16")
    assert (missing.placement, missing.work) == (alone.placement, alone.work)
    (said,) = set(missing.assumptions) - set(alone.assumptions)
    assert said.startswith("a teacher is not counted, neither its memory nor its time: model.tasks.like.distillation.")
    assert str(tmp_path / "nowhere") in said


def test_a_teacher_does_not_do_what_only_its_own_training_did(tmp_path: Path) -> None:
    """A self-ensemble makes two passes in training, and one to score."""
    values = tables_config(None).model_dump(mode="json")
    values["model"]["tasks"]["like"]["tower"]["dropout"] = {"rate": 0.5}
    flops = []
    for name, loss in (("one pass", None), ("two passes", {"kind": "self_ensemble"})):
        values["model"]["auxiliary_loss"] = loss
        teacher, student = config_of(values), config_of(values).model_dump(mode="json")
        with atomic_directory(tmp_path / name) as folder:
            write_model(folder, teacher, {}, new_ranker(teacher, {}).state_dict())
        student["model"]["tasks"]["like"]["distillation"] = {"kind": "model", "directory": str(tmp_path / name)}
        work = make_plan(config_of(student), {}, 2, 8, gpu(80)).work
        flops.append((work.flops, work.teacher_flops))
    (trained, scored), (trained_twice, scored_twice) = flops
    assert trained_twice == 2 * trained
    assert scored_twice == scored


def test_ranks_share_the_cores_of_a_cpu() -> None:
    machine = machine_for("cpu", None, 4)
    config = tables_config(None, precision="float32")
    one, four = (make_plan(config, {}, ranks, ranks, machine).time for ranks in (1, 4))
    assert four.compute == pytest.approx(one.compute)
    assert four.total > one.total


def test_more_ranks_than_the_examples_suffice_for_are_refused() -> None:
    config = tables_config(None, batch=64, gradient_accumulation=4)
    with pytest.raises(
        InputError, match=r"--world-size: 9 ranks are too many for .*, 64, .*BatchNorm.*; use at most 8"
    ):
        make_plan(config, {}, 9, 9, GPUS["h100"])
    with pytest.raises(InputError, match=r"12 ranks are no whole number of nodes of 8; use a multiple of 8"):
        make_plan(config, {}, 12, 8, GPUS["h100"])
    with pytest.raises(InputError, match=r"bf16 was not measured on this CPU, only float32"):
        make_plan(tables_config(None, precision="bf16"), {}, 1, 1, machine_for("cpu", None, 4))


def test_a_file_of_constants_replaces_those_of_a_cpu(tmp_path: Path) -> None:
    file = tmp_path / "measured.json"
    file.write_text(
        read_measured(MEASURED).model_copy(update={"cores": 16, "bytes_per_second": 1e11}).model_dump_json()
    )
    machine = machine_for("cpu", file, 8)
    assert machine.cores == 16
    assert machine.bytes_per_second == 1e11
    with pytest.raises(InputError, match=r"--measured: holds constants of a CPU, but --device is a100"):
        machine_for("a100", file, None)
    with pytest.raises(InputError, match=r"--memory-gib: missing"):
        machine_for("cpu", file, None)
    with pytest.raises(InputError, match=r"--memory-gib: must be above 0\.5"):
        machine_for("cpu", file, 0.5)
    for text, problem in (("{}", "machine: Field required"), ("x", "Invalid JSON")):
        file.write_text(text)
        with pytest.raises(InputError, match=problem):
            read_measured(file)
    with pytest.raises(InputError, match=r"cannot be read .*write one with 'python benchmarks/plan\.py"):
        read_measured(tmp_path / "none.json")
