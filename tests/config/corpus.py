"""Broken files: valid files with each field broken in each way, and files broken by hand.

`corpus.txt` holds the first line of each error. It changes with messages and with the schema:

python tests/config/corpus.py        rewrites it; read the diff before committing it
"""

import tempfile
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml
from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from recap.config.base import BaseConfig, KeyPath
from recap.config.data import TrainDataConfig
from recap.config.features import VectorColumn
from recap.config.file.keys import members
from recap.config.file.load import load_config
from recap.config.file.yaml import render
from recap.config.model import EmbeddingConfig
from recap.errors import ConfigError

FOLDER = Path(__file__).parent
_FIRST = ["whole", "others", "alone"]
"""The files that state most fields."""
VALID = sorted(
    (FOLDER / "valid").glob("*.yaml"),
    key=lambda file: (file.stem not in _FIRST, _FIRST.index(file.stem) if file.stem in _FIRST else 0, file.stem),
)
EXPECTED = FOLDER / "corpus.txt"
NAME = "ranker.yaml"
_SHARE = "    share: {at_least: 1.0, weight: followers}\n"
"""The label of a task in whole.yaml."""


def cases() -> dict[str, str]:
    """Name of the case → text of the broken file."""
    return dict([*mutations(), *by_hand()])


def mutations() -> Iterator[tuple[str, str]]:
    """Each field of each section broken once in each way, where a valid file first states it."""
    seen: set[str] = set()
    for file in VALID:
        values = yaml.safe_load(file.read_text())
        for path, section in sections(load_config(file), values, ()):
            for name, change in broken_sections(type(section), path, values):
                if name not in seen:
                    seen.add(name)
                    broken = deepcopy(values)
                    change(broken)
                    yield name, render(broken)


def sections(section: Any, values: Any, path: KeyPath) -> Iterator[tuple[KeyPath, BaseConfig]]:
    """The sections in a file, each with its path."""
    if isinstance(section, BaseConfig) and isinstance(values, dict):
        yield path, section
        below: Any = [(name, getattr(section, name)) for name in values if name in type(section).model_fields]
    elif isinstance(values, dict) and isinstance(section, dict):
        below = [(name, section[name]) for name in values]
    else:
        below = enumerate(section) if isinstance(section, list) and isinstance(values, list) else ()
    for key, item in below:
        yield from sections(item, values[key], (*path, key))


def broken_sections(model: type[BaseModel], path: KeyPath, values: Any) -> Iterator[tuple[str, Any]]:
    """Ways to break the section at `path`: a name, and a function that does it."""
    stated = at(values, path)
    where = model.__name__
    yield f"unknown key in {where}", lambda root: at(root, path).update(nonsense=1)
    if path:
        scalar = "x" if model in (VectorColumn, EmbeddingConfig) else 3  # a number would be its length or width
        yield f"a scalar for {where}", lambda root: put(root, path, scalar)
    for name, field in model.model_fields.items():
        if name not in stated:
            continue
        yield f"misspelt {where}.{name}", lambda root, name=name: rename(at(root, path), name, misspelt(name))
        for what, wrong in wrong_values(name, field, stated[name]):
            yield f"{what} for {where}.{name}", lambda root, name=name, wrong=wrong: put(root, (*path, name), wrong)
        inherited = path[:1] == ("validation_data",) and (name == "kind" or name in TrainDataConfig.model_fields)
        if field.is_required() and not inherited:
            yield f"missing {where}.{name}", lambda root, name=name: at(root, path).pop(name)


