"""Inference in lower precision: large Linear layers multiply in bf16 or int8, everything else stays float32.

Products round their inputs and their weights; they are summed in float32 for bf16, and exactly for int8. Weights are
rounded once, when a model is opened. Layers with fewer than `LARGE` inputs or outputs stay float32, since rounding
their inputs takes longer than it saves, and so do the layers that compute logits (`ExactLinear`). With int8, embedding
tables hold a byte for each number.

As in `score_rows`, the result for a row depends on it alone, bit for bit: sums of integers are exact, and oneDNN sums
bf16 products alike for all of a multiple of `ALIGNMENT` rows, though they are not in lanes, which a test checks.
"""

from collections.abc import Mapping
from typing import assert_never

import torch
from torch import Tensor, nn

from recap.config.training import InferencePrecision
from recap.errors import InputError
from recap.model.histories.din import Din
from recap.model.inputs.tables import LocalTables, Tables
from recap.model.layers import ExactLinear, affine
from recap.model.names import NamedModules
from recap.model.ranker import Ranker
from recap.native.torch_private import int_product, packed_linear, packed_weight
from recap.runtime import cpu_has_bf16, cpu_has_int8

LARGE = 128
"""Inputs and outputs from which a layer is faster in lower precision."""
_BLOCK = 1 << 18
"""Rows of a table that are rounded at once, which bounds memory."""


def resolve_precision(precision: InferencePrecision, device: torch.device) -> InferencePrecision:
    """The precision to compute in: `auto` is bf16 where the hardware has it, else float32.

    Raises InputError for int8 where the hardware has no instructions for it.
    """
    if precision not in ("auto", "float32", "bf16", "int8"):
        raise InputError(f"precision: found {precision!r}; expected auto, float32, bf16 or int8")
    if precision == "auto":
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False) if device.type == "cuda" else cpu_has_bf16()
        return "bf16" if has_bf16 else "float32"
    if precision == "int8" and device.type != "cpu":
        raise InputError("precision: int8 computes on CPUs only, and this model is on a GPU; use bf16 or auto")
    if precision == "int8" and not cpu_has_int8():
        raise InputError(
            "precision: this CPU has no instructions for int8 products (AVX512-VNNI, AVX-VNNI or AMX-INT8); use auto"
        )
    return precision


@torch.no_grad()
def lower_precision(ranker: Ranker, precision: InferencePrecision) -> None:
    """Round the large layers of `ranker` to `precision` in place, and with int8 its tables; float32 changes nothing.

    `precision`: as `resolve_precision` returns it. The ranker can only be evaluated afterwards, not trained or saved.
    """
    match precision:
        case "float32":
            return
        case "bf16":
            _replace_layers(ranker, Bf16Linear)
        case "int8":
            _replace_layers(ranker, Int8Linear)
            if isinstance(ranker.inputs.embeddings, LocalTables):
                ranker.inputs.embeddings = Int8Tables(ranker.inputs.embeddings)
        case "auto":
            raise ValueError("auto must be resolved first")
        case _:
            assert_never(precision)


def _replace_layers(module: nn.Module, kind: "type[Bf16Linear | Int8Linear]") -> None:
    for name, child in module.named_children():
        linear = child if isinstance(child, nn.Linear) and not isinstance(child, ExactLinear) else None
        if linear is not None and min(linear.in_features, linear.out_features) >= LARGE:
            setattr(module, name, kind(linear))
        elif not isinstance(child, Din):  # it computes with the weights of its layers
            _replace_layers(child, kind)


