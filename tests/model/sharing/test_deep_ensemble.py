"""A deep ensemble: each member is a model of its own, from its part of the embeddings to its logit."""

import torch
from model.rankers import make_batch, make_config, make_ranker
from model.sharing.three_tasks import LAYOUT, TASKS, model_config, some_inputs
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.testing import assert_close

from recap.config.file.load import config_of
from recap.model.objective.objective import Objective
from recap.model.sharing import build_sharing
from recap.model.sharing.deep_ensemble import DeepEnsemble

CASE = "mlp-deep_ensemble"


def part_of(row: Tensor, member: int) -> Tensor:
    """The numbers, and the member's half of each embedding."""
    author, tab = row[3:11], row[11:]
    return torch.cat([row[:3], author[4 * member : 4 * member + 4], tab[2 * member : 2 * member + 2]])


def test_each_member_has_a_backbone_that_reads_its_part_of_every_embedding() -> None:
    sharing = build_sharing(model_config(sharing={"kind": "deep_ensemble", "members": 2}), LAYOUT)
    assert isinstance(sharing, DeepEnsemble)
    inputs = some_inputs()
    outputs = sharing(inputs)
    assert len(outputs) == len(TASKS)
    for row, members in zip(inputs, outputs[0].unflatten(0, (-1, 2)), strict=True):
        for member, (backbone, found) in enumerate(zip(sharing.backbones, members, strict=True)):
            assert_close(found, backbone(part_of(row, member)[None])[0])


def test_a_deep_ensemble_predicts_the_mean_of_models_that_share_nothing_but_numbers() -> None:
    config = make_config(CASE)
    ranker, batch = make_ranker(config).eval(), make_batch(config, rows=6)
    with torch.no_grad():
        for parameter in ranker.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    single = config.model_dump()
    single["model"] |= {"sharing": {"kind": "share_all"}, "embeddings": {"default": 2}}
    alone = make_ranker(config_of(single)).eval()
    probabilities = []
    for member in range(3):
        missing = alone.load_state_dict(weights_of_member(ranker.state_dict(), member), strict=False).missing_keys
        assert not missing
        probabilities.append(alone(batch).probabilities)
    assert_close(ranker(batch).probabilities, torch.stack(probabilities).mean(dim=0))


def weights_of_member(weights: dict[str, Tensor], member: int) -> dict[str, Tensor]:
    """The weights of a model without members, with embeddings of width 2."""
    names = {f"backbones.{member}": "backbone", f"hidden.{member}": "layers", "output": "layers.4"}
    found: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if ".tables." in name:
            found[name] = weight[:, 2 * member : 2 * member + 2]
            continue
        if ".output." in name:  # [M, inputs, 1] and [M], to the logits
            weight = weight[member].T if weight.dim() == 3 else weight[member, None]
        for own, plain in names.items():
            name = name.replace(f".{own}.", f".{plain}.")
        found[name] = weight
    return found


def test_each_member_learns_from_a_loss_of_its_own() -> None:
    config = make_config(CASE)
    ranker, batch = make_ranker(config).train(), make_batch(config)
    outputs = ranker.raw_outputs(batch)
    assert len(outputs) == 2 + 2 * 3
    own = [binary_cross_entropy_with_logits(column, batch.labels[:, 0], batch.weights[:, 0]) for column in outputs[2:5]]
    assert_close(Objective(config)(outputs, batch).losses[0], torch.stack(own).mean())
    own[1].backward()
    moved = {name for name, weight in ranker.named_parameters() if weight.grad is not None and weight.grad.any()}
    backbones = {name.split(".")[2] for name in moved if name.startswith("sharing.")}
    assert backbones == {"1"}
    assert all(f".hidden.{member}." not in name for name in moved for member in (0, 2))
    for table in ("hour", "language"):
        gradient = ranker.get_parameter(f"inputs.embeddings.tables.{table}.weight").grad
        assert gradient is not None
        assert gradient.any(dim=0).tolist() == [False, False, True, True, False, False]


def test_the_members_start_apart() -> None:
    members = make_ranker(make_config(CASE)).state_dict()
    for name in ("sharing.backbones.{}.layers.0.weight", "towers.like.network.hidden.{}.0.weight"):
        assert not torch.equal(members[name.format(0)], members[name.format(1)])
