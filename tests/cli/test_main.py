"""The command line: help, exit codes, and the next command that a run suggests."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from processes import run_recap
from support import feed_values, write_feed
from typer.testing import CliRunner

import recap
from recap.cli.main import app
from recap.config.file.layers import DATA_EXTENSIONS
from recap.config.file.load import load_config
from recap.data.formats.open import EXTENSIONS
from recap.errors import ConfigError
from recap.text import wrapped


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return run_recap(*arguments)


def test_version_prints_the_version_of_the_package() -> None:
    assert run("--version").stdout == f"recap {recap.__version__}\n"


def test_help_lists_every_command() -> None:
    printed = run("--help").stdout
    for command in ("train", "evaluate", "predict", "config", "data"):
        assert f"\n  {command} " in printed


def test_help_and_config_check_import_no_torch(tmp_path: Path) -> None:
    config = tmp_path / "ranker.yaml"
    config.write_text(yaml.safe_dump(feed_values(tmp_path, tmp_path / "run")))
    for arguments in (["--help"], ["config", "check", str(config)]):
        code = (
            f"import sys; sys.argv = ['recap', *{arguments!r}]\n"
            "from recap.cli.main import main\n"
            "try:\n    main()\nfinally:\n    print(sorted({'torch', 'pyarrow', 'numpy'} & set(sys.modules)))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.stdout.endswith("[]\n"), done.stdout + done.stderr


def test_config_check_lists_mistakes_with_their_origins_and_exits_with_2(tmp_path: Path) -> None:
    config = tmp_path / "ranker.yaml"
    config.write_text(yaml.safe_dump(feed_values(tmp_path, tmp_path / "run")))
    good = run("config", "check", config)
    assert good.returncode == 0
    assert "no problems. 6 feature columns; tasks: like, share; validation sets: validation" in good.stdout
    bad = run("config", "check", config, "training.seed=-1", "scoring.weights.lik=1")
    assert bad.returncode == 2
    assert bad.stderr.startswith("override 'training.seed=-1': training.seed: must be at least 0")
    assert "Traceback" not in bad.stderr


def test_an_unknown_command_and_a_missing_argument_exit_with_2() -> None:
    assert run("trian").returncode == 2
    assert run("train").returncode == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--config", "x"], "No such option: --config; the configuration is an argument: give its path alone"),
        (["config", "check", "x", "--training.seed=1"], "write training.seed=…, without dashes"),
        (["predict", "m", "x", "--scoring.weights.a=1"], "write --set scoring.weights.a=…"),
        (["predict", "m", "x", "--outptu=p"], "No such option: --outptu (Possible options: --output)"),
    ],
)
def test_an_unknown_option_gets_a_hint(arguments: list[str], message: str) -> None:
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2
    assert message in done.output


def test_h_is_help() -> None:
    for command in ([], ["train"], ["data", "convert"]):
        assert CliRunner().invoke(app, [*command, "-h"]).output.startswith("Usage: ")


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl.gz", "rows"])
def test_data_or_a_run_in_place_of_a_configuration_says_what_to_do(name: str, tmp_path: Path) -> None:
    data = tmp_path / name
    data.write_bytes(b"PAR1" + b"x" * 100_000)
    with pytest.raises(ConfigError) as caught:
        load_config(data)
    assert str(caught.value) == (
        f"{data}: is data, not a configuration; to write one for it: recap config new --from-data {data}"
    )
    with pytest.raises(ConfigError, match="is a folder; give the path of a YAML file"):
        load_config(tmp_path)
    (tmp_path / "config.yaml").write_text("")
    with pytest.raises(ConfigError, match=r"is the folder of a run or model; its configuration is .*config.yaml"):
        load_config(tmp_path)
    (tmp_path / "notes.txt").write_text("word " * 100_000)
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "notes.txt")
    assert len(str(caught.value)) < 500


def test_every_extension_of_data_is_known_to_configurations() -> None:
    assert set(DATA_EXTENSIONS) == set(EXTENSIONS)


def test_lines_are_broken_at_words_and_paths_stay_whole() -> None:
    text = "runs/a-long-path/that/stays/whole is broken after words\n  indented"
    assert wrapped(text, 24).split("\n") == [
        "runs/a-long-path/that/stays/whole",
        "is broken after words",
        "  indented",
    ]


def test_train_ends_with_the_next_command(tmp_path: Path) -> None:
    values = feed_values(write_feed(tmp_path), tmp_path / "run")
    values["training"]["num_train_steps"] = 1
    config = tmp_path / "ranker.yaml"
    config.write_text(yaml.safe_dump(values))
    assert run("train", config).stdout.splitlines()[-1] == f"next: recap predict {tmp_path}/run INPUT… --output DIR"
    unevaluated = run("train", config, f"training.save_dir={tmp_path}/other", "training.eval_log_every_n=null")
    assert unevaluated.stdout.splitlines()[-1] == f"next: recap evaluate {tmp_path}/other"


def test_evaluate_and_predict_open_the_best_checkpoint(tmp_path: Path) -> None:
    values = feed_values(write_feed(tmp_path), tmp_path / "run")
    values["training"] |= {"num_train_steps": 2, "eval_log_every_n": 1}
    values["training"]["watch"] = {"metric": "log_loss", "split": "validation"}
    values["optimizer"]["backbone"] = {"kind": "constant", "learning_rate": 3.0}  # makes the second step worse
    config = tmp_path / "ranker.yaml"
    config.write_text(yaml.safe_dump(values))
    output = run("train", config).stdout
    (best,) = [line.rsplit("/", 1)[1] for line in output.splitlines() if line.startswith("best checkpoint: ")]
    assert best in run("evaluate", tmp_path / "run", "--step", "best").stdout.splitlines()[0]
    predicted = run(
        "predict", tmp_path / "run", tmp_path / "validation/*.parquet", f"--output={tmp_path}/p", "--step=best"
    )
    assert predicted.returncode == 0
    assert "the watched metric" not in predicted.stdout + predicted.stderr
    latest = run("evaluate", tmp_path / "run", "--split", "validation")
    remark = f"the watched metric was best at step {int(best.removeprefix('step_'))}: --step best"
    assert (remark in latest.stdout + latest.stderr) is (best != "step_00000002")
    refused = run("evaluate", tmp_path / "run", "--step", "last")
    assert (refused.returncode, refused.stderr) == (2, "--step: expected a whole number or 'best', found 'last'\n")


def test_a_source_that_is_neither_a_file_nor_a_run_is_refused(tmp_path: Path) -> None:
    expected = "expected a configuration file or the folder of a run\n"
    for arguments in (["evaluate"], ["config", "diff", tmp_path]):
        missing = run(*arguments, tmp_path / "absent")
        assert missing.returncode == 2
    assert missing.stderr == f"{tmp_path}: not a run: it has no config.yaml; {expected}"
    assert run("evaluate", tmp_path / "absent").stderr == f"{tmp_path}/absent: no such file or folder; {expected}"
