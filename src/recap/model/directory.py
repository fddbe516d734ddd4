"""Writes, verifies and opens model directories, which hold everything that scoring needs.

Those are `config.yaml`, `weights.safetensors`, `assets/`, `statistics.json` of the training rows, `calibration.json`
where one was fitted, and a manifest with the checksum of each file.
"""

import json
import shutil
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from recap.config.base import KeyPath, ShapesWeights
from recap.config.discrete import HashSpace
from recap.config.featurization import ZScoreLogConfig
from recap.config.file.diff import describe_changes, differences
from recap.config.file.keys import is_below_mark
from recap.config.file.load import STORED, dump_config, load_config
from recap.config.recap import RecapConfig
from recap.data.encoding.analysis import load_analysis
from recap.data.encoding.assets import Assets, asset_path, load_assets, save_asset, saved_assets
from recap.data.statistics import Statistics
from recap.errors import CheckpointError, ConfigError, RecapError
from recap.model.calibration import FittedCalibration
from recap.model.inputs.featurization import ZScoreLog
from recap.model.inputs.row_ids import RowIds
from recap.model.inputs.tables import BuildTables, load_pretrained
from recap.model.names import is_below
from recap.model.ranker import Ranker
from recap.model.scorer import Scorer
from recap.model.shapes import at_most, dtype_name, shape_text, weight_mismatches, weight_shapes
from recap.runtime import free_memory
from recap.storage import (
    MANIFEST,
    Manifest,
    atomic_directory,
    check_format,
    read_manifest,
    read_regular,
    verify,
    writing,
)
from recap.text import shorten

WEIGHTS = "weights.safetensors"
TABLES = "inputs.embeddings"
"""The path of the embedding tables in a ranker."""
CALIBRATION = "calibration.json"
STATISTICS = "statistics.json"
MODEL_FILES = (STORED, WEIGHTS)
"""The files that every model directory has."""
SHARDS = "shards"
"""The folder of a checkpoint for tensors that the ranks of a run stored in parts."""
SHARDS_INDEX = f"{SHARDS}/index.json"
_MAX_CALIBRATION_BYTES = 1 << 28
_MAX_STATISTICS_BYTES = 1 << 26
DTYPES = {
    "F32": torch.float32,
    "F64": torch.float64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I32": torch.int32,
    "I64": torch.int64,
}
"""Name in safetensors files → type; of these only float32, int32 and int64 are written."""
_SAME_HASHES = 2
"""The first format whose models hash ids as this recap does."""
Content = TypeVar("Content", bound=BaseModel)


@dataclass(frozen=True)
class SavedModel:
    """The content of a model directory."""

    config: RecapConfig
    assets: Assets
    ranker: Ranker
    calibration: FittedCalibration | None = None

    def scorer(self, config: RecapConfig, device: torch.device) -> Scorer:
        """The scorer on `device`, with the fitted calibration, and the score weights and rates of `config`."""
        return Scorer.of(config, self.ranker.to(device), self.calibration)


def build_ranker(config: RecapConfig, assets: Assets, build_tables: BuildTables | None = None) -> Ranker:
    """A ranker with random weights, drawn from torch's current random state.

    `build_tables`: instead of whole embedding tables; it must itself see that there is memory for them. Raises
    ConfigError, which names the largest weight, if there is no memory for the weights.
    """
    weights, free = weight_shapes(config, assets), free_memory()
    if build_tables is not None:
        weights = {name: tensor for name, tensor in weights.items() if not is_below(name, TABLES)}
    sizes = {name: tensor.numel() * tensor.element_size() for name, tensor in weights.items()}
    if sum(sizes.values()) > free:
        name = max(sizes, key=sizes.__getitem__)
        raise ConfigError(
            f"the weights of this model take {_gib(sum(sizes.values()))}, and {_gib(free)} of memory are free; most of "
            f"it is {name}: {shape_text(weights[name])} {dtype_name(weights[name])}, {_gib(sizes[name])}. Lower the "
            "size, buckets or width of that table or layer, or use a machine with more memory"
        )
    return Ranker(config, assets, build_tables)


