"""`embedding_l2` on the rows of a batch, against its equation, and the counts that divide it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from support import write_feed
from training.runs import assert_same_run, files
from training.sharded_tables.cases import run_values, table_values

from recap.training.trainer import Trainer

TABLE = "inputs.embeddings.tables.user_id.weight"
RATE, STRENGTH = 0.5, 0.2


def values(folder: Path, run: str, steps: int, rows: str | None, *, sparse: bool = False) -> dict[str, Any]:
    """SGD at one rate, so that a penalty of P moves a row by RATE · P; no penalty for None."""
    write_feed(folder / "feed", histories=True)
    made: dict[str, Any] = table_values(folder / "feed", folder / run, None, "sgd", num_train_steps=steps)
    made["training"] |= {"train_log_every_n": 1, "eval_log_every_n": None, "checkpoint_every_n": 1}
    rate = {"kind": "constant", "learning_rate": RATE}
    made["optimizer"]["tables"] = {"algorithm": {"kind": "sgd"}, "learning_rate": rate, "sparse": sparse}
    if rows is not None:
        made["optimizer"] |= {"embedding_l2": STRENGTH, "embedding_l2_rows": rows}
    return made


def trained(made: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """The table before and after, and its rows in each step."""
    before: list[torch.Tensor] = []
    steps: list[torch.Tensor] = []

    def prepare(trainer: Trainer) -> None:
        inputs = trainer.model.ranker.inputs
        before.append(inputs.embeddings.get_parameter("tables.user_id.weight").detach().clone())
        inputs.register_forward_pre_hook(
            lambda _, given: steps.append(inputs.codes(given[0], ["user_id"])["user_id"].flatten())
        )

    run_values(made, prepare=prepare)
    after = files(Path(made["training"]["save_dir"]), made["training"]["num_train_steps"], "weights.safetensors")
    return before[0], after[TABLE], steps


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("rows", ["batch", "frequency"])
def test_a_step_adds_the_penalty_of_the_equation(tmp_path: Path, rows: str, sparse: bool) -> None:
    start, without, _ = trained(values(tmp_path, "without", 1, None, sparse=sparse))
    _, penalised, (looked_up,) = trained(values(tmp_path, "with", 1, rows, sparse=sparse))
    for row in range(len(start)):
        lookups = int((looked_up == row).sum()) if row else 0
        share = (1 / lookups if rows == "frequency" else 1.0) if lookups else 0.0
        expected = without[row] - RATE * STRENGTH * share * start[row]
        torch.testing.assert_close(penalised[row], expected, rtol=1e-5, atol=1e-7)


def test_lookups_are_counted_over_all_steps_and_resume(tmp_path: Path) -> None:
    _, _, steps = trained(values(tmp_path, "straight", 4, "frequency"))
    run_values(values(tmp_path, "resumed", 2, "frequency"))
    run_values(values(tmp_path, "resumed", 4, "frequency"))
    assert_same_run(tmp_path / "straight", tmp_path / "resumed", 4)
    lookups = files(tmp_path / "straight", 4, "optimizer.safetensors")["inputs.embeddings.lookups.user_id"]
    counted = torch.cat(steps).bincount(minlength=len(lookups))
    assert torch.equal(lookups[1:], counted[1:])