class Bf16Linear(nn.Module):
    """A Linear layer with weights, inputs and outputs in bf16, and sums in float32: […, in] → […, out] float32."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.weight = layer.weight.detach().bfloat16()  # [out, in]
        self.bias = layer.bias.detach().bfloat16() if layer.bias is not None else None  # [out]
        self.on_hardware = layer.weight.is_cuda or cpu_has_bf16()
        self.packed = packed_weight(self.weight) if self.on_hardware and not layer.weight.is_cuda else None
        if self.packed is not None:
            del self.weight

    def forward(self, inputs: Tensor) -> Tensor:
        rounded = inputs.bfloat16()
        if self.packed is not None:
            return packed_linear(rounded, self.packed, self.bias).float()
        if self.on_hardware:
            return affine(rounded, self.weight, self.bias).float()
        # Without bf16 instructions, products of float32 are faster, and as row-independent as those of other layers.
        bias = self.bias.float() if self.bias is not None else None
        return affine(rounded.float(), self.weight.float(), bias).bfloat16().float()


class Int8Linear(nn.Module):
    """A Linear layer with products of 8-bit integers and exact sums in int32: […, in] → […, out] float32.

    y = (q(x) · q(W)ᵀ) · s(x) · s(W) + b, where q(v) = round(v / s) and s = max |v| / 127, with one scale s(x) for each
    row and one s(W) for each output. A row that is not finite has outputs that are not finite. `in` ≤ 133,143, so that
    no sum passes int32.
    """

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        weight = layer.weight.detach()
        scales = _scales(weight)  # [out, 1]
        self.weight = (weight / scales).round_().to(torch.int8)  # [out, in]
        self.scales = scales[:, 0]  # [out]
        self.bias = layer.bias.detach() if layer.bias is not None else None  # [out]

    def forward(self, inputs: Tensor) -> Tensor:
        rows = inputs.reshape(-1, inputs.shape[-1])
        scales = _scales(rows)  # [rows, 1]
        sums = int_product((rows / scales).round_().to(torch.int8), self.weight)  # [rows, out] int32
        output = sums.float().mul_(scales).mul_(self.scales)
        if self.bias is not None:
            output += self.bias
        return torch.unflatten(output, 0, inputs.shape[:-1])


def _scales(rows: Tensor) -> Tensor:
    """[N, K] → [N, 1]: the largest magnitude of a row / 127; 1 / 127 for a row of zeros."""
    largest = torch.maximum(rows.amax(dim=1, keepdim=True), -rows.amin(dim=1, keepdim=True))
    return torch.where(largest == 0, 1.0, largest) / 127


class Int8Tables(Tables):
    """Tables whose rows hold a byte for each number, and a scale and an offset: number = byte · scale + offset.

    A row of equal numbers is exact. `width` + 8 bytes a row, instead of 4 · `width`.
    """

    def __init__(self, tables: LocalTables) -> None:
        super().__init__(list(tables.specs.values()))
        self.tables = NamedModules({name: _Int8Table(tables.weight(name)) for name in self.specs})
        self.row_ids = tables.row_ids

    def forward(self, codes: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {feature: self._vectors(self.by_feature[feature].name, codes[feature]) for feature in codes}

    def _vectors(self, table: str, codes: Tensor) -> Tensor:
        rows: Tensor = self.tables.named(table)(self.rows_of(table, codes))  # [B, N, codes per value, width]
        return rows.squeeze(-2) if codes.shape[-1] == 1 else rows.sum(dim=-2)

    def stored(self) -> list[Tensor]:
        """What is held in memory."""
        tables = [table for table in self.tables.values() if isinstance(table, _Int8Table)]
        ids = [] if self.row_ids is None else list(self.row_ids.buffers())
        return [part for table in tables for part in (table.bytes, table.scales, table.offsets)] + ids

    def set_rows(self, table: str, codes: Tensor, vectors: Tensor) -> None:
        raise AssertionError("rows are set before they are rounded")

    def make_gradients_sparse(self) -> None:
        raise AssertionError("rounded tables have no gradients")


class _Int8Table(nn.Module):
    """The rows of one table: codes […] int64 → […, width] float32."""

    def __init__(self, weight: Tensor) -> None:
        """`weight`: [N, width] float32."""
        super().__init__()
        rows = len(weight)
        self.bytes: Tensor = torch.empty(weight.shape, dtype=torch.uint8)
        self.scales, self.offsets = torch.empty(rows, 1), torch.empty(rows, 1)
        for start in range(0, rows, _BLOCK):
            block = slice(start, start + _BLOCK)
            part = weight[block]
            low, high = part.amin(dim=1, keepdim=True), part.amax(dim=1, keepdim=True)
            scale = (high - low) / 255
            self.bytes[block] = ((part - low) / torch.where(scale == 0, 1.0, scale)).round_().to(torch.uint8)
            self.scales[block], self.offsets[block] = scale, low

    def forward(self, codes: Tensor) -> Tensor:
        return self.bytes[codes].float().mul_(self.scales[codes]).add_(self.offsets[codes])