def new_ranker(config: RecapConfig, assets: Assets, build_tables: BuildTables | None = None) -> Ranker:
    """A ranker to train: random weights, the analysis of the data, pretrained rows of tables. Raises DataError.

    `build_tables`: as in `build_ranker`.
    """
    ranker, featurization = build_ranker(config, assets, build_tables), config.model.featurization
    if isinstance(featurization, ZScoreLogConfig):
        means, deviations = map(torch.from_numpy, load_analysis(featurization.analysis, config.features, assets))
        assert isinstance(ranker.inputs.featurization, ZScoreLog)
        ranker.inputs.featurization.set_analysis(means, deviations)
    load_pretrained(ranker.inputs.embeddings, config, assets)
    return ranker


def write_model(folder: Path, config: RecapConfig, assets: Assets, weights: Mapping[str, Tensor]) -> None:
    """Write the files of a model directory into `folder`; `weights` are contiguous. Raises RunError."""
    write_inputs(folder, config, assets)
    with writing(folder / WEIGHTS) as file:
        save_file(dict(weights), file)


def write_inputs(folder: Path, config: RecapConfig, assets: Assets) -> None:
    """Write the files of a model directory but its weights. Raises RunError."""
    with writing(folder / STORED) as file:
        file.write_text(dump_config(config), encoding="utf-8")
    for name, values in assets.items():
        with writing(asset_path(folder, name)) as file:
            save_asset(values, file)


def copy_model(folder: Path, copy: Path, texts: Mapping[str, str]) -> None:
    """Copy a model directory, without the state of a run, with other `texts`, by file name. Raises RunError."""
    to_copy = (*MODEL_FILES, STATISTICS)
    names = [name for name in read_manifest(folder).files if name in to_copy or name.startswith("assets/")]
    with atomic_directory(copy) as temporary:
        for name in names:
            with writing(temporary / name) as file:
                file.parent.mkdir(exist_ok=True)
                shutil.copyfile(folder / name, file)
        for name, text in texts.items():
            with writing(temporary / name) as file:
                file.write_text(text, encoding="utf-8")


def model_checksum(folder: Path) -> str:
    """The sha256 of everything that scores depend on. Raises CheckpointError for a folder without a manifest."""
    files = read_manifest(folder).files
    read = (*MODEL_FILES, CALIBRATION)
    own = {name: digest for name, digest in files.items() if name in read or name.startswith("assets/")}
    return sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()


def open_model(
    folder: Path, overrides: Sequence[str] = (), set_files: Sequence[str] = (), *, calibrated: bool = True
) -> SavedModel:
    """Verify and open a model directory, with `overrides` and `set_files` merged over its configuration.

    It may come from elsewhere: only files that its manifest lists are read, and nothing of the environment. Raises
    CheckpointError if it is missing or damaged, ConfigError for overrides of anything its weights depend on.
    `calibrated`: whether to read its fitted calibration, if it has one.
    """
    existed = folder.exists()
    try:
        config, assets = open_inputs(folder, overrides, set_files)
        check_shapes(folder, config, assets)
        ranker = build_ranker(config, assets)
        ranker.load_state_dict(read_weights(folder))
        _check_ids(folder, ranker)
        calibration = read_calibration(folder, config) if calibrated else None
    except RecapError as error:
        if existed and not folder.exists():
            raise CheckpointError(
                f"{folder}: was deleted while it was read, as training deletes old checkpoints; run the command again"
            ) from error
        raise
    return SavedModel(config, assets, ranker, calibration)


def _check_ids(folder: Path, ranker: Ranker) -> None:
    """Raise CheckpointError unless the rows of a zero-collision hash belong to different ids."""
    for name, module in ranker.inputs.embeddings.named_modules():
        if isinstance(module, RowIds) and (problem := module.problem()) is not None:
            raise CheckpointError(f"{folder / WEIGHTS}: damaged ({TABLES}.{name}: {problem})")


