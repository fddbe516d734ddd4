"""The small parts every network is made of."""

from torch import Tensor, nn

from recap.config.network import BatchNormConfig, DropoutConfig


def linear(in_features: int, out_features: int, *, bias: bool = True) -> nn.Linear:
    """A Linear layer that starts Xavier-uniform with zero biases, as the published ranker does."""
    layer = nn.Linear(in_features, out_features, bias=bias)
    nn.init.xavier_uniform_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def batch_norm(config: BatchNormConfig, features: int) -> nn.BatchNorm1d:
    """BatchNorm over the rows of a micro-batch, [B, features]."""
    return nn.BatchNorm1d(features, affine=config.affine, momentum=config.momentum)


DROP_RATE = 0.1
"""Of a dropout that says none."""


class Mlp(nn.Module):
    """Linear → BatchNorm → ReLU → Dropout for every layer but the last: [B, in_features] → [B, layer_sizes[-1]].

    The last layer is Linear, followed by ReLU and Dropout only with `final_layer_activation`.
    """

    def __init__(
        self,
        in_features: int,
        layer_sizes: list[int],
        batch_norm_config: BatchNormConfig | None = None,
        dropout_config: DropoutConfig | None = None,
        *,
        final_layer_activation: bool = False,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        rates = drop_rates(dropout_config, len(layer_sizes))
        for index, size in enumerate(layer_sizes):
            last = index == len(layer_sizes) - 1
            layers.append(linear(in_features, size))
            if batch_norm_config is not None and not last:
                layers.append(batch_norm(batch_norm_config, size))
            if final_layer_activation or not last:
                layers.append(nn.ReLU())
                if dropout_config is not None:
                    layers.append(nn.Dropout(rates[index]))
            in_features = size
        self.layers = nn.Sequential(*layers)
        self.out_features = in_features

    def forward(self, inputs: Tensor) -> Tensor:
        """[B, in_features] → [B, out_features]."""
        output: Tensor = self.layers(inputs)
        return output


def drop_rates(config: DropoutConfig | None, layers: int) -> list[float]:
    """The rate of each layer, at least of those with a ReLU; 0 without a dropout."""
    if config is None:
        return [0.0] * layers
    if config.rates is not None:
        return config.rates
    return [DROP_RATE if config.rate is None else config.rate] * layers
