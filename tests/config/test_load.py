from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from support import feed_values

from recap.config.file.diff import differences
from recap.config.file.load import dump_config, load_config
from recap.config.file.node import plain
from recap.config.file.yaml import parse
from recap.config.recap import JobMode, RecapConfig
from recap.config.training import RaiseConfig
from recap.errors import ConfigError, Problem

GOOD = """\
training: {save_dir: runs/x, num_train_steps: 30}
features:
  continuous: [age, {name: dense, length: 3}]
  discrete: {hour: {size: 24}, word: {vocabulary: words.parquet}}
model:
  embeddings: {default: 8, hour: 4}
  backbone: {kind: mlp, layer_sizes: [16]}
  sharing: {kind: share_all}
  tasks:
    like: {tower: {kind: mlp, layer_sizes: [8]}}
    share: {tower: {kind: mlp}}
train_data:
  source: {kind: parquet, inputs: train/*.parquet}
  tasks: {like: {neg_downsampling_rate: 0.1}, share: {}}
validation_data:
  recent: {source: {inputs: recent/*.parquet}}
  whole: {source: {inputs: [a, b]}, tasks: {like: {neg_downsampling_rate: 1.0}}, evaluation_tasks: [like]}
optimizer:
  backbone: {kind: constant, learning_rate: 1e-3}
  towers: {default: {kind: constant, learning_rate: 0.01}}
scoring: {weights: {like: 1, share: -2.5}}
which_metrics: [auc, log_loss]
"""


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write_file(text: str) -> Path:
        file = tmp_path / "ranker.yaml"
        file.write_text(text)
        return file

    return write_file


def problems(file: Path, overrides: tuple[str, ...] = ()) -> list[str]:
    """The lines of the error, without the folder of the file."""
    with pytest.raises(ConfigError) as caught:
        load_config(file, overrides)
    assert caught.value.exit_code == 2
    return str(caught.value).replace(f"{file.parent}/", "").splitlines()


def parsed(text: str) -> Any:
    """The plain values of good YAML."""
    mistakes: list[Problem] = []
    node = parse(text, "x", mistakes)
    assert node is not None
    assert not mistakes
    return plain(node)


def test_training_has_the_published_defaults() -> None:
    training = RecapConfig.model_fields["training"].default
    assert {name: getattr(training, name) for name in type(training).model_fields} == {
        "save_dir": "/tmp/model",
        "num_train_steps": 1_000_000,
        "initial_checkpoint_dir": None,
        "initial_weights": None,
        "checkpoint_every_n": 1000,
        "checkpoint_max_to_keep": None,
        "train_log_every_n": 1000,
        "log_norms": False,
        "num_eval_steps": 16384,
        "eval_log_every_n": 5000,
        "eval_timeout_in_s": 3600.0,
        "watch": None,
        "gradient_accumulation": None,
        "non_finite": RaiseConfig(),
        "preemption_grace_seconds": 30.0,
        "ema": None,
        "mlflow": None,
        "batch_norm_rows": None,
        "precision": "auto",
        "sharded_tables": None,
        "compile": False,
        "seed": 0,
        "threads": None,
    }
    assert [mode.value for mode in JobMode] == ["train", "evaluate", "inference"]


def test_a_validation_split_inherits_what_it_does_not_state(write: Any) -> None:
    config = load_config(write(GOOD))
    recent, whole = config.validation_data["recent"], config.validation_data["whole"]
    assert recent.source.inputs == ["recent/*.parquet"]
    assert recent.tasks["like"].neg_downsampling_rate == 0.1
    assert whole.tasks["like"].neg_downsampling_rate == 1.0
    assert whole.global_batch_size == config.train_data.global_batch_size


def test_a_resolved_config_reads_back_as_itself(write: Any) -> None:
    config = load_config(write(GOOD))
    assert load_config(write(dump_config(config))) == config
    assert differences(config, config) == {}


def test_differences_name_every_value_that_changed(write: Any) -> None:
    before = load_config(write(GOOD))
    after = load_config(write(GOOD), ["training.seed=3", "scoring.weights.like=2"])
    assert differences(before, after) == {
        ("training", "seed"): (0, 3),
        ("scoring", "weights", "like"): (1.0, 2.0),
    }


def test_overrides_are_yaml_and_the_later_wins(write: Any) -> None:
    config = load_config(
        write(GOOD),
        [
            "training.seed=1",
            "training.seed=2",
            "model.backbone.layer_sizes=[4, 5]",
            "model.backbone.layer_sizes.0=6",
            "optimizer.backbone={kind: linear_ramp_to_constant, learning_rate: 1e-2, num_ramp_steps: 7}",
            "which_metrics=null",
        ],
    )
    assert config.training.seed == 2
    assert config.model.backbone is not None
    assert config.model.backbone.layer_sizes == [6, 5]
    assert config.optimizer.backbone.kind == "linear_ramp_to_constant"
    assert config.which_metrics is None


