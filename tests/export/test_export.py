"""`recap export`: an artefact scores as recap does, runs without it, and is whole or absent."""

import json
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from export.models import all_features, many_parts, write
from model.rankers import make_config, make_ranker
from safetensors.torch import load_file
from support import history_table, write_feed
from torch.testing import assert_close
from typer.testing import CliRunner

import recap
from recap.cli.main import app
from recap.data.formats.location import Location
from recap.errors import CheckpointError, InputError, RunError
from recap.export import parity
from recap.export import write as writer
from recap.export.exported import Exported
from recap.export.formats import Format, aoti, onnx
from recap.export.program import Program
from recap.export.write import check_export, export_model
from recap.model.directory import SavedModel, open_model
from recap.storage import add_file

TOLERANCE = {"atol": parity.ABSOLUTE, "rtol": parity.RELATIVE}


WEIGHTS = "scoring.weights={like: 3, share: -0.5}"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    feed = write_feed(folder / "feed", histories=True)
    write(all_features(feed), folder / "model")
    return folder / "model"


@pytest.fixture(scope="module")
def exported(model: Path) -> Path:
    folder = model.parent / "exported"
    arguments = ["--format", "torch", "--output", str(folder), "--set", WEIGHTS]
    done = CliRunner().invoke(app, ["export", str(model), *arguments])
    assert done.exit_code == 0, done.output
    assert "largest difference from recap over 5,003 extreme rows: like " in done.output
    return folder


def rows(count: int) -> pa.Table:
    """Rows with unknown and missing values, and histories without events."""
    table = history_table(count, seed=9)
    words = [None if number % 7 == 0 else [f"word {number}"] for number in range(count)]
    return table.append_column("words", pa.array(words, pa.list_(pa.string())))


def agree(model: Path, folder: Path, calls: int = 1) -> None:
    exported, scorer = Exported.open(folder, calls), recap.Scorer.open(model, overrides=[WEIGHTS])
    for count in (0, 1, 300):
        found, expected = exported(rows(count)), scorer(rows(count))
        assert found.schema == expected.schema
        for name in ("like", "share", "score"):
            values = (torch.tensor(table.column(name).to_pylist(), dtype=torch.float64) for table in (found, expected))
            assert_close(*values, **TOLERANCE)
    with ThreadPoolExecutor(4) as threads:
        results = list(threads.map(exported, [rows(300)] * 8))
    assert all(result.equals(found) for result in results)


def test_it_scores_tables_as_the_scorer_does_also_from_several_threads(model: Path, exported: Path) -> None:
    agree(model, exported)
    (row,) = Exported.open(exported)(rows(1).to_pylist())
    assert row.keys() == {"user_id", "served_at_ms", "post_id", "like", "share", "score"}


@pytest.mark.slow
def test_so_it_does_in_onnx(model: Path, tmp_path: Path) -> None:
    folder = export_that_agrees(model, Format.ONNX, tmp_path)
    assert error_without_recap(folder, Format.ONNX) == ""


@pytest.mark.slow
def test_so_does_a_model_with_many_parts_in_aoti(model: Path, tmp_path: Path) -> None:
    write(many_parts(model.parent / "feed"), tmp_path / "model")
    folder = export_that_agrees(tmp_path / "model", Format.AOTI, tmp_path)
    assert error_without_recap(folder, Format.AOTI) == ""


def export_that_agrees(model: Path, kind: Format, folder: Path) -> Path:
    """The exported program, which agrees with the scorer when two calls run at the same time."""
    export_model(open_model(model, [WEIGHTS]), kind, folder / "exported")
    agree(model, folder / "exported", calls=2)
    return folder / "exported"


STRANGERS = {
    Format.TORCH: """
import torch
from safetensors.torch import load_file
inputs, expected = load_file("sample_input.safetensors"), load_file("sample_output.safetensors")
program = torch.export.load("model.pt2").module()
with torch.inference_mode():
    outputs = program(*(inputs[name] for name in names))
""",
    Format.AOTI: """
import torch
from safetensors.torch import load_file
inputs, expected = load_file("sample_input.safetensors"), load_file("sample_output.safetensors")
outputs = torch._inductor.aoti_load_package("model.pt2")(*(inputs[name] for name in names))
""",
    Format.ONNX: """
sys.modules["torch"] = None
import onnxruntime
from safetensors.numpy import load_file
inputs, expected = load_file("sample_input.safetensors"), load_file("sample_output.safetensors")
session = onnxruntime.InferenceSession("model.onnx")
outputs = dict(zip([output.name for output in session.get_outputs()], session.run(None, inputs)))
""",
}