def wrong_values(name: str, field: FieldInfo, stated: Any) -> Iterator[tuple[str, Any]]:
    """Values that the field refuses, each with the name of its fault."""
    kinds = members(field.annotation)
    if name == "kind":
        yield "misspelt kind", misspelt(stated)
        return
    if type(None) not in kinds:
        yield "null", None
    if isinstance(stated, list):
        yield "a scalar", 3
        literals = [kind for kind in map(item_type, kinds) if get_origin(kind) is Literal]
        yield from (("a misspelt word", [misspelt(get_args(literal)[0])]) for literal in literals)
    elif isinstance(stated, dict):
        yield "a list", []
    elif isinstance(stated, bool):
        yield "a word", "perhaps"
    elif isinstance(stated, int | float):
        if str not in kinds:
            yield "a word", "many"
        yield "a list", [1]
        yield "not a number", float("nan")
    else:
        if int not in kinds:
            yield "a number", 3
        yield "a mapping", {}
    for mark in field.metadata:
        match mark:
            case Gt(gt=bound):
                yield "too low", bound
            case Ge(ge=bound):
                yield "too low", bound - (1 if isinstance(stated, int) else 0.5)
            case Lt(lt=bound):
                yield "too high", bound
            case Le(le=bound):
                yield "too high", bound + (1 if isinstance(stated, int) else 0.5)
            case MinLen() if isinstance(stated, list | dict | str):
                yield "nothing", type(stated)()


def item_type(annotation: Any) -> Any:
    return get_args(annotation)[0] if get_origin(annotation) is list else None


def misspelt(word: str) -> str:
    """The first two letters swapped, or the first one doubled."""
    return word[1] + word[0] + word[2:] if word[0] != word[1] else word[0] + word


def at(values: Any, path: KeyPath) -> Any:
    for key in path:
        values = values[key]
    return values


def put(values: Any, path: KeyPath, value: Any) -> None:
    at(values, path[:-1])[path[-1]] = value


def rename(values: dict[str, Any], old: str, new: str) -> None:
    items = list(values.items())
    values.clear()
    values.update({new if key == old else key: item for key, item in items})


WHOLE = VALID[0].read_text()


def by_hand() -> Iterator[tuple[str, str]]:
    """Mistakes that no model defines: syntax, references, and sections that contradict each other."""
    for name, (old, new) in REPLACED.items():
        assert old in WHOLE, old
        yield name, WHOLE.replace(old, new, 1)
    yield from FILES.items()


