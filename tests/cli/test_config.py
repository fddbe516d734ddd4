"""`recap config`, run as a command."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from config.corpus import VALID
from processes import run_recap
from support import write_feed
from typer.testing import CliRunner, Result

from recap.cli.main import app
from recap.config.checks import packages
from recap.config.file.json_schema import schema_text
from recap.config.file.load import load_config

WHOLE = VALID[0]
PUBLISHED = Path(__file__).parents[1] / "published" / "whole.yaml"


def run(*arguments: str | Path, folder: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    return run_recap(*arguments, folder=folder, **environment)


def test_check_with_data_checks_the_data(tmp_path: Path) -> None:
    write_feed(tmp_path)
    assert run("config", "check", WHOLE, "--data", folder=tmp_path).returncode == 0
    bad = run("config", "check", WHOLE, "--data", "features.binary=[nowhere]", folder=tmp_path)
    assert bad.returncode == 2
    assert "features.binary.0: train/part-0.parquet: column 'nowhere': is missing" in bad.stderr


def test_check_warns_of_packages_that_are_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    file = WHOLE.with_name("sharded_tables.yaml")
    sections = {
        "training.mlflow": "{experiment: rankers}",
        "training.watch": "{metric: auc, split: validation}",
        "tuning.space": "{model.embeddings.default: {choices: [4, 8]}}",
    }

    def check() -> Result:
        return CliRunner().invoke(
            app, ["config", "check", str(file), *(f"{key}={text}" for key, text in sections.items())]
        )

    monkeypatch.setattr(packages, "find_spec", lambda name: None)
    done = check()
    assert done.exit_code == 0
    for text in (
        "sharded_tables.yaml:5:19: training.sharded_tables: needs packages that are not installed here: torchrec, "
        "fbgemm_gpu; where this configuration runs, run pip install 'recap-ranker[torchrec]', or on a CPU, in a "
        "checkout: pip install --no-deps --requirement torchrec-cpu.txt\n",
        "training.mlflow: needs packages that are not installed here: mlflow; where this configuration runs, run pip "
        "install 'recap-ranker[mlflow]'\n",
        "tuning: needs packages that are not installed here: optuna; where this configuration runs, run pip install "
        "'recap-ranker[tune]'\n",
    ):
        assert text in done.stderr
    assert "no problems, 3 warnings" in done.stdout
    monkeypatch.setattr(packages, "find_spec", lambda name: name)
    assert check().stderr == ""


def test_show_prints_the_resolved_file_with_origins() -> None:
    shown = run("config", "show", WHOLE, "training.seed=9")
    assert shown.returncode == 0
    assert "# override 'training.seed=9'" in shown.stdout
    assert yaml.safe_load(shown.stdout)["training"]["seed"] == 9


def test_diff_prints_only_the_differences(tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(WHOLE.read_text().replace("seed: 7", "seed: 8").replace("[16, 8]", "[16, 4]"))
    assert run("config", "diff", WHOLE, WHOLE).stdout == ""
    assert run("config", "diff", WHOLE, other).stdout.splitlines() == [
        "training.seed: 7 → 8",
        "model.backbone.mlp.layer_sizes: [16, 8] → [16, 4]",
    ]
    assert run("config", "diff", WHOLE, tmp_path / "nowhere.yaml").returncode == 2


def test_schema_replaces_a_file_only_with_overwrite(tmp_path: Path) -> None:
    assert run("config", "schema").stdout == schema_text()
    file = tmp_path / "new" / "schema.json"
    assert run("config", "schema", "--output", file).stderr == f"written: {file}\n"
    assert file.read_text() == schema_text()
    again = run("config", "schema", "--output", file)
    assert again.returncode == 2
    assert again.stderr == f"--output: {file} already exists; add --overwrite to replace it\n"
    assert run("config", "schema", "--output", file, "--overwrite").returncode == 0
    folder = run("config", "schema", "--output", tmp_path, "--overwrite")
    assert folder.returncode == 2
    assert folder.stderr == f"--output: {tmp_path} exists and is not a regular file; choose another --output\n"
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_new_writes_a_valid_configuration_with_or_without_data(tmp_path: Path) -> None:
    written = run("config", "new")
    (tmp_path / "new.yaml").write_text(written.stdout)
    assert run("config", "check", "new.yaml", folder=tmp_path).returncode == 0
    write_feed(tmp_path)
    (tmp_path / "analysis.parquet").unlink()  # which the command writes
    files = ["train/part-0.parquet", "train/part-1.parquet"]
    written = run("config", "new", "--from-data", *files, "--output", "data.yaml", folder=tmp_path)
    assert (written.returncode, written.stderr) == (
        0,
        "written: vocabularies/language.parquet, 4 values\nwritten: analysis.parquet, 3 values\nwritten: data.yaml\n",
    )
    assert load_config(tmp_path / "data.yaml").train_data.source.inputs == files
    assert run("config", "check", "data.yaml", "--data", folder=tmp_path).returncode == 0
    missing = run("config", "new", "--from-data", "nowhere/*.parquet", folder=tmp_path)
    assert (missing.returncode, missing.stderr[:35]) == (2, "nowhere/*.parquet: matches no file ")
    assert "for data files, write --from-data a.parquet" in run("config", "new", "a.parquet").stderr
    assert run("config", "new", "--label", "y").stderr == "--label needs data; add --from-data FILES\n"


def test_import_writes_a_valid_configuration_and_prints_remarks_to_stderr(tmp_path: Path) -> None:
    converted = run("config", "import", PUBLISHED, "--output", "ours.yaml", folder=tmp_path, USER="someone")
    assert converted.returncode == 0, converted.stderr
    assert f"{PUBLISHED}:32:3: model.tasks: tasks and labels are matched by name" in converted.stderr
    assert run("config", "check", "ours.yaml", folder=tmp_path, USER="someone").returncode == 0
    broken = tmp_path / "broken.yaml"
    broken.write_text(PUBLISHED.read_text().replace("cache: false", "sampler: x"))
    refused = run("config", "import", broken, "--output", "other.yaml", folder=tmp_path, USER="someone")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "train_data.sampler: deprecated; sample when the data is made" in refused.stderr
    assert not (tmp_path / "other.yaml").exists()


def test_characters_that_the_terminal_lacks_are_escaped(tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(WHOLE.read_text().replace("seed: 7", "seed: 8"))
    command = [sys.executable, "-m", "recap", "config", "diff", str(WHOLE), str(other)]
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    shown = subprocess.run(command, capture_output=True, text=True, env=ascii_only)
    assert (shown.returncode, shown.stdout) == (0, "training.seed: 7 \\u2192 8\n")


def test_on_a_terminal_an_error_shows_the_line_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "ranker.yaml"
    file.write_text(WHOLE.read_text().replace("kind: mask_net", "kind: maksnet"))
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "recap", "config", "check", "ranker.yaml"]
    done = subprocess.run(command, stderr=slave, cwd=tmp_path, env={**os.environ, "TERM": "dumb"})
    os.close(slave)
    printed = os.read(master, 10_000).decode().replace("\r", "")
    os.close(master)
    assert done.returncode == 2
    assert printed.splitlines() == [
        "ranker.yaml:34:11: model.backbone.kind: 'maksnet' is unknown. Known: mlp,",
        "mask_net, dcn, dcn_v3, dlrm, gdcn, final_mlp, qnn, wukong, rank_mixer. Did you",
        "mean 'mask_net'?",
        "   34 │     kind: maksnet",
        "      │           ^^^^^^^",
        "",
        "1 problem",
    ]


@pytest.mark.parametrize("command", [["train"], ["evaluate"], ["config", "check"], ["config", "show"]])
def test_every_command_takes_overrides_and_set_files(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "over.yaml").write_text("training: {seed: x}\n")
    done = run(*command, WHOLE, "--set-file", "over.yaml", "training.num_train_steps=0", folder=tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "over.yaml:1:18: training.seed: expected a whole number, found 'x'",
        "override 'training.num_train_steps=0': training.num_train_steps: must be above 0, found 0",
    ]
