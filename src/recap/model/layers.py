"""The small parts every network is made of."""

from torch import Tensor, nn

from recap.config.network import BatchNormConfig, DropoutConfig


def linear(in_features: int, out_features: int) -> nn.Linear:
    """A Linear layer that starts Xavier-uniform with zero biases, as the published ranker does."""
    layer = nn.Linear(in_features, out_features)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def batch_norm(config: BatchNormConfig, features: int) -> nn.BatchNorm1d:
    """BatchNorm over the rows of a micro-batch, [B, features]."""
    return nn.BatchNorm1d(features, affine=config.affine, momentum=config.momentum)


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
        for index, size in enumerate(layer_sizes):
            last = index == len(layer_sizes) - 1
            layers.append(linear(in_features, size))
            if batch_norm_config is not None and not last:
                layers.append(batch_norm(batch_norm_config, size))
            if final_layer_activation or not last:
                layers.append(nn.ReLU())
                if dropout_config is not None:
                    layers.append(nn.Dropout(dropout_config.rate))
            in_features = size
        self.layers = nn.Sequential(*layers)
        self.out_features = in_features

    def forward(self, inputs: Tensor) -> Tensor:
        """[B, in_features] → [B, out_features]."""
        output: Tensor = self.layers(inputs)
        return output
