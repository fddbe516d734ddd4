"""Mistakes in a file of aggregates are refused with their line."""

from pathlib import Path

import pytest

from recap.config.aggregates.spec import RateConfig
from recap.data.aggregate.spec import load_spec
from recap.errors import ConfigError

SPEC = """\
time: {column: time_ms, unit: ms}
delay: 10m
keys:
  user: [user_id]
  pair: [user_id, author_id]
aggregates:
  - {kind: count, keys: [user, pair], windows: [30m, 7d, all]}
  - {kind: rate, keys: [user], priors: {click: 0.5}, strength: 20.0, windows: [7d]}
"""
WINDOW = "expected a duration above 0 in s, m, h or d, such as 12h or 1d; or all"


def test_names_follow_from_key_label_kind_and_window(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(SPEC)
    spec = load_spec(tmp_path / "spec.yaml")
    assert spec.names("user") == ["user_count_30m", "user_count_7d", "user_count", "user_click_rate_7d"]
    assert spec.names("pair") == ["pair_count_30m", "pair_count_7d", "pair_count"]
    assert list(spec.reads) == ["time_ms", "user_id", "author_id", "click"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "30m, ",
            "30 min, ",
            f"7:49: aggregates.0.windows.0: {WINDOW}, found '30 min'",
        ),
        ("30m, ", "1w, ", f"7:49: aggregates.0.windows.0: {WINDOW}, found '1w'"),
        ("30m, ", "0s, ", f"7:49: aggregates.0.windows.0: {WINDOW}, found '0s'"),
        ("delay: 10m", "delay: 600", "2:8: delay: expected a duration in s, m, h or d, such as 90s or 12h, found 600"),
        (
            "delay: 10m",
            "refresh: {every: 0d}",
            "2:18: refresh.every: expected a duration above 0 in s, m, h or d, such as 12h or 1d, found '0d'",
        ),
        (
            "delay: 10m",
            "refresh: {every: 1h, at: 16h}",
            "2:26: refresh.at: must be below every (1h), after which refreshes repeat, found 16h",
        ),
        (
            "[user, pair]",
            "[usr]",
            "7:26: aggregates.0.keys.0: unknown key 'usr'. Known: user, pair. Did you mean 'user'?",
        ),
        (
            "[user, pair]",
            "[user]",
            "5:9: keys.pair: no aggregate uses this key; name it in the keys of one, or remove it",
        ),
        ("30m, ", "7d, ", "7:5: aggregates.0: column 'user_count_7d' is written twice; remove one of them"),
        (
            "kind: count",
            "kind: cont",
            "7:12: aggregates.0.kind: 'cont' is unknown. Known: count, sum, rate, recency, last.",
        ),
        ("20.0", "0.0", "aggregates.1.strength: must be above 0, found 0.0"),
        ("0.5", "mean", "8:48: aggregates.1.priors.click: expected a number or running, found 'mean'"),
        ("0.5", ".inf", "8:48: aggregates.1.priors.click: expected a number or running, found inf"),
        ("pair: [user_id", "a/b: [user_id", "must match ^[A-Za-z0-9_]{1,60}$, found 'a/b'"),
        ("unit: ms", "unit: min", "1:31: time.unit: 'min' is unknown. Known: s, ms, us, ns."),
        ("time_ms, unit: ms", "time_ms, zone: UTC", "1:25: time.zone: 'zone' is unknown. Known: column, unit."),
    ],
)
def test_a_mistake_is_refused_with_its_line(old: str, new: str, message: str, tmp_path: Path) -> None:
    assert old in SPEC
    file = tmp_path / "spec.yaml"
    file.write_text(SPEC.replace(old, new, 1))
    with pytest.raises(ConfigError) as error:
        load_spec(file)
    assert message in str(error.value)
    assert str(error.value).startswith(f"{file}:")


@pytest.mark.parametrize(("old", "new"), [("[user, pair]", "[user, pear]"), ("0.5", "mean")])
def test_one_mistake_gives_one_message(old: str, new: str, tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(SPEC.replace(old, new, 1))
    with pytest.raises(ConfigError) as error:
        load_spec(tmp_path / "spec.yaml")
    assert len(error.value.problems) == 1


def test_a_prior_may_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRIOR", "0.25")
    (tmp_path / "spec.yaml").write_text(SPEC.replace("0.5", "'${PRIOR}'"))
    rate = load_spec(tmp_path / "spec.yaml").aggregates[1]
    assert isinstance(rate, RateConfig)
    assert rate.priors == {"click": 0.25}