def error_without_recap(folder: Path, kind: Format) -> str:
    """The error of a program that runs an export over its sample and cannot import recap; empty if there is none."""
    code = f"""
import json, sys
sys.modules["recap"] = None
names = [each["name"] for each in json.load(open("signature.json"))["inputs"]]
{STRANGERS[kind]}
assert outputs.keys() == expected.keys()
for name in expected:
    assert outputs[name].dtype == expected[name].dtype, name
    assert abs(outputs[name] - expected[name]).max() < 1e-4 * (1 + abs(expected[name]).max()), name
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    return done.stderr or "it failed without a word" if done.returncode else ""


@pytest.mark.slow
def test_a_torch_program_runs_without_recap(exported: Path) -> None:
    assert error_without_recap(exported, Format.TORCH) == ""


def test_a_torch_program_holds_json_and_plain_numbers(exported: Path) -> None:
    with zipfile.ZipFile(exported / "model.pt2") as archive:
        contents = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    for name, content in contents.items():
        if name.endswith(".json"):
            json.loads(content)
        elif not name.startswith(("data/weights/weight_", "data/constants/tensor_")):
            assert len(content) < 50, name  # versions; the example inputs, which would be Python objects, are left out


def test_the_signature_says_how_codes_arise(exported: Path) -> None:
    signature = json.loads((exported / "signature.json").read_text())
    inputs = {each["name"]: each for each in signature["inputs"]}
    table = rows(40)
    opened = Exported.open(exported)
    batch = opened.encoder.encode(table, Location("rows"))
    encoded = {each.name: each.of_batch(batch).reshape(40, -1).tolist() for each in opened.inputs}
    for name in ("hour", "language", "post", "hashed_language"):
        source = inputs[name]["source"]
        column = table.column(source["column"]).to_pylist()
        if "element" in source:
            column = [None if value is None else value[source["element"]] for value in column]
        codes = [codes_of(value, signature["tables"][source["table"]], exported) for value in column]
        assert codes == encoded[name], name
    assert {name: each["shape"] for name, each in inputs.items() if "watched" in name} == {
        "watched/length": ["rows"],
        "watched/ids": ["rows", "events of watched", 2],
        "watched/attributes/action": ["rows", "events of watched"],
        "watched/attributes/gap": ["rows", "events of watched"],
        "watched/attributes/hour": ["rows", "events of watched"],
    }
    assert inputs["rounded"]["source"] == {
        "kind": "continuous",
        "null": "NaN",
        "column": "vector",
        "element": 1,
        "masked_mantissa_bits": 12,
    }


def codes_of(value: Any, table: dict[str, Any], folder: Path) -> list[int]:
    """The codes of a value, as docs/export.md describes them."""
    if table["kind"] == "integers":
        return [value + 1 if value is not None and 0 <= value < table["size"] else 0]
    if table["kind"] == "vocabulary":
        known = pq.read_table(folder / table["file"]).column("value").to_pylist()
        return [known.index(value) + 1 if value in known else 0]
    if value is None:
        return [0] * table["hashes"]
    bits = 2**64 - 1
    golden = 0x9E3779B97F4A7C15

    def mix(number: int) -> int:
        number = (number ^ (number >> 30)) * 0xBF58476D1CE4E5B9 & bits
        number = (number ^ (number >> 27)) * 0x94D049BB133111EB & bits
        return number ^ (number >> 31)

    number = value
    if isinstance(value, str):
        number = int.from_bytes(blake2b(value.encode(), digest_size=8).digest(), "little")
    key = mix((number + golden) & bits)
    seeds = [(table["seed"] * golden + (index + 1) * golden * golden) & bits for index in range(table["hashes"])]
    return [mix(key ^ mix(seed)) % table["buckets"] + 1 for seed in seeds]


def test_any_value_of_the_right_shape_is_accepted(model: Path) -> None:
    saved = open_model(model)
    program = Program(saved.scorer(saved.config, torch.device("cpu")), saved.config, saved.assets)
    values = parity.ordinary_values(program, rows=3, events=4, seed=1)
    unknown = {**values, "hour": torch.tensor([-1, 25, 2**62]), "watched/length": torch.tensor([-7, 0, 99])}
    known = {**values, "hour": torch.tensor([0, 0, 0]), "watched/length": torch.tensor([0, 0, 4])}
    vector = {"vector": torch.full((3, 4), torch.nan)}

    def scored(values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        outputs: dict[str, torch.Tensor] = program(*(values[name] for name in program.names))
        return outputs

    for name, column in scored({**unknown, **vector}).items():
        assert torch.equal(column, scored({**known, "vector": torch.zeros(3, 4)})[name])


@pytest.mark.parametrize("failure", [RunError, KeyboardInterrupt])
def test_a_failed_check_or_an_interrupt_leaves_nothing(
    failure: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config("log1p_abs")
    model = SavedModel(config, {"language": pa.array(["en", "ja"])}, make_ranker(config))
    if failure is RunError:
        monkeypatch.setattr(parity, "ABSOLUTE", -1.0)
    else:
        monkeypatch.setattr(writer, "require_fit", lambda differences: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(failure) as caught:
        export_model(model, Format.TORCH, tmp_path / "folder" / "exported")
    assert list((tmp_path / "folder").iterdir()) == []
    if failure is RunError:
        assert str(caught.value).startswith("the exported program differs from recap beyond the tolerance: like by ")


def test_only_an_exported_model_is_replaced_and_only_with_overwrite(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"exported already exists; add --overwrite to replace it"):
        check_export(Format.TORCH, exported, overwrite=False)
    check_export(Format.TORCH, exported, overwrite=True)
    with pytest.raises(InputError, match=r"is not an exported model, so it is not replaced; choose another"):
        check_export(Format.TORCH, tmp_path, overwrite=True)
    with pytest.raises(InputError, match=r"s3:/bucket/model is a URL"):
        check_export(Format.TORCH, Path("s3:/bucket/model"), overwrite=False)


def test_what_a_format_lacks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx, "_TO_WRITE", ("onnx", "onnx_nowhere"))
    with pytest.raises(InputError, match=r"not installed: onnx_nowhere; run pip install 'recap-ranker\[onnx\]'"):
        check_export(Format.ONNX, tmp_path / "new", overwrite=False)
    no_compiler = torch._inductor.config.patch({"cpp.cxx": ("nowhere",)})  # which monkeypatch could not take back
    with no_compiler, pytest.raises(InputError, match=r"format aoti: needs a C\+\+ compiler, and found none; install"):
        aoti.check()


def test_a_damaged_or_foreign_folder_is_refused(exported: Path, model: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", exported, copy], check=True)
    content = bytearray((copy / "model.pt2").read_bytes())
    content[len(content) // 2] ^= 1
    (copy / "model.pt2").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model.pt2: damaged \(its sha256 differs from the manifest\)"):
        Exported.open(copy)
    add_file(copy, "model.pt2", "not a program")
    with pytest.raises(CheckpointError, match=r"model.pt2: torch cannot open it"):
        Exported.open(copy)
    add_file(copy, "signature.json", '{"format": "jit"}')
    with pytest.raises(CheckpointError, match=r"format: expected one of torch, aoti, onnx, found 'jit'"):
        Exported.open(copy)
    add_file(copy, "signature.json", "[")
    with pytest.raises(CheckpointError, match=r"signature.json: damaged; export the model again"):
        Exported.open(copy)
    with pytest.raises(CheckpointError, match=r"no signature.json, so this is not an exported model"):
        Exported.open(model)
    assert load_file(exported / "sample_output.safetensors")["score"].dtype == torch.float64


def test_the_command_refuses_other_formats_and_what_is_no_model(tmp_path: Path) -> None:
    cases = {
        "onx": "--format: unknown format 'onx'. Known: torch, aoti, onnx. Did you mean 'onnx'?",
        "torch": "holds no model; expected a run (its training.save_dir) or a model directory",
    }
    for name, message in cases.items():
        arguments = ["--format", name]
        done = CliRunner().invoke(app, ["export", str(tmp_path), *arguments, "--output", str(tmp_path / "new")])
        assert done.exit_code != 0
        assert message in str(done.exception)
    assert list(tmp_path.iterdir()) == []
