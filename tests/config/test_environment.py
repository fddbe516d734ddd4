"""References to the environment, and secrets."""

import json
from pathlib import Path

import pytest
from config.corpus import VALID
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from recap.config.file.diff import describe_changes, differences
from recap.config.file.environment import hide
from recap.config.file.load import dump_config, load_config, load_stored_beside, resolve, show_config
from recap.errors import ConfigError

WHOLE = VALID[0].read_text()


def load(folder: Path, old: str, new: str, *, stored: bool = False) -> str:
    """whole.yaml with `new` for `old`, loaded and dumped."""
    file = folder / "ranker.yaml"
    assert WHOLE.count(old) == 1
    file.write_text(WHOLE.replace(old, new))
    return dump_config(load_config(file, stored=stored))


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("${A}", "a value"),
        ("x/${A}/${B:-b}", "x/a value/b"),
        ("${B:-}y", "y"),
        ("${B:-with spaces: and, more}", "with spaces: and, more"),
        ("$${A}", "${A}"),
        ("$A", "$A"),
        ("${A}${A}", "a valuea value"),
    ],
)
def test_references_are_replaced(written: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A", "a value")
    monkeypatch.delenv("B", raising=False)
    file = tmp_path / "ranker.yaml"
    file.write_text(WHOLE.replace("runs/whole", json.dumps(written)))
    config = load_config(file)
    assert config.training.save_dir == value
    file.write_text(dump_config(config))
    assert load_config(file, stored=True).training.save_dir == value


def test_a_number_or_a_switch_may_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEED", "11")
    monkeypatch.setenv("SWITCH", "false")
    assert "seed: 11\n" in load(tmp_path, "seed: 7", "seed: ${SEED}")
    assert "use_parallel: false\n" in load(tmp_path, "use_parallel: true", "use_parallel: ${SWITCH}")
    assert 'user: "11"' in load(tmp_path, "user: user_id", "user: ${SEED}")


@settings(max_examples=100)
@given(st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=20))
def test_a_value_never_adds_structure(value: str) -> None:
    assume("://" not in value)  # not a local folder
    import os
    import tempfile

    os.environ["RECAP_TEST_VALUE"] = value
    try:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "ranker.yaml"
            file.write_text(WHOLE.replace("runs/whole", "${RECAP_TEST_VALUE}"))
            config = load_config(file)
            assert config.training.save_dir == value
            file.write_text(dump_config(config), encoding="utf-8")
            assert load_config(file, stored=True) == config
    finally:
        del os.environ["RECAP_TEST_VALUE"]


def test_only_a_secret_is_stored_as_its_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEAM", "age")
    file = tmp_path / "ranker.yaml"
    file.write_text(WHOLE.replace("runs/whole", '"runs/${secret:TEAM}/${NAME:-x}"'))
    config = load_config(file)
    assert config.training.save_dir == "runs/age/x"
    stored = dump_config(config)
    assert 'save_dir: "runs/${secret:TEAM}/x"' in stored
    assert "continuous: [age, followers]" in stored
    file.write_text(stored)
    without = load_config(file, stored=True)  # which reads no environment
    assert without.training.save_dir == "runs/${secret:TEAM}/x"
    assert dump_config(without) == stored
    monkeypatch.delenv("TEAM")
    with pytest.raises(ConfigError, match="the environment variable 'TEAM' is not set"):
        load_config(file)


def test_a_stored_configuration_is_text_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "hunter2")
    file = tmp_path / "ranker.yaml"
    for text in ("${TOKEN}", "${secret:TOKEN}", "a$${TOKEN}", "${", "$", "${TOKEN:-x}"):
        file.write_text(WHOLE.replace("runs/whole", json.dumps(text)))
        stored = load_config(file, stored=True)
        assert stored.training.save_dir == text.replace("$${", "${")
        file.write_text(dump_config(stored))
        assert load_config(file, stored=True) == stored
    file.write_text(WHOLE.replace("runs/whole", '"a$${TOKEN}"'))
    assert load_config(file, ["training.save_dir=${TOKEN}"], stored=True).training.save_dir == "hunter2"
    (tmp_path / "whole.yaml").write_text(WHOLE)
    file.write_text("base: whole.yaml\n")
    with pytest.raises(ConfigError, match="base: 'base' is unknown"):
        load_config(file, stored=True)


def test_the_secret_name_of_a_column_is_stored_as_its_reference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMN", "followers")
    stored = load(tmp_path, "name: followers, length: 1", 'name: "${secret:COLUMN}"')
    assert 'continuous: [age, "${secret:COLUMN}"]' in stored


def test_a_secret_number_stays_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_SEED", "4711")
    file = tmp_path / "ranker.yaml"
    file.write_text(WHOLE.replace("seed: 7", 'seed: "${secret:SECRET_SEED}"'))
    config = load_config(file)
    assert config.training.seed == 4711
    for text in (dump_config(config), show_config(resolve(file))):
        assert "4711" not in text
        assert 'seed: "${secret:SECRET_SEED}"' in text
    file.write_text(dump_config(config))
    assert load_stored_beside(file, config) == config
    assert describe_changes(differences(load_config(VALID[0]), config)) == [
        'training.seed: 7 → "${secret:SECRET_SEED}"'
    ]


@pytest.mark.parametrize("secret", ["hunter2", "p'w\"d\\x\n", "h" * 200, "-5.50", "-007"])
def test_an_error_never_shows_a_secret(secret: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", secret)
    file = tmp_path / "ranker.yaml"
    for old, new in (("seed: 7", 'seed: "${secret:TOKEN}"'), ("kind: share_all", 'kind: "x${secret:TOKEN}"')):
        file.write_text(WHOLE.replace(old, new))
        with pytest.raises(ConfigError) as caught:
            load_config(file)
        message = hide(str(caught.value))
        assert "${secret:TOKEN}" in message
        for form in (secret, repr(secret)[1:-1], secret[:50], "5.5", "found -7"):
            assert form not in message or form in ("-7",), message


def test_of_two_secrets_the_longer_is_hidden_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHORT", "swordfish")
    monkeypatch.setenv("LONG", "swordfish-and-chips")
    load(tmp_path, "runs/whole", '"${secret:SHORT}/${secret:LONG}"')
    assert hide("a swordfish-and-chips, a swordfish") == "a ${secret:LONG}, a ${secret:SHORT}"


def test_password_query_and_long_path_of_a_secret_url_are_hidden_on_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVER", "https://me:tunafish@host/hooks/T024BE7LD/Mx3?key=herring")
    with pytest.raises(ConfigError, match="must be a local folder"):
        load(tmp_path, "runs/whole", '"${secret:SERVER}"')
    text = hide("host, Max retries exceeded with url: /hooks/T024BE7LD/Mx3?key=herring; auth tunafish")
    assert text == "host, Max retries exceeded with url: ${secret:SERVER}?${secret:SERVER}; auth ${secret:SERVER}"