REPLACED = {
    "duplicate key": ("  seed: 7\n", "  seed: 7\n  seed: 8\n"),
    "duplicate section": ("scoring:\n", "training: {}\nscoring:\n"),
    "duplicate task": (_SHARE, f"{_SHARE}    share: {{}}\n"),
    "tab for indentation": ("  seed: 7", "\tseed: 7"),
    "tab in a nested mapping": ("      layer_sizes: [16, 8]", "      \tlayer_sizes: [16, 8]"),
    "too much indentation": ("  seed: 7", "     seed: 7"),
    "too little indentation": ("  sharing: {kind: share_all}", " sharing: {kind: share_all}"),
    "unclosed bracket": ("[auc, log_loss]", "[auc, log_loss"),
    "unclosed brace": ("{like: 1.0, share: -2.5}", "{like: 1.0, share: -2.5"),
    "unclosed quote": ("save_dir: runs/whole", 'save_dir: "runs/whole'),
    "missing colon": ("  seed: 7", "  seed 7"),
    "missing space after the colon": ("  seed: 7", "  seed:7"),
    "missing comma": ("{like: 1.0, share: -2.5}", "{like: 1.0 share: -2.5}"),
    "control character": ("runs/whole", "runs\x01"),
    "unknown anchor": ("  seed: 7", "  seed: *seed"),
    "anchor inside itself": ("weights: {like", "weights: &w {<<: *w, like"),
    "merge of a scalar": ("weights: {like: 1.0", "weights: {<<: 3"),
    "unknown tag": ("  seed: 7", "  seed: !seed 7"),
    "object tag": ("  seed: 7", "  seed: !!python/object/apply:os.system ['true']"),
    "number for a key": ("  seed: 7", "  7: seed"),
    "list for a key": ("  seed: 7", "  [seed]: 7"),
    "two documents": ("scoring:\n", "---\nscoring:\n"),
    "environment variable that is not set": ("runs/whole", "runs/${RECAP_NOT_SET}"),
    "environment variable that is not set, for a number": ("  seed: 7", "  seed: ${RECAP_NOT_SET}"),
    "default of a variable that is not a number": ("  seed: 7", "  seed: ${RECAP_NOT_SET:-many}"),
    "reference without a name": ("runs/whole", "runs/${}"),
    "unclosed reference": ("runs/whole", "runs/${HOME"),
    "reference in a flow mapping": ("{like: 1.0,", "{like: ${RECAP_NOT_SET},"),
    "secret that is not set": ("runs/whole", "${secret:RECAP_NOT_SET}"),
    "a value of 1e400": ("  seed: 7", "  seed: 1e400"),
    "an infinite rate": ("learning_rate: 0.001, num", "learning_rate: .inf, num"),
    "a number in quotes": ("  seed: 7", '  seed: "7"'),
    "a metric twice": ("[auc, log_loss]", "[auc, auc]"),
    "a task evaluated twice": ("evaluation_tasks: [like]", "evaluation_tasks: [like, like]"),
    "a task of a reserved name": ("    share: {tower: {kind: mlp}}", "    default: {tower: {kind: mlp}}"),
    "a reference in a key": ("  seed: 7", "  ${seed}: 7"),
    "a reference in a default": ("runs/whole", "${A:-x${B}}"),
    "a value that begins with a star": ("inputs: validation/*.parquet", "inputs: *.parquet"),
    "a name with a NUL": ("runs/whole", '"runs\\0"'),
    "a number beyond the largest": ("  seed: 7", "  seed: 1000000000000000000000000000"),
    "a tag of a mapping": ("weights: {like", "weights: !mine {like"),
    "two of one_of": ("aggregation_size: 8,", "aggregation_size: 8, reduction_factor: 0.5,"),
    "none of one_of": ("aggregation_size: 8, ", ""),
    "a task with no label": (_SHARE, ""),
    "a label with no task": (_SHARE, f"{_SHARE}    shrae: {{}}\n"),
    "a tower without a rate": ("    default: {kind: constant, learning_rate: 0.01}\n", ""),
    "a rate without a tower": (
        "    like:\n      kind: linear_ramp_to_cosine",
        "    lik:\n      kind: linear_ramp_to_cosine",
    ),
    "sharing without a backbone": ("sharing: {kind: share_all}", "sharing: {kind: share_all}\n  backbone: null"),
    "an unused backbone": ("sharing: {kind: share_all}", "sharing: {kind: share_none}"),
    "a weight without a task": ("share: -2.5", "shar: -2.5"),
    "an unknown evaluation task": ("evaluation_tasks: [like]", "evaluation_tasks: [likes]"),
    "a column twice": ("[age, ", "[age, age, "),
    "a column in two roles": ("binary: [in_network]", "binary: [age]"),
    "a label as a feature": ("[age, ", "[like, "),
    "a reserved column name": ("    hour: {size: 24, length: 1}", "    default: {size: 24, length: 1}"),
    "a discrete column without a width": ("embeddings: {default: 4, hour: 2}", "embeddings: {hour: 2}"),
    "a width without a discrete column": ("embeddings: {default: 4, hour: 2}", "embeddings: {default: 4, huor: 2}"),
    "a vocabulary and a size": ("{size: 24, length: 1}", "{size: 24, vocabulary: hours.parquet}"),
    "a cosine that ends in its ramp": ("final_num_steps: 3", "final_num_steps: 1"),
    "more micro-batches than rows": ("gradient_accumulation: 2", "gradient_accumulation: 65"),
    "one row for BatchNorm": ("gradient_accumulation: 2", "gradient_accumulation: 64"),
    "both corrections for sampling": ("sampling_correction: weights", "sampling_correction: [weights, calibration]"),
    "interleaved files that are shuffled": ("interleave_files: 1", "interleave_files: 2"),
    "sampling without more rows": ("batch_multiplier: 2", "batch_multiplier: 1"),
    "positives of an unknown task": ("keep_positives_of: [like]", "keep_positives_of: [likes]"),
    "a budget without skipping": ("{kind: skip, budget: 3}", "{kind: stop, budget: 3}"),
    "skipping without a budget": ("{kind: skip, budget: 3}", "{kind: skip}"),
    "a vector of integers": ("dtype: bfloat16}}", "dtype: uint8}}"),
    "more bits than a mantissa has": ("masked_mantissa_bits: 8", "masked_mantissa_bits: 24"),
    "a length that is not a number": ("vectors: {vector: {length: 4,", "vectors: {vector: {length: four,"),
    "a name as a vector": (
        "vectors: {vector: {length: 4, masked_mantissa_bits: 8, dtype: bfloat16}}",
        "vectors: {vector: x}",
    ),
    "a mask of one value": ("{name: followers, length: 1}", "{name: followers, length: 1, mask: kept.npy}"),
    "a missing base": ("training:\n", "base: nowhere.yaml\ntraining:\n"),
    "a base of itself": ("training:\n", "base: ranker.yaml\ntraining:\n"),
    "a base that is not a path": ("training:\n", "base: [a]\ntraining:\n"),
    "a section in the wrong place": ("which_metrics:", "training: {}\nmodle:"),
}
"""Name of the case → text of whole.yaml, and its replacement."""

