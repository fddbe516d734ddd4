"""Files merged over files, and overrides over all of them."""

from pathlib import Path
from typing import Any

import pytest
from config.corpus import VALID
from hypothesis import given, settings
from hypothesis import strategies as st

from recap.config.file.diff import describe_changes, differences
from recap.config.file.load import dump_config, load_config, resolve, show_config
from recap.config.recap import RecapConfig
from recap.errors import ConfigError

WHOLE = VALID[0].read_text()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with whole.yaml."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "whole.yaml").write_text(WHOLE)
    return tmp_path


def write(name: str, text: str) -> str:
    file = Path(name)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return name


def problems(file: str, *overrides: str, set_files: tuple[str, ...] = ()) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(file, overrides, set_files)
    return str(caught.value).splitlines()


@pytest.mark.usefixtures("folder")
def test_mappings_merge_lists_and_other_kinds_replace() -> None:
    write(
        "sub/mine.yaml",
        "base: ../whole.yaml\n"
        "training: {seed: 8}\n"
        "features: {continuous: [age], discrete: {hour: {vocabulary: hours.parquet}}}\n"
        "optimizer: {backbone: {kind: constant, learning_rate: 0.5}, towers: {like: {learning_rate: 0.25}}}\n",
    )
    before, after = load_config("whole.yaml"), load_config("sub/mine.yaml")
    assert describe_changes(differences(before, after)) == [
        "training.seed: 7 → 8",
        "features.continuous: [age, followers] → [age]",
        "features.discrete.hour.size: 24 → nothing",
        "features.discrete.hour.vocabulary: nothing → hours.parquet",
        "optimizer.backbone.kind: linear_ramp_to_constant → constant",
        "optimizer.backbone.learning_rate: 0.001 → 0.5",
        "optimizer.backbone.num_ramp_steps: 2 → nothing",
        "optimizer.towers.like.learning_rate: 0.01 → 0.25",
    ]


@pytest.mark.usefixtures("folder")
def test_the_later_layer_wins() -> None:
    write("base.yaml", "base: whole.yaml\ntraining: {seed: 1, num_eval_steps: 1, train_log_every_n: 1}\n")
    write("mine.yaml", "base: base.yaml\ntraining: {num_eval_steps: 2, train_log_every_n: 2}\n")
    write("over.yaml", "training: {train_log_every_n: 3}\n")
    write("steps.yaml", "40\n")
    config = load_config("mine.yaml", ["training.seed=9"], ["over.yaml", "training.num_train_steps=steps.yaml"])
    training = config.training
    assert (training.seed, training.num_eval_steps, training.train_log_every_n) == (9, 2, 3)
    assert training.num_train_steps == 40


