"""Names of weights in the published code → ours."""

import re
from collections.abc import Iterable, Mapping

_WRAPPERS = re.compile(r"^(?:(?:module|_dmp_wrapped_module|_orig_mod|model)\.)+")
"""What DistributedDataParallel, TorchRec, torch.compile and the loss put before every name."""
_NAMES = [
    (r"^_preprocessor\._before_concat_layers\.2\.layer\.", "inputs.featurization.batch_norm."),
    (r"^_preprocessor\.layer_norm\.layer\.", "inputs.featurization.layer_norm."),
    (r"^_(\w+)_layer_norm\.(?=\w+$)", r"inputs.vector_norms.\1."),
    (r"^(?:small_)?embeddings\.(?:.+\.)?([^.]+)\.weight$", r"inputs.embeddings.tables.\1.weight"),
    (r"^_affine_maps\.([^.]+)\.weight$", r"towers.\1.affine_map.scale"),
    (r"^_affine_maps\.([^.]+)\.bias$", r"towers.\1.affine_map.bias"),
    (r"^_towers\.([^.]+)\.", r"towers.\1.network."),
    (r"^_backbone\.", "sharing.backbone."),
    (r"\._dense_layers\.", ".mlp."),
    (r"\._mask_blocks\.", ".blocks."),
    (r"\._input_layer_norm\.", ".input_norm."),
    (r"\._layer_norm\.", ".output_norm."),
    (r"\._mask_layer\.", ".mask."),
    (r"\._hidden_layer\.", ".hidden."),
]
_CONFIGURED = re.compile(r"^_calibrators\.|^_preprocessor\._before_concat_layers\.\d+\.(?:min|max)_value$")
"""Values that are no weights here, but follow from the configuration."""


def is_configured(published: str) -> bool:
    """Whether the configuration sets what a published name holds: rates of calibration, limits of the clamp."""
    return _CONFIGURED.match(unwrapped(published)) is not None


def unwrapped(published: str) -> str:
    """A published name without the prefixes of modules that wrap the model."""
    return _WRAPPERS.sub("", published)


def our_name(published: str, tasks: Iterable[str], names: Mapping[str, str]) -> str:
    """Our name of a published weight; of `names`, published module or weight → ours, the longest that fits applies.

    The published code writes a task `a.b` as `a__b`, and this one as `a%2Eb`.
    """
    name = unwrapped(published)
    given = [path for path in names if name == path or name.startswith(f"{path}.")]
    if given:
        path = max(given, key=len)
        return names[path] + name[len(path) :]
    for pattern, ours in _NAMES:
        name = re.sub(pattern, ours, name)
    written = {task.replace(".", "__"): task.replace("%", "%25").replace(".", "%2E") for task in tasks}
    parts = name.split(".", 2)
    if parts[0] == "towers" and parts[1] in written:
        parts[1] = written[parts[1]]
    return ".".join(parts)
