"""Agreement with the published ranker: each part, and the complete model with its gradients."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from model.golden import TOLERANCE, load_published, our_name, read, section
from torch.testing import assert_close

from recap.config.backbones import MaskNetConfig
from recap.config.featurization import DoubleNormLogConfig
from recap.config.file.load import load_config
from recap.config.network import LayerNormConfig, MlpConfig
from recap.config.recap import RecapConfig
from recap.data.batch import Batch
from recap.model.backbones import build_backbone
from recap.model.calibration import Calibration
from recap.model.inputs.featurization import build_featurization
from recap.model.inputs.layout import InputLayout
from recap.model.layers import Mlp
from recap.model.objective.losses import MultiTaskLoss
from recap.model.ranker import Ranker
from recap.published.convert.config import import_config

TASKS = ("is_favorited", "is_replied", "is_reported")


@pytest.mark.parametrize("name", ["mask_net_parallel", "mask_net_parallel_no_mlp", "mask_net_stacked_no_mlp"])
def test_mask_net_agrees_with_the_published_one(name: str) -> None:
    tensors, meta = read(name)
    config = MaskNetConfig.model_validate({"kind": "mask_net", **meta["config"]})
    network = build_backbone(config, InputLayout.of_numbers(meta["in_features"])).eval()
    load_published(network, tensors)
    assert_close(network(tensors["input/x"]), tensors["output/output"], **TOLERANCE)


def test_the_mlp_tower_agrees_with_the_published_one() -> None:
    tensors, meta = read("mlp_tower")
    network = Mlp(meta["in_features"], MlpConfig.model_validate(meta["config"])).eval()
    load_published(network, tensors)
    assert_close(network(tensors["input/x"]), tensors["output/output"], **TOLERANCE)


def test_double_norm_log_agrees_with_the_published_one_even_on_nan() -> None:
    tensors, _ = read("double_norm_log")
    continuous, binary = tensors["input/continuous"], tensors["input/binary"]
    assert not continuous.isfinite().all()
    config = DoubleNormLogConfig(layer_norm=LayerNormConfig())
    featurization = build_featurization(config, continuous.shape[1], binary.shape[1]).eval()
    load_published(featurization, tensors)
    assert_close(featurization(continuous, binary), tensors["output/output"], **TOLERANCE)


def test_calibration_agrees_with_the_published_one() -> None:
    tensors, _ = read("numeric_calibration")
    for name, expected in section(tensors, "output/").items():
        rates = dict(part.split("=") for part in name.split(","))
        ratio = torch.tensor([float(rates["neg"]) / float(rates["pos"])])
        assert_close(Calibration(ratio)(tensors["input/probability"][:, None])[:, 0], expected, **TOLERANCE)


def ranker_config(meta: dict[str, Any], folder: Path) -> RecapConfig:
    """The golden ranker's configuration, imported from the published form."""
    lengths = {"continuous": 13, "binary": 5, "user_embedding": 6, "author_embedding": 4}
    schema = {"schema": [{"feature_name": name, "dtype": "float_list", "length": n} for name, n in lengths.items()]}
    (folder / "schema.json").write_text(json.dumps(schema))
    rates = {
        name: {"pos_downsampling_rate": positive, "neg_downsampling_rate": negative}
        for name, (positive, negative) in meta["rates"].items()
    }
    dense = {"schema_path": str(folder / "schema.json"), "features": ["author_embedding", "user_embedding"]}
    published = {
        "model": meta["model"],
        "train_data": {"inputs": "none", "global_batch_size": 33, "seg_dense_schema": dense, "tasks": rates},
        "optimizer": {"single_task_learning_rate": {"constant": 0.1}},
    }
    (folder / "published.yaml").write_text(yaml.safe_dump(published, sort_keys=False))
    (folder / "ranker.yaml").write_text(import_config(str(folder / "published.yaml")).text)
    return load_config(folder / "ranker.yaml")


@pytest.fixture(params=["share_all", "share_none", "share_partial"])
def published(
    request: pytest.FixtureRequest, tmp_path: Path
) -> tuple[Ranker, MultiTaskLoss, Batch, dict[str, torch.Tensor]]:
    tensors, meta = read(f"ranker_{request.param}")
    config = ranker_config(meta, tmp_path)
    assert tuple(config.tasks) == TASKS
    ranker = Ranker(config, {})
    load_published(ranker, tensors)
    batch = Batch(
        continuous=tensors["input/continuous"],
        binary=tensors["input/binary"],
        discrete=torch.zeros(33, 0, dtype=torch.int64),
        vectors={name: tensors[f"input/{name}"] for name in ("user_embedding", "author_embedding")},
        labels=tensors["input/labels"],
        weights=tensors["input/weights"],
    )
    return ranker, MultiTaskLoss([task.pos_weight for task in config.model.tasks.values()]), batch, tensors


def test_the_complete_ranker_agrees_with_the_published_one(published: Any) -> None:
    ranker, loss, batch, tensors = published
    output = ranker.eval()(batch)
    for name, value in output._asdict().items():
        assert_close(value, tensors[f"output/{name}"], **TOLERANCE)
    per_task = loss(output.logits, batch.labels, batch.weights)
    assert_close(per_task.mean(), tensors["output/loss"], **TOLERANCE)
    for task, value in zip(TASKS, per_task, strict=True):
        assert_close(value, tensors[f"output/loss/{task}"], **TOLERANCE)


def test_every_gradient_of_a_training_pass_agrees_with_the_published_one(published: Any) -> None:
    ranker, loss, batch, tensors = published
    output = ranker.train()(batch)
    total = loss(output.logits, batch.labels, batch.weights).mean()
    total.backward()
    assert_close(output.logits, tensors["output/train/logits"], **TOLERANCE)
    assert_close(total, tensors["output/train/loss"], **TOLERANCE)
    gradients = {our_name(name): value for name, value in section(tensors, "output/train/grad/").items()}
    parameters = dict(ranker.named_parameters())
    assert gradients.keys() == parameters.keys()
    for name, expected in gradients.items():
        gradient = parameters[name].grad
        assert gradient is not None, name
        assert_close(
            gradient, expected.reshape(gradient.shape), **TOLERANCE, msg=lambda text, name=name: f"{name}: {text}"
        )
