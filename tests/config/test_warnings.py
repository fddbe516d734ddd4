"""Warnings: what a configuration may say, but most likely does not mean."""

import pytest
from config.corpus import VALID
from typer.testing import CliRunner

from recap.cli.main import app
from recap.config.file.load import resolve

WHOLE = VALID[0]
INPUTS = "[train/part-0.parquet, 'train/part-[12].parquet']"


def warnings(*overrides: str) -> list[str]:
    return [str(warning) for warning in resolve(WHOLE, overrides).warnings]


@pytest.mark.parametrize("file", VALID, ids=lambda file: file.stem)
def test_the_valid_configurations_have_no_warning(file: object) -> None:
    assert resolve(file).warnings == []


def test_a_validation_set_of_the_training_files_is_a_warning_unless_it_is_named_after_them() -> None:
    same = f"{{source: {{inputs: {INPUTS}}}}}"
    found = warnings(f"validation_data={{daily: {same}, train_rows: {same}}}", "training.watch=null")
    text = "daily reads the files of train_data, so it measures how well the model remembers; hold rows out"
    assert len(found) == 1
    assert found[0].endswith(f": validation_data.daily.source.inputs: {text}")


def test_check_prints_warnings_and_succeeds() -> None:
    same = f"validation_data={{daily: {{source: {{inputs: {INPUTS}}}}}}}"
    done = CliRunner().invoke(app, ["config", "check", str(WHOLE), same, "training.watch=null"])
    assert done.exit_code == 0
    assert done.stderr.startswith(f"warning: override {same!r}: validation_data.daily.source.inputs: daily reads")
    assert done.stdout.startswith(f"{WHOLE}: ")


def test_a_layer_norm_over_one_to_three_numbers_is_a_warning() -> None:
    found = warnings("features.vectors={v: 1}", "model.featurization={kind: double_norm_log, layer_norm: {}}")
    expected = [
        "features.vectors.v: LayerNorm over 1 value always gives 0, so the value is lost; "
        "list it under features.continuous instead, as {name: v, length: 1}",
        "model.featurization.layer_norm: LayerNorm over 3 values removes their mean and scale, and with them most of "
        "their meaning; set layer_norm: null",
    ]
    assert len(found) == 2
    assert all(text.endswith(f": {wanted}") for text, wanted in zip(found, expected, strict=True))