def open_inputs(
    folder: Path, overrides: Sequence[str] = (), set_files: Sequence[str] = ()
) -> tuple[RecapConfig, Assets]:
    """The configuration and the assets of a model directory, as `open_model`."""
    manifest = verify_model(folder)
    trained = load_config(folder / STORED, stored=True)
    check_hashes(folder, manifest, trained)
    config = trained
    if overrides or set_files:
        config = load_config(folder / STORED, overrides, set_files, stored=True)
        _refuse_other_weights(differences(trained, config), folder)
    return config, read_assets(folder, manifest, config)


def read_assets(folder: Path, manifest: Manifest, config: RecapConfig) -> Assets:
    """The vocabularies and masks of a directory with `manifest`. Raises CheckpointError for one it does not list."""
    for name, file in saved_assets(config.features, folder).items():
        if file.relative_to(folder).as_posix() not in manifest.files:
            raise CheckpointError(f"{folder / MANIFEST}: does not list the vocabulary or mask of {name[:60]!r}")
    return load_assets(config.features, folder)


def check_hashes(folder: Path, manifest: Manifest, trained: RecapConfig) -> None:
    """Raise CheckpointError if the model hashes ids and was trained when those were hashed in another way."""
    hashed = [name for name, space in trained.features.code_spaces.items() if isinstance(space, HashSpace)]
    if hashed and manifest.format < _SAME_HASHES:
        raise CheckpointError(
            f"{folder}: was trained by an earlier recap, which hashed ids that are digits differently; train it again "
            f"(hashed: {', '.join(hashed)[:60]})"
        )


def verify_model(folder: Path) -> Manifest:
    """The manifest of a model directory.

    Raises CheckpointError, which lists the models beside it, unless it is a complete model directory, and for a
    checkpoint whose tables are in parts.
    """
    check_whole(folder)
    try:
        manifest = verify(folder, *MODEL_FILES)
    except CheckpointError as error:
        manifests = folder.parent.glob(f"*/{MANIFEST}") if folder.parent.is_dir() else ()
        others = sorted(manifest.parent.name for manifest in manifests if manifest.parent != folder)
        advice = "use another model"
        if str(error).startswith(f"{folder / CALIBRATION}:"):
            advice = f"remove it with 'recap calibrate --remove', or {advice}"
        known = f"; {folder.parent} also holds {', '.join(others)}" if others else ""
        raise CheckpointError(f"{error}; {advice}{known}") from None
    check_format(folder, manifest)
    return manifest


def check_whole(folder: Path) -> None:
    """Raise CheckpointError for a checkpoint whose tables are in parts."""
    if is_in_shards(folder):
        raise CheckpointError(
            f"{folder}: its tables are in the parts that the ranks of its run wrote, because of "
            f"training.sharded_tables.consolidate: false. Run 'recap model consolidate {folder} --output DIR', and use "
            "DIR"
        )


def is_in_shards(folder: Path) -> bool:
    """Whether a directory is a checkpoint whose tables are in parts; False for one without a readable manifest."""
    with suppress(CheckpointError):
        return SHARDS_INDEX in read_manifest(folder).files
    return False


def _refuse_other_weights(changes: Mapping[KeyPath, tuple[Any, Any]], folder: Path) -> None:
    """Raise ConfigError for changes to the model or its inputs, which the weights depend on."""
    refused = {path: change for path, change in changes.items() if is_below_mark(RecapConfig, path, ShapesWeights())}
    if refused:
        lines = "\n".join(f"  {line}" for line in describe_changes(refused))
        raise ConfigError(
            f"{folder}: these overrides change the features or the model that its weights were trained with; leave "
            f"them out:\n{lines}"
        )


