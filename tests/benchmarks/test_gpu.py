"""`benchmarks/gpu.py` runs on a machine without a GPU, and no part can end the others."""

import json
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "benchmarks"
WITH_BAD_PARTS = """
import os, sys, time
import gpu
def fails(quick):
    yield {"before": 1}
    raise ValueError("on purpose")
def dies(quick):
    yield {"before": 1}
    os.kill(os.getpid(), 9)
def hangs(quick):
    yield {"before": 1}
    time.sleep(1000)
bad = {"fails": gpu.Part(fails, 0.2), "dies": gpu.Part(dies, 0.2), "hangs": gpu.Part(hangs, 0.2)}
gpu.PARTS = bad | gpu.PARTS
sys.exit(gpu.main())
"""


def test_every_part_runs_and_those_that_fail_or_hang_end_no_other(tmp_path: Path) -> None:
    parts = ["fails", "dies", "hangs", "production", "small", "resume", "tables", "data"]  # the suite has the tests
    command = [sys.executable, "-c", WITH_BAD_PARTS, "--quick", "--output", str(tmp_path / "gpu.json"), *parts]
    done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True)
    assert done.returncode == 1
    assert "FAILED: fails, dies\n" in done.stdout, done.stdout + done.stderr
    results = json.loads((tmp_path / "gpu.json").read_text())
    lines = {name: result["lines"] for name, result in results.items()}
    assert lines.pop("fails") == lines.pop("dies") == lines.pop("hangs") == [{"before": 1}]
    assert results["fails"]["error"] == "ValueError: on purpose"
    assert results["dies"]["error"] == "the process ended with -9"
    assert [name for name, result in results.items() if result["stopped"]] == ["hangs"]
    assert [line["precision"] for line in lines["production"] + lines["small"]] == ["float32", "bf16"]
    assert all(line["examples/s"] > 0 for shape in ("production", "small", "tables", "data") for line in lines[shape])
    assert lines["resume"] == [{"precision": "float32", "tensors that differ": 0}]
    assert len(lines) == 5


def test_an_unknown_part_is_refused() -> None:
    done = subprocess.run([sys.executable, str(FOLDER / "gpu.py"), "speed"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "unknown part 'speed'; choose from tests, production" in done.stderr
