"""STAR against the equations of its paper, written as slow loops."""

import torch
from model.rankers import make_batch, make_config, make_ranker
from model.scenarios.moved import moved_ranker
from torch import Tensor, nn
from torch.testing import assert_close

from recap.model.layers import Mlp, PartitionedNorm, StarLinear, StarMlp
from recap.model.scenarios.star import Star


def slow_star(layer: nn.Module, row: Tensor, domain: int) -> Tensor:
    """(W* )ᵀ in + b*, with W* = W_d ⊗ W and b* = b_d + b (equations 5 and 6); W and b for an unknown domain."""
    assert isinstance(layer, StarLinear)
    outputs = []
    for unit in range(len(layer.weight)):
        output = layer.bias[unit] + (layer.domain_biases[domain - 1, unit] if domain else 0)
        for column, value in enumerate(row):
            weight = layer.weight[unit, column]
            if domain:
                weight = (1 + layer.domain_weights[domain - 1, unit, column]) * weight
            output = output + weight * value
        outputs.append(output)
    return torch.stack(outputs)


def slow_network(network: Tensor | nn.Module, row: Tensor, domain: int) -> Tensor:
    """The star layers of an MLP, with all that is between them, for one row."""
    assert isinstance(network, StarMlp)
    for layer in network.layers:
        row = slow_star(layer, row, domain) if isinstance(layer, StarLinear) else layer(row[None])[0]
    return row


def slow_norm(norm: PartitionedNorm, row: Tensor, domain: int) -> Tensor:
    """(γ · γ_d) (z − E_d) / √(Var_d + ε) + (β + β_d), as in equation 4."""
    normal = (row - norm.running_mean[domain]) / (norm.running_variance[domain] + 1e-5) ** 0.5
    if not domain:
        return norm.weight * normal + norm.bias
    scale = norm.weight * (1 + norm.domain_weights[domain - 1])
    return scale * normal + norm.bias + norm.domain_biases[domain - 1]


def test_star_matches_its_paper() -> None:
    config, ranker, batch = moved_ranker("star")
    batch, star = batch.rows(slice(0, 20)), ranker.scenario
    assert isinstance(star, Star)
    with torch.no_grad():
        star.norm.running_mean += torch.randn(star.norm.running_mean.shape)
        star.norm.running_variance += torch.rand(star.norm.running_variance.shape)
    domains = batch.discrete[:, list(config.features.discrete).index("language")].tolist()
    assert {0, 1, 2} == set(domains)
    logits = torch.zeros(20, 2)
    for index, (row, domain) in enumerate(zip(ranker.inputs(batch), domains, strict=True)):
        hidden, last = (layer for layer in star.auxiliary.layers if isinstance(layer, nn.Linear))
        added = last.weight @ (hidden.weight @ row + hidden.bias).clamp(min=0) + last.bias
        output = slow_norm(star.norm, row, domain)
        shared = slow_network(ranker.sharing.backbone, output, domain)
        for task, tower in enumerate(ranker._towers):
            logits[index, task] = tower.affine_map(slow_network(tower.network, shared, domain) + added[task])[0]
    assert_close(ranker(batch).logits, logits)


def test_training_multiplies_by_domain_as_evaluation_does() -> None:
    torch.manual_seed(0)
    layer, inputs, domain = StarLinear(6, 5, 4), torch.randn(30, 6), torch.randint(0, 4, (30,))  # none of domain 4
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += torch.randn(parameter.shape)
    gradients = []
    for mode in (True, False):
        layer.zero_grad()
        output = layer.train(mode)(inputs, domain)
        output.square().sum().backward()
        gradients.append([output, *(parameter.grad for parameter in layer.parameters())])
    for trained, evaluated in zip(*gradients, strict=True):
        assert_close(trained, evaluated, atol=1e-4, rtol=1e-4)


def test_in_training_each_domain_of_a_micro_batch_is_normalised_by_its_own_rows() -> None:
    torch.manual_seed(0)
    norm, inputs = PartitionedNorm(3, 4, momentum=0.5), torch.randn(9, 3) * 2 + 1
    domain = torch.tensor([1, 1, 1, 0, 2, 3, 3, 2, 4])  # 0 is unknown, and 4 is alone
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter += torch.randn(parameter.shape)
    found = norm.train()(inputs, domain)
    expected, means = torch.zeros(9, 3), {0: inputs.mean(dim=0)}
    for row, code in enumerate(domain.tolist()):
        rows = inputs[domain == code] if code in (1, 2, 3) else inputs
        means[code if code in (1, 2, 3) else 0] = mean = rows.sum(dim=0) / len(rows)
        variance = (rows - mean).square().sum(dim=0) / len(rows)
        normal = (inputs[row] - mean) / (variance + 1e-5).sqrt()
        scale = norm.weight * (1 + norm.domain_weights[code - 1] if code else 1)
        expected[row] = scale * normal + norm.bias + (norm.domain_biases[code - 1] if code else 0)
    assert_close(found, expected)
    for code in range(5):  # the running mean started at 0; domain 4 was not seen twice
        assert_close(norm.running_mean[code], 0.5 * means[code] if code in means else torch.zeros(3))


def test_a_domain_starts_as_the_centre_and_an_unknown_one_stays_it() -> None:
    config = make_config("star")
    ranker, batch = make_ranker(config).eval(), make_batch(config)
    column = list(config.features.discrete).index("language")
    assert isinstance(ranker.scenario, Star)
    inputs = ranker.inputs(batch)

    def logits(domain: int) -> Tensor:
        codes = batch.discrete.clone()
        codes[:, column] = domain
        return torch.stack(ranker._own_outputs(inputs, codes), dim=1)

    assert_close(logits(2), logits(0))
    with torch.no_grad():
        for name, parameter in ranker.named_parameters():
            if "domain_" in name:
                parameter += 0.1
    assert not torch.allclose(logits(2), logits(0))
    plain = Mlp(8, config.model.tasks["like"].tower)
    star = StarMlp(8, config.model.tasks["like"].tower, domains=2)
    star.load_state_dict(plain.state_dict(), strict=False)
    rows = torch.randn(5, 8)
    assert_close(star.eval()(rows, torch.zeros(5, dtype=torch.int64)), plain.eval()(rows))


def test_domains_of_star_may_come_from_a_warm_start_without_it() -> None:
    names = {name for name, _ in make_ranker(make_config("mlp-share_all")).named_parameters()}
    more = {name for name, _ in make_ranker(make_config("star")).named_parameters()} - names
    assert all(name.startswith("scenario.") or ".domain_" in name for name in more)