def read_weights(folder: Path, shapes_only: Collection[str] = ()) -> dict[str, Tensor]:
    """The weights in `folder` by name. Raises CheckpointError if they cannot be read or are not finite.

    `shapes_only`: names whose tensors are not read; theirs are on the meta device.
    """
    file = folder / WEIGHTS
    try:
        with safe_open(file, "pt") as content:
            weights: dict[str, Tensor] = {
                name: content.get_tensor(name)
                if name not in shapes_only
                else torch.empty(content.get_slice(name).get_shape(), device="meta")
                for name in content.keys()  # noqa: SIM118 - it is no mapping
            }
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file}: cannot be read ({error})") from None
    for name, tensor in weights.items():
        if tensor.is_floating_point() and tensor.dtype not in DTYPES.values():
            raise CheckpointError(f"{file}: {shorten(name)} holds {dtype_name(tensor)}; use another checkpoint")
        if not tensor.is_meta:
            check_finite(tensor, f"{file}: {shorten(name)}")
    return weights


def check_finite(weight: Tensor, what: str) -> None:
    """Raise CheckpointError, which starts with `what`, if a weight has values that are not finite."""
    if weight.is_floating_point() and weight.numel() and not all(map(torch.isfinite, weight.aminmax())):
        raise CheckpointError(f"{what} has values that are NaN or infinite; use another checkpoint")


def read_calibration(folder: Path, config: RecapConfig) -> FittedCalibration | None:
    """What `recap calibrate` fitted; None if the manifest lists none. Raises CheckpointError for one that does not fit.

    `config`: of the model, with overrides, which may not change the correction of sampling rates that came before.
    """
    if CALIBRATION not in read_manifest(folder).files:
        return None
    file = folder / CALIBRATION
    try:
        fitted = FittedCalibration.model_validate_json(read_regular(file, _MAX_CALIBRATION_BYTES))
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read ({error.strerror})") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        misfit: str | None = shorten(f"{where}: {first['msg']}" if where else first["msg"], 200)
    else:
        misfit = fitted.misfit(config)
    if misfit is not None:
        raise CheckpointError(
            f"{file}: not a calibration of this model ({misfit}); remove it with 'recap calibrate --remove', or fit it "
            "again with --overwrite"
        )
    return fitted


def read_statistics(folder: Path) -> Statistics | None:
    """The statistics of the training rows; None if the manifest lists none, as before recap wrote them.

    Raises CheckpointError for damaged ones.
    """
    if STATISTICS not in read_manifest(folder).files:
        return None
    return read_json(folder / STATISTICS, Statistics, _MAX_STATISTICS_BYTES)


def read_json(file: Path, kind: type[Content], max_bytes: int) -> Content:
    """The content of a JSON file of a model directory. Raises CheckpointError if it is damaged or too large."""
    try:
        return kind.model_validate_json(read_regular(file, max_bytes))
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read ({error.strerror})") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise CheckpointError(f"{file}: damaged ({shorten(f'{where}: ' + first['msg'], 200)})") from None


def check_shapes(folder: Path, config: RecapConfig, assets: Assets) -> None:
    """Raise CheckpointError, which lists the mismatches, unless `folder` holds weights of this model. Reads none."""
    file = folder / WEIGHTS
    try:
        with safe_open(file, "pt") as content:
            slices = {name: content.get_slice(name) for name in content.keys()}  # noqa: SIM118 - it is no mapping
        weights = {
            name: torch.empty(part.get_shape(), dtype=DTYPES[part.get_dtype()], device="meta")
            for name, part in slices.items()
        }
    except (OSError, SafetensorError, RuntimeError, KeyError) as error:
        raise CheckpointError(f"{file}: cannot be read ({error})") from None
    other = f"{file}: the weights belong to another model; use the features and model they were trained with"
    with at_most(len(weights), f"{other} (this model has more than {len(weights):,} weights)"):
        expected = weight_shapes(config, assets)
    if mismatches := weight_mismatches(weights, expected):
        raise CheckpointError(f"{other}:\n  {mismatches}")


def _gib(size: int) -> str:
    return f"{size / 2**30:,.1f} GiB"
