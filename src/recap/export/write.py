"""Writes an exported model: program, signature, samples, configuration, and the files that codes arise from."""

import json
import os
from pathlib import Path

import torch
from safetensors.torch import save_file

import recap
from recap.config.checks.common import SCORE
from recap.config.file.load import STORED, dump_config
from recap.data.encoding.assets import asset_path, save_asset
from recap.errors import InputError
from recap.export.formats import FORMATS, Format
from recap.export.inputs import ROWS, tables_of
from recap.export.parity import compare, describe, ordinary_values, require_fit
from recap.export.program import Program, trace
from recap.model.directory import SavedModel
from recap.model.score_rows import score_rows
from recap.reporting import Say
from recap.storage import MANIFEST, atomic_directory, check_local, writing

SIGNATURE = "signature.json"
SAMPLE_INPUT, SAMPLE_OUTPUT = "sample_input.safetensors", "sample_output.safetensors"
_SAMPLE_ROWS, _SAMPLE_EVENTS = 8, 4


def check_export(kind: Format, output: Path, *, overwrite: bool) -> None:
    """Raise InputError if something is missing for the format, or `output` may not be written."""
    FORMATS[kind].check()
    check_local(output)
    if not os.path.lexists(output):
        return
    if not overwrite:
        raise InputError(f"--output: {output} already exists; add --overwrite to replace it, or choose another")
    if not ((output / SIGNATURE).is_file() and (output / MANIFEST).is_file()) or output.is_symlink():
        raise InputError(f"--output: {output} is not an exported model, so it is not replaced; choose another")


def export_model(model: SavedModel, kind: Format, output: Path, *, say: Say = lambda text: None) -> None:
    """Write `model` as a program of format `kind` into the folder `output`, and say how far it is from recap.

    Raises RunError, and writes nothing, if the program differs from recap or a file cannot be written.
    """
    config, assets = model.config, model.assets
    program = Program(model.scorer(config, torch.device("cpu")), config, assets)
    traced = trace(program)
    with atomic_directory(output) as folder:
        with writing(folder / FORMATS[kind].file):
            FORMATS[kind].write(program, traced, folder)
        differences = compare(program, FORMATS[kind].load(folder, program.names, 1))
        say(describe(differences))
        require_fit(differences)
        _write_sample(program, folder)
        for name, values in assets.items():
            with writing(asset_path(folder, name)) as file:
                save_asset(values, file)
        texts = {STORED: dump_config(config), SIGNATURE: _signature(program, model, kind)}
        for name, text in texts.items():
            with writing(folder / name) as file:
                file.write_text(text, encoding="utf-8")


def _write_sample(program: Program, folder: Path) -> None:
    values = ordinary_values(program, _SAMPLE_ROWS, _SAMPLE_EVENTS, seed=0)
    scores = score_rows(program.scorer, program.batch(values))
    columns = dict(zip(program.tasks, scores.calibrated_probabilities.T.contiguous(), strict=True))
    outputs = {name: column.clone() for name, column in columns.items()} | {SCORE: scores.score}
    for name, tensors in ((SAMPLE_INPUT, values), (SAMPLE_OUTPUT, outputs)):
        with writing(folder / name) as file:
            save_file(tensors, file)


def _signature(program: Program, model: SavedModel, kind: Format) -> str:
    config = model.config
    inputs = [
        {"name": each.name, "dtype": _dtype(each.dtype), "shape": each.shape, "source": each.source}
        for each in program.inputs
    ]
    holds = {True: "a value, in the unit of its label", False: "a calibrated probability"}
    outputs = [
        {"name": task, "dtype": "float32", "shape": [ROWS], "holds": holds[task in config.regressions]}
        for task in program.tasks
    ]
    outputs.append({"name": SCORE, "dtype": "float64", "shape": [ROWS], "holds": "the score"})
    content = {
        "format": kind.value,
        "file": FORMATS[kind].file,
        "recap": recap.__version__,
        "torch": torch.__version__,
        "inputs": inputs,
        "outputs": outputs,
        "max_events": program.max_events,
        "tables": tables_of(config, model.assets),
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _dtype(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