def test_an_override_of_an_alias_leaves_its_anchor_alone(write: Any) -> None:
    text = GOOD.replace("like: {tower", "like: &task {tower").replace("share: {tower: {kind: mlp}}", "share: *task")
    config = load_config(write(text), ["model.tasks.share.pos_weight=3.0", "model.tasks.share.tower.layer_sizes=[9]"])
    like, share = config.model.tasks["like"], config.model.tasks["share"]
    assert (like.pos_weight, share.pos_weight) == (1.0, 3.0)
    assert (like.tower.layer_sizes, share.tower.layer_sizes) == ([8], [9])  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.sed=1", "override 'training.sed=1': training.sed: 'sed' is unknown."),
        ("training.seed", "override 'training.seed': expected section.key=value"),
        ("=1", "override '=1': expected section.key=value"),
        ("training.seed.x=1", "override 'training.seed.x=1': training.seed is the value 0"),
        (
            "training.seed=x",
            "override 'training.seed=x': training.seed: expected a whole number, found 'x'",
        ),
        ("which_metrics.7=auc", "override 'which_metrics.7=auc': which_metrics is a list of 2 items"),
        ("nothing.at.all=1", "override 'nothing.at.all=1': nothing: 'nothing' is unknown. Known: training"),
        ("training.seed=[", "override 'training.seed=[': not valid YAML"),
    ],
)
def test_a_bad_override_is_refused_by_its_text(write: Any, override: str, message: str) -> None:
    text = GOOD.replace("num_train_steps: 30", "num_train_steps: 30, seed: 0")
    assert problems(write(text), (override,))[0].startswith(message)


def test_all_mistakes_are_reported_at_once(write: Any) -> None:
    """Bad fields, misspelt sections, and sections that contradict each other."""
    changes = {
        "num_train_steps: 30": "num_train_steps: -1, seed: '${NOT_SET_AT_ALL}'",
        "continuous: [age, ": "continuous: [age, age, 3, ",
        "default: 8, hour: 4": "huor: 4",
        "kind: mlp, layer_sizes: [16]": "kind: mlpp, layer_sizes: [16]",
        "share: {tower: {kind: mlp}}": "share: 3",
        "neg_downsampling_rate: 0.1": "neg_downsampling_rate: 0.0, neg: 1",
        "evaluation_tasks: [like]": "evaluation_tasks: [lik]",
        "optimizer:": "optimiser:",
        "kind: constant, learning_rate: 1e-3": "kind: piecewise_constant, learning_rate_boundaries: [2, 1], "
        "learning_rate_values: [1]",
        "like: 1, share": "lik: 1, share",
        "[auc, log_loss]": "[acu]",
    }
    text = GOOD
    for old, new in changes.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    paths = [line.split(": ")[1] for line in problems(write(text))]
    assert paths == [
        "training.num_train_steps",
        "training.seed",
        "features.continuous.1",
        "features.continuous.2",
        "model.embeddings",
        "model.embeddings",
        "model.embeddings.huor",
        "model.backbone.kind",
        "model.tasks.share",
        "train_data.tasks.like.neg_downsampling_rate",
        "train_data.tasks.like.neg",
        "validation_data.whole.evaluation_tasks.0",
        "optimiser",
        "optimizer.backbone.learning_rate_boundaries",
        "optimizer.backbone.learning_rate_values",
        "scoring.weights.lik",
        "which_metrics.0",
    ]


def test_every_missing_key_is_reported(write: Any) -> None:
    assert [line.split(": ")[1] for line in problems(write("{}"))] == ["features", "model", "train_data", "optimizer"]
    cosine = GOOD.replace("kind: constant, learning_rate: 1e-3", "kind: linear_ramp_to_cosine")
    assert len(problems(write(cosine))) == 3


def test_a_mistake_in_what_validation_inherits_is_reported_once(write: Any) -> None:
    text = GOOD.replace("neg_downsampling_rate: 0.1", "neg_downsampling_rate: 2.0")
    assert len(problems(write(text))) == 1


def test_a_missing_file_an_empty_one_and_a_list_are_refused(write: Any, tmp_path: Path) -> None:
    assert problems(tmp_path / "none.yaml")[0].startswith("none.yaml: cannot be read (No such file")
    assert problems(write(""))[0].startswith("ranker.yaml:1:1: expected a mapping of sections (training, ")
    assert problems(write("[1]"))[0].endswith("found a list")


def test_numbers_follow_yaml_1_2() -> None:
    text = "{a: 1e-4, b: 1.5E+3, c: -7, d: .5, e: no, f: 12:30, g: 0x1f, h: true, i: null, j: 1_000, k: .inf}"
    assert parsed(text) == {
        "a": 1e-4,
        "b": 1500.0,
        "c": -7,
        "d": 0.5,
        "e": "no",
        "f": "12:30",
        "g": 31,
        "h": True,
        "i": None,
        "j": "1_000",
        "k": float("inf"),
    }


