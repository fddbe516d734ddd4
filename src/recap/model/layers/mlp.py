"""The MLP: as a network, as a tower, as an ensemble, as separate towers, and with layers of a centre and domains."""

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn

from recap.config.network import EnsembleConfig, MlpConfig, MlpTowerConfig
from recap.model.layers.activations import build_activation
from recap.model.layers.dropout import Dropout, drop_rates
from recap.model.layers.ensemble import EnsembleLinear, EnsembleOutput
from recap.model.layers.linear import linear
from recap.model.layers.norms import batch_norm, layer_norm
from recap.model.layers.star import StarLinear


class Residual(nn.Module):
    """x + layer(x), of any shape."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, inputs: Tensor) -> Tensor:
        output: Tensor = inputs + self.layer(inputs)
        return output


class Mlp(nn.Module):
    """Linear → norm → activation → dropout for every layer: [B, in_features] → [B, out_features].

    The last layer of an `MlpConfig` is Linear, with norm, activation and dropout only if it says so. An
    `MlpTowerConfig` has one more Linear, to the logit, [B, outputs] float32 also under autocast.
    """

    def __init__(self, in_features: int, config: MlpConfig | MlpTowerConfig | list[int], outputs: int = 1) -> None:
        """`config`: a list is that of `layer_sizes`, of a network of Linear and ReLU alone. `outputs`: of a tower."""
        super().__init__()
        if isinstance(config, list):
            config = MlpConfig(layer_sizes=config)
        layers = _layers(config, in_features, lambda _, inputs, size: linear(inputs, size))
        self.out_features = config.layer_sizes[-1] if config.layer_sizes else in_features
        if isinstance(config, MlpTowerConfig):
            layers.append(linear(self.out_features, outputs, exact=True))
            self.out_features = outputs
        self.layers = nn.Sequential(*layers)

    def forward(self, inputs: Tensor, *factors: Tensor) -> Tensor:
        """[B, in_features] → [B, out_features]. `factors`: of the inputs of each layer but the first, or none."""
        if not factors:
            output: Tensor = self.layers(inputs)
            return output
        output, remaining = inputs, iter([None, *factors])
        for layer in self.layers:
            if isinstance(layer, nn.Linear | Residual) and (factor := next(remaining)) is not None:
                output = output * factor
            output = layer(output)
        return output


class EnsembleMlp(nn.Module):
    """An MLP of M members: [B, in_features] → [B · M, out_features], or of a tower their logits, [B, M] float32.

    The members of a row pass through norms and dropout like rows of their own.
    """

    def __init__(
        self, in_features: int, config: MlpConfig | MlpTowerConfig, ensemble: EnsembleConfig, *, continues: bool = False
    ) -> None:
        """`continues`: the inputs are the members of a backbone, [B · M, in_features]."""
        super().__init__()
        members = self.members = ensemble.members
        layers = _layers(
            config,
            in_features,
            lambda index, inputs, size: EnsembleLinear(inputs, size, members, is_first=not (index or continues)),
        )
        self.out_features = config.layer_sizes[-1] if config.layer_sizes else in_features
        if isinstance(config, MlpTowerConfig):
            layers.append(EnsembleOutput(self.out_features, members))
            self.out_features = members
        self.layers = nn.Sequential(*layers)

    def forward(self, inputs: Tensor) -> Tensor:
        """[B, in_features], or if it continues [B · M, in_features] → [B · M, out_features], of a tower [B, M]."""
        output: Tensor = self.layers(inputs)
        return output


class SeparateMlps(nn.Module):
    """The MLP towers of M members that share no weights: [B · M, in_features] → their logits, [B, M] float32."""

    def __init__(self, in_features: int, config: MlpTowerConfig, members: int) -> None:
        super().__init__()
        self.members = members
        hidden = [_layers(config, in_features, lambda _, inputs, size: linear(inputs, size)) for _ in range(members)]
        self.hidden = nn.ModuleList(nn.Sequential(*layers) for layers in hidden)
        self.output = EnsembleOutput(config.layer_sizes[-1] if config.layer_sizes else in_features, members)

    def forward(self, inputs: Tensor) -> Tensor:
        """[B · M, in_features] → [B, M] float32."""
        by_member = torch.unflatten(inputs, 0, (-1, self.members)).unbind(dim=1)  # M × [B, in_features]
        hidden = [layers(rows) for layers, rows in zip(self.hidden, by_member, strict=True)]
        output: Tensor = self.output(torch.stack(hidden, dim=1).flatten(0, 1))
        return output


class StarMlp(nn.Module):
    """An `Mlp` whose Linear layers are those of a centre and its domains, `StarLinear`."""

    def __init__(self, in_features: int, config: MlpConfig | MlpTowerConfig, domains: int, outputs: int = 1) -> None:
        """`domains`: their number. `outputs`: of a tower."""
        super().__init__()
        layers = _layers(config, in_features, lambda _, inputs, size: StarLinear(inputs, size, domains))
        self.out_features = config.layer_sizes[-1] if config.layer_sizes else in_features
        if isinstance(config, MlpTowerConfig):
            layers.append(StarLinear(self.out_features, outputs, domains, exact=True))
            self.out_features = outputs
        self.layers = nn.Sequential(*layers)

    def forward(self, inputs: Tensor, domain: Tensor, added: Tensor | None = None) -> Tensor:
        """[B, in_features], and domains [B] as in `StarLinear` → [B, out_features], to which `added` is added."""
        output = _through(self.layers, inputs, domain)
        return output if added is None else output + added


def _through(layers: Iterable[nn.Module], inputs: Tensor, domain: Tensor) -> Tensor:
    """What `layers` make of `inputs`, one after the other."""
    output = inputs
    for layer in layers:
        if isinstance(layer, StarLinear):
            output = layer(output, domain)
        elif isinstance(layer, Residual):
            assert isinstance(layer.layer, nn.Sequential)
            output = output + _through(layer.layer, output, domain)
        else:
            output = layer(output)
    return output


def _layers(
    config: MlpConfig | MlpTowerConfig, in_features: int, build: Callable[[int, int, int], nn.Module]
) -> list[nn.Module]:
    """The layers of `layer_sizes`. `build`: index, inputs and width of a layer → its Linear."""
    layers: list[nn.Module] = []
    rates = drop_rates(config.dropout, len(config.layer_sizes))
    for index, size in enumerate(config.layer_sizes):
        is_last = isinstance(config, MlpConfig) and index == len(config.layer_sizes) - 1
        layer = list(_layer(config, build(index, in_features, size), size, rates[index], is_last=is_last))
        layers += [Residual(nn.Sequential(*layer))] if config.residual and index else layer
        in_features = size
    return layers


def _layer(
    config: MlpConfig | MlpTowerConfig, product: nn.Module, size: int, rate: float, *, is_last: bool
) -> Iterator[nn.Module]:
    """The modules of one layer. `product`: its Linear, to the width `size`; `rate`: that of its dropout."""
    has_norm = has_activation = True
    if isinstance(config, MlpConfig) and is_last:
        has_norm, has_activation = config.final_layer_norm, config.final_layer_activation
    norm: list[nn.Module] = []
    if has_norm and config.batch_norm is not None:
        norm.append(batch_norm(config.batch_norm, size))
    if has_norm and config.layer_norm is not None:
        norm.append(layer_norm(config.layer_norm, size))
    activation = [build_activation(config.activation, size)] if has_activation else []
    drops_inputs = config.dropout is not None and config.dropout.position == "before_linear"
    if drops_inputs:
        yield Dropout(rate)
    yield product
    yield from [*norm, *activation] if config.norm_position == "before_activation" else [*activation, *norm]
    if config.dropout is not None and has_activation and not drops_inputs:
        yield Dropout(rate)
