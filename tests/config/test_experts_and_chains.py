from pathlib import Path
from typing import Any

import pytest
from support import feed_values

from recap.config.file.load import config_of
from recap.errors import ConfigError


def values(**model: Any) -> dict[str, Any]:
    config = feed_values(Path("feed"), Path("run"))
    config["model"] |= model
    return config


def message_of(values: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        config_of(values)
    return str(caught.value)


ESMM = {"kind": "esmm", "chain": ["like", "share"]}


@pytest.mark.parametrize(
    ("chain", "expected"),
    [
        (["like", "shrae"], "model.cascade.chain.1: unknown task 'shrae'. Known: like, share. Did"),
        (["like", "share", "like"], "model.cascade.chain.2: 'like' is listed twice; remove one"),
        (
            ["like"],
            "model.cascade.chain: needs at least two tasks, found 'like'; add one, or remove cascade",
        ),
        ([], "model.cascade.chain: must not be empty"),
    ],
)
@pytest.mark.parametrize("rest", [{"kind": "esmm"}, {"kind": "aitm", "width": 4}])
def test_a_chain_has_at_least_two_tasks_each_once(rest: dict[str, Any], chain: list[str], expected: str) -> None:
    assert expected in message_of(values(cascade={**rest, "chain": chain}))


def test_esmm_refuses_down_sampling_that_calibration_would_correct() -> None:
    config = values(cascade=ESMM)
    config["train_data"]["tasks"] = {"like": {}, "share": {"neg_downsampling_rate": 0.1}}
    message = message_of(config)
    assert "model.cascade.chain.1: 'share' is down-sampled in train_data.tasks, and esmm cannot calibrate " in message
    assert "set train_data.sampling_correction: weights" in message
    assert "chain.0" not in message
    config["train_data"]["sampling_correction"] = "weights"
    assert config_of(config).model.cascade is not None


def test_esmm_accepts_equal_rates_and_aitm_any() -> None:
    config = values(cascade=ESMM)
    config["train_data"]["tasks"]["share"] = {"neg_downsampling_rate": 0.1, "pos_downsampling_rate": 0.1}
    assert config_of(config).tasks == ["like", "share"]
    config["train_data"]["tasks"]["share"] = {"neg_downsampling_rate": 0.1}
    config["model"]["cascade"] = {"kind": "aitm", "chain": ["like", "share"], "width": 4}
    cascade = config_of(config).model.cascade
    assert cascade is not None
    assert cascade.kind == "aitm"


@pytest.mark.parametrize("kind", ["mmoe", "cgc", "ple"])
def test_experts_need_a_backbone(kind: str) -> None:
    sizes = {"num_experts": 2} if kind == "mmoe" else {"shared_experts": 1, "task_experts": 1}
    message = message_of(values(sharing={"kind": kind, **sizes}, backbone=None))
    assert f"model.sharing: {kind} needs model.backbone; add one, or use share_none" in message


@pytest.mark.parametrize("kind", ["cgc", "ple"])
def test_no_task_may_have_the_name_of_the_shared_experts(kind: str) -> None:
    config = values(sharing={"kind": kind, "shared_experts": 1, "task_experts": 1})
    config["model"]["tasks"]["shared"] = config["model"]["tasks"]["like"]
    config["train_data"]["tasks"]["shared"] = {}
    assert f"model.tasks.shared: 'shared' is reserved for the shared experts of {kind}; rename" in message_of(config)


@pytest.mark.parametrize(
    ("sharing", "expected"),
    [
        ({"kind": "mmoe", "num_experts": 0}, "num_experts: must be above 0, found 0"),
        ({"kind": "cgc", "shared_experts": 1, "task_experts": 0}, "task_experts: must be above 0, found 0"),
        ({"kind": "ple", "shared_experts": 1, "task_experts": 1, "levels": 1}, "levels: must be at least 2, found 1"),
        ({"kind": "cgc", "shared_experts": 1, "task_experts": 1, "levels": 2}, "'levels' is unknown. Known: "),
    ],
)
def test_there_is_at_least_one_expert_and_two_levels(sharing: dict[str, Any], expected: str) -> None:
    assert expected in message_of(values(sharing=sharing))
