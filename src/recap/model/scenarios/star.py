"""STAR: star topology adaptive recommender (Sheng et al., CIKM 2021, arXiv:2101.11427)."""

from collections.abc import Sequence

from torch import Tensor

from recap.config.network import MlpTowerConfig
from recap.config.sharing import StarConfig
from recap.model.inputs.layout import InputLayout
from recap.model.layers import Mlp, PartitionedNorm
from recap.model.scenarios.scenario import Context, Scenario


class Star(Scenario):
    """Partitioned normalization of the inputs, and the domain of a row for networks of star layers (`StarMlp`).

    The auxiliary network, of two layers, reads the inputs, with the embedding of the domain, and adds its outputs to
    those of the towers: p = σ(s + s') (equation 7).
    """

    def __init__(
        self,
        config: StarConfig,
        layout: InputLayout,
        column: int,
        domains: int,
        outputs: Sequence[int],
        *,
        shares: bool,
    ) -> None:
        """`column`: of the domain in `Batch.discrete`. `domains`: their number. `outputs`: of each tower.

        `shares`: whether the backbone has star layers too.
        """
        super().__init__()
        self.column, self.domains, self.outputs, self.shares = column, domains, list(outputs), shares
        self.norm = PartitionedNorm(layout.width, domains, config.momentum)
        hidden = MlpTowerConfig(kind="mlp", layer_sizes=[config.auxiliary_width])
        self.auxiliary = Mlp(layout.width, hidden, sum(outputs))

    def forward(self, inputs: Tensor, codes: Tensor) -> tuple[Tensor, Context, list[Context]]:
        """The context of the backbone is (domain,), or empty; of a tower (domain, what is added to its outputs)."""
        domain = codes[:, self.column]
        added = self.auxiliary(inputs).split(self.outputs, dim=1)
        return self.norm(inputs, domain), (domain,) if self.shares else (), [(domain, one) for one in added]