@pytest.mark.usefixtures("folder")
def test_a_mistake_in_a_base_is_reported_at_its_position_there() -> None:
    write("mine.yaml", "base: wrong.yaml\ntraining: {sed: 1}\n")
    write("wrong.yaml", "base: whole.yaml\n\nmodel: {embedings: {}}\n")
    lines = problems("mine.yaml", "scoring.weights.lik=1")
    assert [line.split(" ")[0] for line in lines] == ["mine.yaml:2:12:", "wrong.yaml:3:9:", "override"]


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base: nowhere.yaml", "mine.yaml:1:7: base: nowhere.yaml: no such file; the path is relative to this file"),
        ("base: .", "mine.yaml:1:7: base: .: is not a regular file"),
        ("base: /dev/null", "mine.yaml:1:7: base: /dev/null: is not a regular file"),
        ("base: chain0.yaml", "chain19.yaml:1:7: base: more than 20 files build on each other; merge some of them"),
        ("base: ''", "mine.yaml:1:7: base: expected the path of a YAML file, found the value ''"),
        ("base: 3", "mine.yaml:1:7: base: expected the path of a YAML file, found the value 3"),
        ('base: "a\\0b"', "mine.yaml:1:7: base: a\0b: no such file"),
        (f"base: {'x' * 300}", "mine.yaml:1:7: base: xxx"),
        ("base: mine.yaml", "mine.yaml:1:7: base: builds on itself: mine.yaml → mine.yaml"),
        ("base: other.yaml", "other.yaml:1:7: base: builds on itself: mine.yaml → other.yaml → mine.yaml"),
        ("base: list.yaml", "list.yaml:1:1: expected a mapping of sections (training, "),
        ("base: bytes.yaml", "bytes.yaml: cannot be read (not UTF-8 text (byte 0)); give the path of a YAML file"),
        ("base: ${NOT_SET_AT_ALL}", "mine.yaml:1:7: base: the environment variable 'NOT_SET_AT_ALL' is not set"),
    ],
)
def test_a_bad_base_is_refused(text: str, message: str) -> None:
    write("other.yaml", "base: mine.yaml\n")
    write("list.yaml", "[1]\n")
    Path("bytes.yaml").write_bytes(b"\xff")
    for number in range(21):
        write(f"chain{number}.yaml", f"base: chain{number + 1}.yaml\n")
    write("mine.yaml", f"{text}\n")
    assert problems("mine.yaml")[0].startswith(message)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("nowhere.yaml", "nowhere.yaml: cannot be read (No such file or directory); give the path of a YAML file"),
        ("model.tasks=nowhere.yaml", "nowhere.yaml: cannot be read (No such file"),
        (".", ".: is a folder; give the path of a YAML file"),
        ("/dev/zero", "/dev/zero: cannot be read (is a device, not a regular file)"),
        ("model.tasks=/dev/zero", "/dev/zero: cannot be read (is a device, not a regular file)"),
        ("=over.yaml", "--set-file '=over.yaml': expected FILE, or section.key=FILE such as model.tasks=tasks.yaml"),
        ("training.seed=", "--set-file 'training.seed=': expected FILE, or section.key=FILE"),
        ("training..seed=over.yaml", "--set-file 'training..seed=over.yaml': the path 'training..seed' has an empty"),
        ("", "--set-file '': expected FILE, or section.key=FILE"),
    ],
)
def test_a_bad_set_file_is_refused(given: str, message: str) -> None:
    write("over.yaml", "3\n")
    assert problems("whole.yaml", set_files=(given,))[0].startswith(message)


@pytest.mark.usefixtures("folder")
def test_a_value_from_a_file_is_reported_at_its_position_there() -> None:
    write("towers.yaml", "default:\n  kind: constant\n  learning_rat: 0.1\n")
    lines = problems("whole.yaml", set_files=("optimizer.towers=towers.yaml",))
    assert lines[0].startswith("towers.yaml:3:3: optimizer.towers.default.learning_rat: 'learning_rat' is unknown.")


@pytest.mark.usefixtures("folder")
def test_overrides_reach_what_a_validation_split_inherits() -> None:
    config = load_config(
        "whole.yaml",
        [
            "validation_data.train.tasks.like.neg_downsampling_rate=0.25",
            "validation_data.train.source.inputs.1=other.parquet",
            "train_data.global_batch_size=16",
        ],
    )
    inherits = config.validation_data["train"]
    assert inherits.tasks["like"].neg_downsampling_rate == 0.25
    assert inherits.source.inputs == ["train/part-0.parquet", "other.parquet"]
    assert inherits.global_batch_size == 16
    assert config.train_data.tasks["like"].neg_downsampling_rate == 0.5


@pytest.mark.usefixtures("folder")
def test_overrides_accept_names_with_dots() -> None:
    write("mine.yaml", WHOLE.replace("like", '"is.like"'))
    for named in ('model.tasks."is.like".pos_weight', "model.tasks.is.like.pos_weight"):
        assert load_config("mine.yaml", [f"{named}=3.0"]).model.tasks["is.like"].pos_weight == 3.0


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.seed.=3", "the path 'training.seed.' has an empty step; write section.key=value"),
        (".training=3", "the path '.training' has an empty step"),
        ("a" + ".a" * 3000 + "=3", "is too deep; write section.key=value"),
        ("features.continuous.²=z", "features.continuous is a list of 2 items and has no key '²'"),
        ("features.continuous.2=z", "features.continuous is a list of 2 items and has no key '2'"),
        (f"features.continuous.{'9' * 5000}=z", "features.continuous is a list of 2 items"),
        ("optimizer.towers.share.learning_rate=1", "To add it, set its complete value: optimizer.towers.share=…"),
        ("training.seed.x.y=1", "training.seed is the value 7 and has no key 'x'"),
        ("scoring.weights={like: x, share: y}", "scoring.weights.like: expected a number, found 'x'"),
    ],
)
def test_an_override_with_a_bad_path_is_refused_with_the_reason(override: str, message: str) -> None:
    lines = problems("whole.yaml", override)
    assert message in lines[0]
    assert lines[0].startswith(f"override {override!r}"[:40])


