"""Runs that learn from the predictions of a model, which scores their batches."""

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from support import Recorder, feed_config, write_feed
from torch.testing import assert_close
from training.runs import assert_same_run, files, interrupt

from recap import Scorer
from recap.config.file.load import dump_config, resolve
from recap.config.recap import JobMode, RecapConfig
from recap.data.batch import Batch
from recap.data.encoding.assets import load_assets
from recap.data.open import open_source, open_stream
from recap.data.remote.wire import RowCodec
from recap.data.tools.check import check_data
from recap.errors import CheckpointError, ConfigError, DataError, InputError, Interrupted
from recap.evaluation.run import evaluate_run
from recap.runs import Run
from recap.training.teachers import Teachers, teacher_encoders
from recap.training.trainer import train

TOWER = {"kind": "mlp", "layer_sizes": [8]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A feed, and `teacher/`, a run whose features and tasks differ from those of a student."""
    folder = tmp_path_factory.mktemp("teachers")
    write_feed(folder, histories=True)
    vocabulary = {"vocabulary": str(folder / "ordered.parquet"), "row": "place"}
    features = {
        "continuous": ["age", "hour"],
        "discrete": {"post": {"hash": {"buckets": 30}}, "language": vocabulary},
        "histories": {"watched": {"ids": {"column": "watched", "table": "post"}, "max_length": 5}},
        "vectors": {},
        "binary": [],
        "user": "user_id",
    }
    tasks = {
        "liked": {"tower": TOWER},
        "length": {"tower": TOWER, "objective": {"kind": "regression", "transform": "log1p"}},
    }
    train_data = {
        "source": {"inputs": str(folder / "train" / "*.parquet")},
        "global_batch_size": 64,
        "tasks": {"liked": {"column": "like", "neg_downsampling_rate": 0.5}, "length": {"column": "followers"}},
    }
    config = feed_config(
        folder,
        folder / "teacher",
        features=features,
        model={"tasks": tasks, "histories": {"watched": {"encoder": {"kind": "pooling"}}}},
        train_data=train_data,
        scoring={"weights": {"liked": 1.0}},
    )
    train(config, Recorder())
    return folder


def student(folder: Path, name: str, like: dict[str, Any], **sections: dict[str, Any]) -> RecapConfig:
    tasks = {"like": {"tower": TOWER, "distillation": like}, "share": {"tower": TOWER}}
    training = {"num_train_steps": 6, "checkpoint_every_n": 2}
    return feed_config(folder, folder / name, **{"model": {"tasks": tasks}, "training": training, **sections})


def teacher(folder: Path, **changes: Any) -> dict[str, Any]:
    return {"kind": "model", "directory": str(folder / "teacher"), "task": "liked", "temperature": 2.0, **changes}


def first_batch(config: RecapConfig, teachers: Teachers) -> Batch:
    stream = open_stream(config, load_assets(config.features), JobMode.TRAIN, teachers=teachers.encoders)
    return next(iter(stream))


def test_a_teacher_reads_its_own_features_of_the_same_rows(folder: Path) -> None:
    config = student(folder, "unused", teacher(folder), train_data={"shuffle_window_rows": 0, **feed_data(folder)})
    teachers = Teachers(config, torch.device("cpu"))
    batch = teachers(first_batch(config, teachers))
    assert batch.teacher_inputs is None
    assert batch.teacher is not None
    table = pq.read_table(sorted((folder / "train").iterdir())[0]).slice(0, 64)
    expected = Scorer.open(folder / "teacher")(table)
    assert_close(batch.teacher[:, 0], torch.tensor(expected.column("liked").to_pylist()))
    assert batch.teacher[:, 1].isnan().all()


def feed_data(folder: Path) -> dict[str, Any]:
    return {
        "source": {"inputs": str(folder / "train" / "*.parquet")},
        "global_batch_size": 64,
        "tasks": {"like": {}, "share": {}},
    }


def test_learning_from_a_model_is_learning_from_a_column_of_its_predictions(folder: Path) -> None:
    scorer = Scorer.open(folder / "teacher")
    (folder / "predicted").mkdir()
    for file in (folder / "train").iterdir():
        table = pq.read_table(file)
        predictions = scorer(table).column("liked")
        pq.write_table(
            table.append_column("prediction", predictions), folder / "predicted" / file.name, row_group_size=70
        )
    data = {**feed_data(folder), "source": {"inputs": str(folder / "predicted" / "*.parquet")}}
    train(student(folder, "of_column", {"column": "prediction", "temperature": 2.0}, train_data=data), Recorder())
    train(student(folder, "of_model", teacher(folder), train_data=feed_data(folder)), Recorder())
    left, right = (files(folder / run, 6, "weights.safetensors") for run in ("of_column", "of_model"))
    assert left.keys() == right.keys()  # none of the teacher's
    for name, weight in left.items():
        assert_close(weight, right[name], atol=2e-5, rtol=1e-4)


def test_a_run_with_a_teacher_resumes_exactly_with_no_other_teacher(folder: Path) -> None:
    whole, again = (student(folder, run, teacher(folder)) for run in ("whole", "again"))
    train(whole, Recorder())
    with pytest.raises(Interrupted):
        train(again, Recorder({3: interrupt}))
    early, moved = map(Run(folder / "teacher").checkpoint_path, (4, 12))  # the folder of the run stands for the second
    text = (
        rf"like.distillation.directory: {early} is not the model with which this run started, {moved}; set the folder"
    )
    with pytest.raises(InputError, match=text):
        train(student(folder, "again", teacher(folder, directory=str(early))), Recorder())
    train(student(folder, "again", teacher(folder, directory=str(moved))), Recorder())
    assert_same_run(folder / "whole", folder / "again", 6)
    evaluate_run(whole, folder / "whole")  # without its teacher


def test_the_state_knows_a_teacher_that_changed_and_opens_without_the_folder_of_an_earlier_recap(
    folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(Run(folder / "teacher").checkpoint_path(4), tmp_path / "model")
    config = student(folder, "unused", teacher(folder, directory=str(tmp_path / "model")))
    teachers = Teachers(config, torch.device("cpu"))
    state, earlier = teachers.state_dict(), teachers.checksums
    teachers.load_state_dict(state)
    teachers.load_state_dict(earlier)
    shutil.rmtree(tmp_path / "model")
    shutil.copytree(Run(folder / "teacher").checkpoint_path(8), tmp_path / "model")
    changed = Teachers(config, torch.device("cpu"))
    with pytest.raises(InputError, match="model has changed since this run started with it; restore it, or start"):
        changed.load_state_dict(state)
    with pytest.raises(InputError, match="model is not the model with which this run started; set the folder of that"):
        changed.load_state_dict(earlier)


def test_training_says_which_checkpoint_teaches_and_which_was_better(folder: Path) -> None:
    watch = {"split": "validation", "tasks": ["like"], "metric": "auc"}
    training = {"num_train_steps": 2, "checkpoint_every_n": 1, "eval_log_every_n": 1, "watch": watch}
    still = {"kind": "constant", "learning_rate": 0.0}  # so the second step is no better than the first
    optimizer = {"backbone": still, "towers": {"default": still}}
    run = Run(folder / "watched")
    tasks = {"like": {"tower": TOWER}, "share": {"tower": TOWER}}
    model = {"tasks": tasks, "featurization": {"kind": "log1p_abs"}}  # without running statistics
    train(feed_config(folder, run.path, training=training, model=model, optimizer=optimizer), Recorder())
    recorder = Recorder()
    train(student(folder, "taught", teacher(folder, directory=str(run.path), task=None)), recorder)
    assert [line for line in recorder.messages if "watched" in line] == [
        f"teacher of like: {run.checkpoint_path(2)}",
        f"{run.path}: using step_00000002, the latest; the watched metric was best at step 1: name its folder in "
        "model.tasks.like.distillation.directory",
    ]


def test_teachers_and_columns_of_predictions_may_teach_different_tasks(folder: Path) -> None:
    model = {
        "tasks": {
            "like": {"tower": TOWER, "distillation": teacher(folder)},
            "share": {"tower": TOWER, "distillation": {"column": "in_network"}},
        }
    }
    config = student(folder, "unused", {}, model=model)
    teachers = Teachers(config, torch.device("cpu"))
    batch = first_batch(config, teachers)
    before = batch.teacher
    after = teachers(batch).teacher
    assert before is not None
    assert after is not None
    assert before[:, 0].isnan().all()
    assert after[:, 0].isfinite().all()
    assert torch.equal(before[:, 1], after[:, 1])


def test_a_data_server_sends_what_teachers_read_and_checks_their_codes(folder: Path) -> None:
    config = student(folder, "unused", teacher(folder))
    source = open_source(
        config, load_assets(config.features), JobMode.TRAIN, teachers=[*teacher_encoders(config).values()]
    )
    (batch,) = source.loader.load(source.chunks[:1]).batches
    codec = RowCodec(source.encoder)
    contents = [codec.received(pa.py_buffer(part), len(batch), "none") for part in codec.encode(batch, "none")]
    decoded = codec.decode(contents, len(batch)).tensors()
    assert decoded.keys() == batch.tensors().keys()
    for name, tensor in batch.tensors().items():
        assert torch.equal(decoded[name].nan_to_num(-1), tensor.nan_to_num(-1))
    inputs = batch.teacher_inputs
    assert inputs is not None
    inputs["0/discrete"][0, 0] = 31
    contents = [codec.received(pa.py_buffer(part), len(batch), "none") for part in codec.encode(batch, "none")]
    with pytest.raises(ValueError, match="a code of 'teacher_inputs/0/discrete' outside 0 to 30"):
        codec.decode(contents, len(batch))


def test_missing_columns_of_a_teacher_are_named_with_advice(folder: Path) -> None:
    (folder / "narrow").mkdir()
    for file in (folder / "train").iterdir():
        pq.write_table(pq.read_table(file).drop_columns(["post", "watched"]), folder / "narrow" / file.name)
    data = {**feed_data(folder), "source": {"inputs": str(folder / "narrow" / "*.parquet")}}
    config = student(folder, "narrow_run", teacher(folder), train_data=data)
    text = r"column 'post': is missing, but a teacher reads it \(missing: post, watched\)\. Add what is missing"
    with pytest.raises(DataError, match=text):
        train(config, Recorder())
    (folder / "student.yaml").write_text(dump_config(config))
    resolved = resolve(folder / "student.yaml")
    with pytest.raises(ConfigError, match=rf"model.tasks.like.distillation.directory: .*{text}"):
        check_data(resolved, teacher_encoders(resolved.config))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"directory": "nowhere"}, CheckpointError, "like.distillation.directory: nowhere: no such folder"),
        (
            {"task": "shares"},
            ConfigError,
            "like.distillation.task: .* has no task 'shares'. Known: liked, length. Choose",
        ),
        ({"task": None}, ConfigError, "like.distillation.task: .* has no task 'like'. .* Did you mean 'liked'"),
        ({"task": "length"}, ConfigError, "like.distillation: 'length' of .* is regression, and 'like' is binary"),
    ],
)
def test_a_teacher_that_cannot_teach_is_refused(
    folder: Path, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        train(student(folder, "refused", teacher(folder, **changes)), Recorder())


def test_a_folder_without_a_model_is_no_teacher(folder: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"like.distillation.directory: \S+/train: holds no model; expected a run"
    ):
        train(student(folder, "refused", teacher(folder, directory=str(folder / "train"))), Recorder())
