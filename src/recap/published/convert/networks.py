"""Backbone and towers in the published form → ours."""

from dataclasses import dataclass

from recap.config.base import KeyPath
from recap.config.file.node import Node
from recap.config.file.validate import origin_at
from recap.published.convert.tree import TreeBuilder
from recap.published.form.model import Mlp, TaskModel

Entries = dict[str, Node | None]
"""Keys of a mapping; those that are None are left out."""


@dataclass
class NetworkConverter:
    """Converts networks. A published tower ends in a layer of width 1, its logit; in our form that layer is implied."""

    tree: TreeBuilder

    def backbone(self, path: KeyPath, backbone: TaskModel) -> Node:
        """The section `model.backbone`."""
        kind, entries = self._network(path, backbone)
        return self.tree.mapping(path, {"kind": self.tree.node(kind, path), **entries})

    def task(self, path: KeyPath, task: TaskModel) -> Node:
        """An entry of `model.tasks`."""
        kind, entries = self._network(path, task, to_logit=True)
        tower = self.tree.mapping(path, {"kind": self.tree.node(kind, path), **entries})
        start = {"initial_rate": self.tree.node("none", path)}  # the published towers start at ½
        return self.tree.mapping(
            path, {"tower": tower, **self.tree.copy_fields(path, "affine_map", "pos_weight"), **start}
        )

    def _network(self, path: KeyPath, network: TaskModel, *, to_logit: bool = False) -> tuple[str, Entries]:
        """Kind and fields of a network. `to_logit`: it is a tower, so leave out its last layer."""
        if network.mlp_config is not None:
            return "mlp", self._mlp((*path, "mlp_config"), network.mlp_config, to_logit=to_logit)
        last, _ = network.last_mlp
        logit_path = (*path, *last) if to_logit else None
        if network.mask_net_config is not None:
            path = (*path, "mask_net_config")
            entries = self.tree.copy_fields(path, "mask_blocks", "use_parallel")
            return "mask_net", entries | self._mlps(path, {"mlp": network.mask_net_config.mlp}, logit_path)
        if network.dcn_config is not None:
            dcn, path = network.dcn_config, (*path, "dcn_config")
            entries = self.tree.copy_fields(path, "poly_degree", "projection_dim")
            mlps = self._mlps(path, {"parallel_mlp": dcn.parallel_mlp, "output_mlp": dcn.output_mlp}, logit_path)
            if mlps["parallel_mlp"] is not None:  # without one, ours refuses `use_parallel: false`
                entries |= self.tree.copy_fields(path, "use_parallel")
            return "dcn", entries | mlps
        if network.dlrm_config is not None:
            dlrm, path = network.dlrm_config, (*path, "dlrm_config")
            return "dlrm", self._mlps(path, {"bottom_mlp": dlrm.bottom_mlp, "top_mlp": dlrm.top_mlp}, logit_path)
        return "mlp", {"layer_sizes": self.tree.node([1], path)}  # a placeholder: a missing network is refused

    def _mlps(self, path: KeyPath, mlps: dict[str, Mlp | None], logit_path: KeyPath | None) -> Entries:
        """The MLPs of a network; the one at `logit_path` loses its last layer."""
        return {
            name: None if mlp is None else self._inner_mlp((*path, name), mlp, to_logit=(*path, name) == logit_path)
            for name, mlp in mlps.items()
        }

    def _inner_mlp(self, path: KeyPath, mlp: Mlp, *, to_logit: bool) -> Node | None:
        if to_logit and mlp.sizes == [1]:
            return None
        entries = self._mlp(path, mlp, to_logit=to_logit)
        if to_logit:  # the last hidden layer is now the last layer, and keeps its ReLU and BatchNorm
            entries["final_layer_activation"] = self.tree.node(True, path)
            if mlp.batch_norm is not None:
                entries["final_layer_norm"] = self.tree.node(True, path)
        return self.tree.mapping(path, entries)

    def _mlp(self, path: KeyPath, mlp: Mlp, *, to_logit: bool) -> Entries:
        sizes = self.tree.copy((*path, "layer_sizes")) if mlp.layer_sizes else None
        if sizes is None:
            layers = [self.tree.copy((*path, "layers", index, "layer_size")) for index in range(len(mlp.sizes))]
            sizes = Node(layers, origin_at(self.tree.raw, (*path, "layers")))
        if to_logit:
            sizes.value = sizes.value[:-1]
        entries = {"layer_sizes": sizes, **self.tree.copy_fields(path, "batch_norm", "dropout")}
        if not to_logit:
            entries |= self.tree.copy_fields(path, "final_layer_activation")
        if mlp.has_own_rates:
            entries["dropout"] = self._drop_rates(path, mlp)
        elif mlp.dropout is not None and mlp.final_layer_activation and not to_logit:
            entries["dropout"] = self._no_last_dropout((*path, "dropout"), len(mlp.sizes), mlp.dropout.rate)
        return entries

    def _no_last_dropout(self, path: KeyPath, layers: int, rate: float) -> Node | None:
        """One rate for all layers but the last, after whose ReLU the published code has no dropout; ours would."""
        if layers == 1:
            return None
        rates = [self.tree.copy((*path, "rate")) or self.tree.node(rate, path) for _ in range(layers - 1)]
        return self.tree.mapping(
            path, {"rates": Node([*rates, self.tree.node(0.0, path)], origin_at(self.tree.raw, path))}
        )

    def _drop_rates(self, path: KeyPath, mlp: Mlp) -> Node:
        """The dropout rate of each layer that has a ReLU; 0 for a layer without dropout."""
        rates: list[Node] = []
        for index, layer in enumerate(mlp.layers or []):
            layer_path: KeyPath = (*path, "layers", index)
            rate = layer.dropout.rate if layer.dropout is not None else 0.0
            rates.append(self.tree.copy((*layer_path, "dropout", "rate")) or self.tree.node(rate, layer_path))
        if not mlp.final_layer_activation:
            rates = rates[:-1]
        path = (*path, "layers")
        return self.tree.mapping(path, {"rates": Node(rates, origin_at(self.tree.raw, path))})