@pytest.mark.usefixtures("folder")
def test_every_mistake_of_one_override_is_reported() -> None:
    override = "training={seed: x, num_train_steps: x, checkpoint_every_n: 0}"
    lines = [line.removeprefix(f"override {override!r}: training.") for line in problems("whole.yaml", override)]
    assert sorted(lines) == [
        "checkpoint_every_n: must be above 0, found 0",
        "num_train_steps: expected a whole number, found 'x'",
        "seed: expected a whole number, found 'x'",
    ]


@pytest.mark.usefixtures("folder")
def test_show_gives_the_origin_of_every_value_but_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEED", "5")
    write("base.yaml", WHOLE)
    write("mine.yaml", "base: base.yaml\ntraining:\n  seed: ${SEED}\n  num_eval_steps: ${UNSET_VARIABLE:-7}\n")
    shown = show_config(resolve("mine.yaml", ["scoring.weights.like=2"]))
    lines = {line.split("#")[0].strip(): line.partition("# ")[2] for line in shown.splitlines()}
    assert lines["seed: 5"] == "environment SEED (mine.yaml:3)"
    assert lines["num_eval_steps: 7"] == "mine.yaml:4"
    assert lines["num_train_steps: 4"] == "base.yaml:4"
    assert "override 'scoring.weights.like=2'" in shown
    assert lines["eval_timeout_in_s: 600.0"] == "base.yaml:11"
    write("shown.yaml", shown)
    assert load_config("shown.yaml") == load_config("mine.yaml", ["scoring.weights.like=2"])


@pytest.mark.usefixtures("folder")
def test_show_adds_no_comment_to_defaults() -> None:
    alone = show_config(resolve(VALID[2]))
    assert "  seed: 0\n" in alone
    assert "momentum: 0.01}\n" in alone


words = st.text(alphabet="abk.=:{}[],'\"$ 0~\n", max_size=12)


@settings(max_examples=200)
@given(st.lists(st.tuples(st.sampled_from(["training", "model.tasks", "features", "x"]), words, words), max_size=3))
def test_any_override_is_accepted_or_refused(given: list[tuple[str, str, str]]) -> None:
    try:
        config = load_config(VALID[0], [f"{section}.{key}={value}" for section, key, value in given])
    except ConfigError as error:
        assert all(str(problem) for problem in error.problems)
    else:
        assert isinstance(config, RecapConfig)


def test_every_valid_file_reads_back_as_itself_when_dumped(tmp_path: Path) -> None:
    for file in VALID:
        config: Any = load_config(file)
        (tmp_path / file.name).write_text(dump_config(config))
        assert load_config(tmp_path / file.name) == config


def test_a_null_that_overrides_train_data_reads_back_as_null(tmp_path: Path) -> None:
    files = "{kind: parquet, inputs: train/*.parquet, num_files_to_keep: null}"
    nulls = ["weight=null", "rectify_labels=null", f"source={files}", "tasks.share={weight: null, at_least: null}"]
    config = load_config(VALID[0], [f"validation_data.train.{null}" for null in nulls])
    split = config.validation_data["train"]
    assert (split.weight, split.rectify_labels, split.source.num_files_to_keep) == (None, None, None)
    assert (split.tasks["share"].weight, split.tasks["share"].at_least) == (None, None)
    (tmp_path / "stored.yaml").write_text(dump_config(config))
    assert load_config(tmp_path / "stored.yaml", stored=True) == config


def test_the_order_of_features_and_tasks_is_a_difference_but_not_that_of_labels() -> None:
    config = load_config(VALID[0])
    same = load_config(
        VALID[0], ["train_data.tasks={share: {at_least: 1.0, weight: followers}, like: {neg_downsampling_rate: 0.5}}"]
    )
    assert differences(config, same) == {}
    other = load_config(VALID[0], ["features.discrete={language: {vocabulary: languages.parquet}, hour: {size: 24}}"])
    assert differences(config, other) == {
        ("features", "discrete"): (["hour", "language"], ["language", "hour"]),
    }
