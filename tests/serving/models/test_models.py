"""Versions of a model: which is found, checked, refused, and which answers."""

import gc
import json
import os
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any
from weakref import ref

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from model.rankers import make_config, make_ranker
from serving.running import small_model
from support import feed_table, history_table

from recap.config.serving.server import ServedModelConfig
from recap.errors import CheckpointError, InputError
from recap.export.write import SIGNATURE
from recap.inference.predictor import Predictor
from recap.inference.requests import RequestScorer
from recap.model.directory import SavedModel
from recap.runs import STATE, Run
from recap.runtime import start_runtime
from recap.serving.contract import Reason, RequestError
from recap.serving.models import golden
from recap.serving.models.golden import GOLDEN, write_golden
from recap.serving.models.served import ServedModel, share_of
from recap.serving.models.version import load_version
from recap.serving.models.versions import find_versions
from recap.serving.watch.watch import Watch
from recap.storage import MANIFEST, add_file


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory with golden predictions, never to be changed."""
    folder = tmp_path_factory.mktemp("trained")
    model = small_model(folder)
    write_golden(model, [str(folder / "validation" / "*.parquet")])
    return model


@pytest.fixture
def root(trained: Path, tmp_path: Path) -> Path:
    """A folder of versions with one version, v1."""
    return add_version(trained, tmp_path / "feed", "v1")


def add_version(trained: Path, root: Path, name: str) -> Path:
    """Copy a model into a folder of versions as training does: it appears complete."""
    shutil.copytree(trained, root / f"{name}.unfinished")
    (root / f"{name}.unfinished").rename(root / name)
    return root


def serve(root: Path, messages: list[str] | None = None, golden: Any = "if_present", **fields: Any) -> ServedModel:
    config = ServedModelConfig.model_validate({"path": str(root), **fields})
    say = (messages if messages is not None else []).append
    return ServedModel("feed", config, golden, say, Watch())


def damage(version: Path) -> None:
    """Change a byte of the weights."""
    file = version / "weights.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def predict_otherwise(version: Path) -> None:
    """Let the golden predictions of a version differ from what it predicts."""
    golden = json.loads((version / GOLDEN).read_text())
    golden["predictions"]["like"][3] += 0.01
    add_file(version, GOLDEN, json.dumps(golden))


def test_versions_are_found_in_every_kind_of_folder_the_newest_last(trained: Path, root: Path) -> None:
    run = trained.parents[1]
    assert list(find_versions(trained)) == [trained.name]
    assert list(find_versions(run)) == [trained.name]
    for name in ("v10", "v9", "v2.unfinished", ".hidden", "a b"):
        shutil.copytree(trained, root / name)
    (root / "empty").mkdir()
    assert list(find_versions(root)) == ["v1", "v9", "v10"]


def test_a_link_to_a_model_directory_is_the_version_that_it_points_to(root: Path, tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to(root / "v1")
    assert find_versions(tmp_path / "current") == {"v1": (root / "v1").resolve()}


@pytest.mark.parametrize(
    ("name", "message"),
    [("missing", "no such folder"), ("file", "is a file"), ("empty", "no model directory in")],
)
def test_a_folder_without_versions_is_refused(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=message):
        find_versions(tmp_path / name)


def test_a_folder_of_runs_or_of_models_names_them(trained: Path, root: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=rf"^{tmp_path} holds the model feed; serve {root}$"):
        find_versions(tmp_path)
    shutil.rmtree(root)
    for name in ("b", "a"):
        (tmp_path / name).symlink_to(trained.parents[1])
    with pytest.raises(CheckpointError, match=rf"^{tmp_path} holds the runs a, b; serve {tmp_path}/a {tmp_path}/b$"):
        find_versions(tmp_path)


def test_a_new_version_takes_over_and_the_old_one_is_unloaded(trained: Path, root: Path) -> None:
    served = serve(root)
    old = served.version()
    add_version(trained, root, "v2")
    served.refresh()
    assert (old.name, served.version().name) == ("v1", "v2")
    with pytest.raises(RequestError, match=r"version 'v1' is not loaded; loaded: v2") as raised:
        served.version("v1")
    assert raised.value.reason is Reason.NOT_FOUND


def test_nothing_is_loaded_again_until_it_changes(root: Path) -> None:
    served = serve(root)
    before = served.version()
    served.refresh()
    assert served.version() is before
    os.utime(root / "v1" / "config.yaml")
    served.refresh()
    assert served.version() is not before


@pytest.mark.parametrize("harm", [damage, predict_otherwise])
def test_a_bad_version_is_refused_once_and_the_old_one_stays(trained: Path, root: Path, harm: Any) -> None:
    messages: list[str] = []
    served = serve(root, messages)
    add_version(trained, root, "v2")
    harm(root / "v2")
    served.refresh()
    served.refresh()
    assert served.version().name == "v1"
    assert sum("version v2 is refused, version v1 stays" in text for text in messages) == 1
    assert b'recap_reloads_total{model="feed",result="refused"} 1.0' in served._watch.exposition()
    shutil.rmtree(root / "v2")
    add_version(trained, root, "v2")
    served.refresh()
    assert served.version().name == "v2"


def test_the_newest_good_version_is_taken_and_the_folder_says_which(trained: Path, root: Path) -> None:
    served = serve(root)
    add_version(trained, root, "v2")
    add_version(trained, root, "v3")
    damage(root / "v3")
    served.refresh()
    assert served.version().name == "v2"
    shutil.rmtree(root / "v2")
    served.refresh()
    assert served.version().name == "v1", "removing a version returns to the one before"


def test_a_version_that_is_copied_under_its_name_is_taken_once_it_is_complete(
    trained: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = serve(root)
    (root / "v2").mkdir()
    shutil.copy(trained / MANIFEST, root / "v2")

    def while_copied(*arguments: Any) -> Any:
        try:
            return load_version(*arguments)
        finally:
            shutil.copytree(trained, root / "v2", dirs_exist_ok=True)

    monkeypatch.setattr("recap.serving.models.served.load_version", while_copied)
    served.refresh()
    assert served.version().name == "v1"
    served.refresh()
    assert served.version().name == "v2"


def test_a_replaced_version_is_freed(trained: Path, root: Path) -> None:
    served = serve(root)
    old = ref(served.version().scorer)
    add_version(trained, root, "v2")
    served.refresh()
    gc.collect()
    assert old() is None


def test_a_version_that_fails_to_score_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RequestScorer, "score", lambda *_: 1 / 0)
    with pytest.raises(CheckpointError, match=r"v1: cannot score a request \(ZeroDivisionError: division by zero\)"):
        serve(root)


@pytest.mark.parametrize("override", ["scoring.weights.lke=2", "features.discrete.language.vocabulary=/missing"])
def test_overrides_that_do_not_fit_are_refused_with_the_name_of_the_model(root: Path, override: str) -> None:
    messages: list[str] = []
    with pytest.raises(InputError, match=r"(?s)^models\.feed\.overrides: .*(lke|vocabulary)"):
        serve(root, messages, overrides=[override])
    assert messages == [], "there is no older version to try"


def test_a_golden_mismatch_shows_row_task_and_both_values(trained: Path, root: Path) -> None:
    predict_otherwise(root / "v1")
    with pytest.raises(CheckpointError, match=r"golden.json: row 3: like is 0\.\d+, expected 0\.\d+; the model does"):
        serve(root)
    assert serve(root, golden="off").version().name == "v1"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "Field required"),
        ('{"rows": {}, "predictions": {"like": []}}', "predictions of other tasks"),
        ('{"rows": {}, "predictions": {"like": [], "share": []}}', "not rows of this model"),
    ],
)
def test_a_golden_file_of_something_else_is_refused(root: Path, content: str, message: str) -> None:
    add_file(root / "v1", GOLDEN, content)
    with pytest.raises(CheckpointError, match=message):
        serve(root)


def test_golden_predictions_can_be_required(trained: Path, root: Path) -> None:
    (root / "v1" / GOLDEN).unlink()
    manifest = json.loads((root / "v1" / MANIFEST).read_text())
    del manifest["sha256"][GOLDEN]
    (root / "v1" / MANIFEST).write_text(json.dumps(manifest))
    assert serve(root).version().name == "v1"
    with pytest.raises(CheckpointError, match=r"has no golden\.json; write it with"):
        serve(root, golden="required")


def test_a_server_starts_with_the_newest_good_version_and_tells_of_the_bad_one(trained: Path, root: Path) -> None:
    add_version(trained, root, "v2")
    damage(root / "v2")
    messages: list[str] = []
    assert serve(root, messages).version().name == "v1"
    assert ["version v2 is refused, version v1 is served: " in text for text in messages] == [False, True]
    assert not any("--step" in text for text in messages)
    damage(root / "v1")
    messages.clear()
    with pytest.raises(CheckpointError, match=r"v2/weights\.safetensors: damaged"):
        serve(root, messages)
    assert messages == [], "the error of the newest says it"


def test_the_best_checkpoint_of_a_run_is_served_on_request_and_named_otherwise(trained: Path, tmp_path: Path) -> None:
    run, messages = Run(tmp_path / "run"), list[str]()

    def save(step: int, best: int) -> None:
        add_version(trained, run.checkpoints_folder, f"step_{step:08d}")
        add_file(run.checkpoint_path(step), STATE, json.dumps({"best_step": best}))

    save(1, 1)
    served, latest = serve(run.path, version="best"), serve(run.path, messages)
    save(2, 1)
    latest.refresh()
    latest.refresh()
    remark = f"{run.path}: using step_00000002, the latest; the watched metric was best at step 1: "
    assert [text for text in messages if "best" in text] == [f"{remark}--set models.feed.version=best"]
    served.refresh()
    assert served.version().name == "step_00000001"
    save(3, 3)
    served.refresh()
    assert served.version().name == "step_00000003"
    with pytest.raises(CheckpointError, match="not a run, so no version of it is known to be best"):
        serve(run.checkpoints_folder, version="best")


def test_an_exported_program_is_no_version(trained: Path, root: Path) -> None:
    messages: list[str] = []
    served = serve(root, messages)
    add_version(trained, root, "v2")
    add_file(root / "v2", SIGNATURE, '{"format": "onnx"}')
    text = "v2: is an exported program (onnx); serve the model directory or run that it came from"
    served.refresh()
    assert messages[-1].endswith(text)
    with pytest.raises(CheckpointError, match=re.escape(text)):
        serve(root / "v2")


def test_a_chosen_version_stays_and_an_unknown_one_is_refused(trained: Path, root: Path) -> None:
    served = serve(root, version="v1")
    add_version(trained, root, "v2")
    served.refresh()
    assert served.version().name == "v1"
    with pytest.raises(CheckpointError, match=r"models.feed.version: no version 'v7' in .*; found: v1, v2"):
        serve(root, version="v7")


def test_a_version_whose_folder_is_gone_is_served_on(root: Path) -> None:
    messages: list[str] = []
    served = serve(root, messages)
    shutil.rmtree(root)
    served.refresh()
    served.refresh()
    assert served.version().name == "v1"
    assert sum("version v1 stays" in text for text in messages) == 1


def test_both_versions_of_a_rollout_answer_by_name(trained: Path, root: Path) -> None:
    add_version(trained, root, "v2")
    served = serve(root, rollout={"version": "v2", "kind": "shadow"})
    assert served.version().name == "v1"
    assert served.version("v2").name == "v2"
    assert served.shadow is served.version("v2")
    shutil.rmtree(root / "v1")
    with pytest.raises(CheckpointError, match=r"holds only v2, which models\.feed\.rollout tries"):
        serve(root, rollout={"kind": "shadow", "version": "v2"})


def test_a_split_gives_every_user_one_version_and_others_the_first(trained: Path, root: Path) -> None:
    add_version(trained, root, "v2")
    served = serve(root, rollout={"version": "v2", "kind": "split", "share": 0.25})
    chosen = {user: served.version(None, user).name for user in range(2000)}
    for kind in (str, float):
        assert chosen == {user: served.version(None, kind(user)).name for user in range(2000)}
    assert Counter(chosen.values())["v2"] / 2000 == pytest.approx(0.25, abs=0.05)
    assert served.version(None, None).name == "v1"


@given(st.one_of(st.text(), st.integers(), st.binary()))
def test_the_share_of_a_user_is_a_fixed_number_below_1(user: object) -> None:
    assert 0 <= share_of("feed", user) == share_of("feed", user) < 1


def test_the_shares_of_a_user_in_two_models_and_of_all_users_are_unrelated() -> None:
    assert share_of("feed", "u1") == 0.0 or share_of("feed", "u1") != share_of("ads", "u1")
    assert sum(share_of("feed", user) for user in range(4000)) / 4000 == pytest.approx(0.5, abs=0.02)


def test_the_golden_rows_are_those_of_the_file(trained: Path) -> None:
    golden = json.loads((trained / GOLDEN).read_text())
    assert golden["rows"]["hour"] == feed_table(250, 2)["hour"].to_pylist()[:100]


def test_golden_rows_keep_the_types_of_ids_and_histories() -> None:
    config = make_config("history_din")
    model = SavedModel(config, {"language": pa.array(["en", "ja"])}, make_ranker(config))
    scorer = RequestScorer(Predictor(model, start_runtime()))
    table = history_table(20).select(list(scorer.schema))
    rows = json.loads(golden._text({name: table[name].to_pylist() for name in table.column_names}))
    assert pa.types.is_integer(table["post"].type)
    for task, values in golden._predict(scorer, golden._table(scorer, rows)).items():
        np.testing.assert_array_equal(values, golden._predict(scorer, table)[task])
