"""Makes a model directory of a checkpoint whose tables are in parts."""

import shutil
from contextlib import ExitStack
from pathlib import Path

from recap.config.file.load import STORED, load_config
from recap.errors import InputError
from recap.model.directory import MODEL_FILES, STATISTICS, WEIGHTS, check_shapes, is_in_shards, read_assets
from recap.storage import atomic_directory, check_format, verify, writing
from recap.training.sharded_tables.shards import BlockFiles, StoredTensor, read_index, write_whole


def consolidate(checkpoint: Path, output: Path) -> int:
    """Write the model directory `output` with the whole tables of a checkpoint; return its number of weights.

    Memory does not grow with the tables. Raises InputError if the tables are whole already, CheckpointError if the
    checkpoint is damaged or not of its own configuration, and RunError if `output` cannot be written.
    """
    if not is_in_shards(checkpoint):
        verify(checkpoint, *MODEL_FILES)
        raise InputError(f"{checkpoint}: its tables are whole, so it is a model directory already; use it as it is")
    manifest = verify(checkpoint, *MODEL_FILES)
    check_format(checkpoint, manifest)
    index = read_index(checkpoint)
    copied = [name for name in manifest.files if name in (STORED, STATISTICS) or name.startswith("assets/")]
    with atomic_directory(output) as folder:
        for name in copied:
            with writing(folder / name) as file:
                file.parent.mkdir(exist_ok=True)
                shutil.copyfile(checkpoint / name, file)
        with ExitStack() as stack:
            files = BlockFiles(checkpoint, stack)
            weights: dict[str, StoredTensor] = files.whole(WEIGHTS) | index.get("weights", {})
            with writing(folder / WEIGHTS) as file:
                write_whole(file, weights, files)
        config = load_config(folder / STORED, stored=True)
        check_shapes(folder, config, read_assets(checkpoint, manifest, config))
    return len(weights)
