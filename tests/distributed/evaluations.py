"""Evaluations and calibrations of one run; `torchrun` runs this file, and a test compares with one process.

`python evaluations.py FOLDER NAME` writes the results to FOLDER/NAME; at the end it fails on bad rows.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from support import feed_values

from recap.cli.main import main as recap
from recap.config.file.load import config_of
from recap.config.recap import RecapConfig
from recap.data.stream import parts
from recap.distributed import Ranks
from recap.evaluation.calibrate.run import Fit, calibrate_run
from recap.evaluation.run import evaluate_run
from recap.rendezvous import joined_ranks

STRATA: dict[str, dict[str, Any]] = {
    "english": {"feature": "language", "value": "en"},
    "older": {"feature": "age", "at_least": 0.5, "below": 4},
    "stars": {"feature": "followers", "quantiles": [0.5, 1.0]},
    "first": {"before": "1970-01-01T00:20:00"},
}
SKIPPED = {"kind": "skip", "budget": 10}


def config_in(folder: Path, **training: Any) -> RecapConfig:
    """A run that shows everything an evaluation can show."""
    values = feed_values(folder, folder / "run")
    values["training"] |= {"num_train_steps": 3, "eval_log_every_n": 100, **training}
    values["features"]["request"] = "request"
    values["model"]["sharing"] = {"kind": "mmoe", "num_experts": 3}
    values["optimizer"]["balancing"] = {"kind": "pcgrad"}
    values["train_data"]["tasks"] = {"like": {"neg_downsampling_rate": 0.5}, "share": {}}
    values["validation_data"] = {
        name: {"source": {"inputs": str(folder / name / "*.parquet")}, "global_batch_size": rows}
        for name, rows in (("many", 64), ("whole", 100), ("bad", 50))
    }
    values["validation_data"]["bad"]["on_bad_data"] = SKIPPED
    values["strata"] = STRATA
    values["metrics"] = {"fields": ["language", "hour"]}
    values["slices"] = "auto"
    return config_of(values)


def evaluate_all(folder: Path, output: Path, ranks: Ranks) -> None:
    """Write every result, and what was said, to `output`."""
    output.mkdir(exist_ok=True)
    run, said = folder / "run", list[str]()
    whole, some = config_in(folder), config_in(folder, num_eval_steps=5)
    plain = some.model_copy(update={"strata": {}, "slices": None})
    evaluate_run(whole, run, say=said.append, output=output / "all.json", with_drift=True, ranks=ranks)
    evaluate_run(some, run, say=said.append, output=output / "some.json", ranks=ranks)
    evaluate_run(plain, run, "bad", say=said.append, output=output / "plain.json", ranks=ranks)
    for name, by in (("affine", None), ("by", "language")):
        fit = Fit("many", by=by, evaluate_on="whole", output=output / name)
        calibrated = calibrate_run(whole, run, fit, said.append, ranks=ranks)
        assert (calibrated is not None) == ranks.is_first
    if ranks.is_first:
        text = [line for line in said if str(output) not in line]
        (output / "said.json").write_text(json.dumps(text, indent=1))


def arguments(folder: Path, name: str) -> list[str]:
    """The command line of an evaluation that prints and writes its result."""
    return ["evaluate", f"{folder}/run", "--split", "whole", "--drift", "--output", f"{folder}/{name}/printed.json"]


def main(folder: Path, name: str) -> None:
    """Evaluate in the ranks of torchrun, then by the command line; at last meet bad rows."""
    parts.PART_ROWS = 150  # many rounds
    with joined_ranks() as ranks:
        evaluate_all(folder, folder / name, ranks)
    stopping = ["evaluate", f"{folder}/run", "--split", "bad", "validation_data.bad.on_bad_data={kind: stop}"]
    for number, command in enumerate((arguments(folder, name), stopping), start=1):
        os.environ["TORCHELASTIC_RESTART_COUNT"] = str(number)  # the ranks meet anew, as after a restart
        sys.argv = ["recap", *command]
        try:
            recap()
        except SystemExit as end:
            if end.code:
                raise


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