_RATES = """\
features: {binary: [a]}
model: {tasks: {like: {tower: {kind: mlp}}}}
train_data: {source: {inputs: x}, tasks: {like: {}}}
optimizer: {backbone: {kind: piecewise_constant, learning_rate_boundaries: %s, learning_rate_values: %s}, towers: {}}
"""
FILES = {
    "an empty file": "",
    "only a comment": "# nothing\n",
    "a list": "- training\n",
    "a word": "training\n",
    "an empty mapping": "{}\n",
    "no column at all": _RATES.replace("{binary: [a]}", "{}") % ("[1]", "[0.1, 0.2]"),
    "an element of a list with a length": _RATES.replace(
        "{binary: [a]}", "{binary: [{name: a, length: 2, of: {column: b, index: 0}}]}"
    )
    % ("[1]", "[0.1, 0.2]"),
    "an impossible hour": _RATES.replace(
        "inputs: x", "inputs: {kind: hourly, data_root: x, end_datetime: 2023/02/30/10, hours: 3}"
    )
    % ("[1]", "[0.1, 0.2]"),
    "an impossible day": _RATES.replace(
        "inputs: x", "inputs: {kind: daily, data_root: x, end_date: 2023-04-05, days: 3}"
    )
    % ("[1]", "[0.1, 0.2]"),
    "too few values": _RATES % ("[1, 2]", "[0.1, 0.2]"),
    "descending boundaries": _RATES % ("[2, 1]", "[0.1, 0.2, 0.3]"),
    "nested too deeply": "a: " + "[" * 5000 + "]" * 5000,
    "more values than any file has": "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
    + "".join(
        f"{this}: &{this} [{', '.join([f'*{last}'] * 10)}]\n" for last, this in zip("abcde", "bcdef", strict=True)
    ),
}


def lines_of(text: str, folder: Path) -> list[str]:
    """The lines of the error, with the name of the file but not its folder."""
    file = folder / NAME
    file.write_text(text, encoding="utf-8")
    try:
        load_config(file)
    except ConfigError as error:
        return str(error).replace(f"{folder}/", "").splitlines()
    return ["no error"]


def expected() -> dict[str, str]:
    """Name of the case → the stored first line."""
    blocks = EXPECTED.read_text(encoding="utf-8").strip().split("\n\n")
    return dict(block.split("\n", 1) for block in blocks)  # type: ignore[misc]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        lines = {name: lines_of(text, Path(made))[0] for name, text in cases().items()}
    EXPECTED.write_text("\n\n".join(f"{name}\n{line}" for name, line in lines.items()) + "\n", encoding="utf-8")
    print(f"written: {len(lines)} cases")
