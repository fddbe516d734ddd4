"""The files that a command writes for its input files: all different, and none of them an input."""

import os
from collections.abc import Sequence
from pathlib import Path

from recap.config.file.load import STORED
from recap.data.formats.files import relative_names
from recap.data.formats.open import stem
from recap.errors import InputError
from recap.storage import MANIFEST, check_local, check_not_an_input


def output_files(files: Sequence[str], folder: Path, extension: str) -> dict[str, Path]:
    """Input file → output file, below `folder` as the input is below the common folder of `files`.

    Raises InputError if two inputs would become one file, an output is one of the inputs or is there and not a regular
    file, or `folder` cannot hold the outputs. Writes nothing.
    """
    names = zip(files, relative_names(files), strict=True)
    outputs = {file: folder / f"{stem(name)}{extension}" for file, name in names}
    sources: dict[Path, str] = {}
    for file, output in outputs.items():
        if output in sources:
            raise InputError(
                f"{file}: would become {output}, as {sources[output]} would; give each its own --output folder"
            )
        sources[output] = file
    for file, output in outputs.items():
        for parent in output.parents:
            if parent in sources:
                raise InputError(
                    f"{file}: would become {output}, in a folder named as the output of {sources[parent]}; give each "
                    "its own --output folder"
                )
    check_folder(folder)
    check_not_an_input(outputs.values(), files)
    for output in outputs.values():
        if os.path.exists(output) and not os.path.isfile(output):
            kind = "a folder" if os.path.isdir(output) else "not a regular file"
            raise InputError(f"{output}: is {kind}, which is never replaced; choose another --output")
    return outputs


def check_folder(folder: Path, option: str = "--output") -> None:
    """Raise InputError if `folder` is a URL, is no UTF-8 text, is or is below a file, or is in a model directory.

    `option`: that named it.
    """
    check_local(folder, option)
    try:
        str(folder).encode()
    except UnicodeEncodeError:
        raise InputError(f"{option}: {str(folder)!a} is not UTF-8 text; choose another {option}") from None
    for path in (folder, *folder.absolute().parents):
        if os.path.lexists(path) and not os.path.isdir(path):
            raise InputError(f"{option}: {path} is not a folder; choose another {option}")
        if os.path.isfile(path / MANIFEST) and os.path.isfile(path / STORED):
            raise InputError(
                f"{option}: {folder} is in the model directory {path}, which must not change; choose another {option}"
            )