def test_anchors_and_merges_are_resolved_and_no_tag_constructs_an_object() -> None:
    text = "base: &base {a: 1, b: 2}\nother: {<<: *base, b: 3}"
    assert parsed(text)["other"] == {"a": 1, "b": 3}
    mistakes: list[Problem] = []
    node = parse(
        "{a: !!python/object/apply:os.system ls, b: !!python/object/apply:os.system [ls], c: !own {}}", "x", mistakes
    )
    assert node is not None
    assert plain(node) == {"a": "ls", "b": ["ls"], "c": {}}
    assert [str(problem) for problem in mistakes] == [
        "x:1:5: a: unknown tag '!!python/object/apply:os.system'; write plain values",
        "x:1:44: b: unknown tag '!!python/object/apply:os.system'; write plain values",
        "x:1:85: c: unknown tag '!own'; write plain values",
    ]


yaml_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
paths = st.sampled_from(
    [
        "training",
        "training.seed",
        "features",
        "features.continuous",
        "features.discrete.hour",
        "model",
        "model.tasks",
        "model.tasks.like",
        "model.tasks.like.tower",
        "model.backbone",
        "train_data",
        "train_data.source",
        "validation_data",
        "validation_data.validation",
        "optimizer.towers",
        "optimizer.backbone",
        "which_metrics",
    ]
)


@settings(max_examples=300)
@given(st.lists(st.tuples(paths, yaml_values), min_size=1, max_size=3))
def test_any_file_loads_or_is_refused_with_positions(
    changes: list[tuple[str, Any]],
) -> None:
    import tempfile

    values = feed_values(Path("feed"), Path("run"))
    for path, value in changes:
        where: Any = values
        *parents, last = path.split(".")
        for key in parents:
            where = where.get(key) if isinstance(where, dict) else None
        if isinstance(where, dict):
            where[last] = value
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "ranker.yaml"
        file.write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")
        try:
            load_config(file)
        except ConfigError as error:
            assert all(line.startswith(f"{file}:") for line in str(error).splitlines() if line[:1] == "/")


def test_surrogates_that_json_escapes_are_one_character() -> None:
    mistakes: list[Problem] = []
    node = parse('{"\\ud83d\\ude00": "\\ud83d\\ude00"}', "ranker.yaml", mistakes)
    assert node is not None
    assert plain(node) == {"\U0001f600": "\U0001f600"}
    assert not mistakes


@pytest.mark.parametrize("text", ["[1, 2, 3, 4]", "{a: &a {b: 1}, c: *a, d: *a, e: *a}"], ids=["values", "aliases"])
def test_a_file_of_too_many_values_is_refused(text: str) -> None:
    mistakes: list[Problem] = []
    assert parse(text, "ranker.yaml", mistakes, max_values=4) is None
    assert "more than 4 " in str(mistakes[0])


def test_names_of_a_megabyte_are_cut_in_messages(write: Any) -> None:
    assert all(len(line) < 5000 for line in problems(write(f"? {'k' * 10**5}\n: 1\n")))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('"\\U00110000"', "ranker.yaml:1:7: not valid YAML: the escape in this text is not a character of Unicode"),
        ('"\\ud800"', "ranker.yaml:1:4: a: contains half of a surrogate pair, which is not a character"),
    ],
)
def test_an_escape_that_is_no_character_is_refused(text: str, message: str) -> None:
    mistakes: list[Problem] = []
    parse(f"a: {text}", "ranker.yaml", mistakes)
    assert [str(mistake) for mistake in mistakes] == [message]


@pytest.mark.parametrize(
    "text",
    [
        "".join(f"key{number}: 1\n" for number in range(3000)),
        "features: {continuous: [" + ", ".join(f"{{nam: x{number}}}" for number in range(3000)) + "]}",
        GOOD.replace("continuous: [age,", f"continuous: [{'age, ' * 3000}"),
        GOOD.replace("  tasks: {like:", "  tasks: {" + "".join(f"t{n}: {{}}, " for n in range(3000)) + "like:"),
    ],
    ids=["sections", "fields", "checks", "names"],
)
def test_an_error_lists_at_most_100_mistakes(write: Any, text: str) -> None:
    found = problems(write(text))
    assert len(found) <= 101
    assert found[-1].endswith(" more problems; fix these first") or len(found) <= 100


def test_an_error_lists_at_most_100_known_names(write: Any) -> None:
    labels = ", ".join(f"t{number}: {{}}" for number in range(300))
    towers = ", ".join(f"t{number}: {{tower: {{kind: mlp}}}}" for number in range(300))
    text = GOOD.replace("{like: {neg_downsampling_rate: 0.1}, share: {}}", f"{{{labels}}}")
    text = text.replace(
        "    like: {tower: {kind: mlp, layer_sizes: [8]}}\n    share: {tower: {kind: mlp}}", f"    {{{towers}}}"
    )
    found = problems(write(text))
    assert any("t99, … (300 in all)" in line for line in found), found
    assert not any("t100" in line for line in found)


@settings(max_examples=300)
@given(st.text(alphabet="ab:{}[],-&*!|>'\"#%@\t\n 0.~<?\\UuxD1", max_size=40))
def test_any_text_parses_or_is_refused(text: str) -> None:
    mistakes: list[Problem] = []
    parse(text, "x", mistakes)
    assert all(str(problem).startswith("x") for problem in mistakes)
