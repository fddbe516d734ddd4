"""Small examples of every kind of model part, for the shared suite. Add new kinds here; `rankers.py` builds them."""

from typing import Any

BACKBONES: dict[str, dict[str, Any]] = {
    "mlp": {"kind": "mlp", "layer_sizes": [16, 8], "batch_norm": {}, "dropout": {"rate": 0.1}},
    "mask_net_parallel": {
        "kind": "mask_net",
        "use_parallel": True,
        "mask_blocks": [
            {"output_size": 8, "aggregation_size": 8},
            {"output_size": 4, "reduction_factor": 0.5},
        ],
    },
    "mask_net_stacked_with_mlp": {
        "kind": "mask_net",
        "mask_blocks": [
            {"output_size": 8, "aggregation_size": 8, "input_layer_norm": True, "relu": True},
            {"output_size": 6, "reduction_factor": 0.5, "dropout_rate": 0.1},
        ],
        "mlp": {"layer_sizes": [12], "final_layer_activation": True},
    },
    "mlp_rates": {
        "kind": "mlp",
        "layer_sizes": [16, 8],
        "dropout": {"rates": [0.0, 0.2]},
        "final_layer_activation": True,
    },
    "mlp_residual": {
        "kind": "mlp",
        "layer_sizes": [8, 8, 8],
        "layer_norm": {},
        "norm_position": "after_activation",
        "activation": "gelu",
        "residual": True,
        "dropout": {"rate": 0.1, "position": "before_linear"},
        "final_layer_activation": True,
        "final_layer_norm": True,
    },
    "dcn": {"kind": "dcn", "poly_degree": 2},
    "dcn_parallel": {
        "kind": "dcn",
        "poly_degree": 3,
        "projection_dim": 3,
        "parallel_mlp": {"layer_sizes": [8], "final_layer_activation": True},
        "output_mlp": {"layer_sizes": [6]},
    },
    "dcn_stacked": {
        "kind": "dcn",
        "poly_degree": 1,
        "use_parallel": False,
        "parallel_mlp": {"layer_sizes": [8, 6]},
    },
    "dlrm": {"kind": "dlrm", "bottom_mlp": {"layer_sizes": [8, 4]}},
    "dlrm_with_top": {
        "kind": "dlrm",
        "bottom_mlp": {"layer_sizes": [4], "final_layer_activation": True},
        "top_mlp": {"layer_sizes": [8]},
    },
    "gdcn": {"kind": "gdcn", "num_layers": 2},
    "gdcn_parallel": {"kind": "gdcn", "num_layers": 2, "mlp": {"layer_sizes": [8]}},
    "gdcn_stacked": {"kind": "gdcn", "num_layers": 1, "use_parallel": False, "mlp": {"layer_sizes": [8, 6]}},
    "final_mlp": {
        "kind": "final_mlp",
        "first": {"mlp": {"layer_sizes": [8], "final_layer_activation": True}},
        "second": {"mlp": {"layer_sizes": [6]}},
        "fusion_size": 4,
    },
    "final_mlp_gated": {
        "kind": "final_mlp",
        "first": {"gate": {"kind": "inputs", "hidden_sizes": [4]}, "mlp": {"layer_sizes": [8, 6]}},
        "second": {"gate": {"kind": "learned", "context_size": 3, "hidden_sizes": [4]}, "mlp": {"layer_sizes": [4]}},
        "num_heads": 2,
        "fusion_size": 3,
    },
    "wukong": {
        "kind": "wukong",
        "width": 4,
        "num_layers": 2,
        "num_fmb_fields": 2,
        "num_lcb_fields": 1,
        "rank": 2,
    },
    "wukong_with_mlp": {
        "kind": "wukong",
        "width": 6,
        "num_dense_fields": 2,
        "num_layers": 1,
        "num_fmb_fields": 3,
        "num_lcb_fields": 2,
        "rank": 3,
        "fmb_hidden_sizes": [8],
        "mlp": {"layer_sizes": [8]},
    },
    "rank_mixer": {"kind": "rank_mixer", "num_tokens": 4, "width": 8, "num_layers": 2, "feed_forward_factor": 2},
    "rank_mixer_with_experts": {
        "kind": "rank_mixer",
        "num_tokens": 4,
        "width": 8,
        "num_layers": 2,
        "feed_forward_factor": 2,
        "experts": {"num_experts": 3, "active_share": 0.25},
    },
    "dcn_v3": {
        "kind": "dcn_v3",
        "exponential": {"num_layers": 2, "dropout_rate": 0.1},
        "linear": {"num_layers": 2},
    },
    "qnn": {"kind": "qnn", "num_layers": 2, "num_rows": 3, "batch_norm": {}, "dropout_rate": 0.1},
}
ENSEMBLE: dict[str, Any] = {
    "kind": "mlp",
    "layer_sizes": [8, 8],
    "batch_norm": {},
    "dropout": {"rate": 0.1},
    "ensemble": {"members": 3},
}
"""A backbone whose members the towers continue: it cannot be an expert."""
TOWERS: dict[str, dict[str, Any]] = {
    "mlp": {"kind": "mlp", "layer_sizes": [8], "batch_norm": {"affine": False}, "dropout": {"rate": 0.1}},
    "mlp_dice": {"kind": "mlp", "layer_sizes": [8, 8], "batch_norm": {}, "activation": "dice", "residual": True},
    "mlp_ensemble": {
        "kind": "mlp",
        "layer_sizes": [8, 8],
        "batch_norm": {},
        "activation": "prelu",
        "dropout": {"rate": 0.1},
        "ensemble": {"members": 3},
    },
    "mask_net": BACKBONES["mask_net_stacked_with_mlp"],
    **{name: BACKBONES[name] for name in ("dcn_parallel", "dcn_v3", "dlrm", "gdcn", "qnn", "wukong", "rank_mixer")},
    "final_mlp": {
        **BACKBONES["final_mlp_gated"],
        "first": {
            "gate": {"kind": "inputs", "hidden_sizes": [4], "features": ["hour"]},
            "mlp": {"layer_sizes": [8, 6]},
        },
        "fusion_size": 1,
    },
}
SHARINGS: dict[str, dict[str, Any]] = {
    "share_all": {"kind": "share_all"},
    "share_partial": {"kind": "share_partial"},
    "mmoe": {"kind": "mmoe", "num_experts": 3},
    "cgc": {"kind": "cgc", "shared_experts": 2, "task_experts": 1},
    "ple": {"kind": "ple", "shared_experts": 1, "task_experts": 2, "levels": 2},
    "stem": {"kind": "stem", "shared_experts": 1, "task_experts": 2},
    "poso": {"kind": "poso", "features": ["hour"], "copies": 3, "gate_width": 6},
    "deep_ensemble": {"kind": "deep_ensemble", "members": 3},
}
"""Sharing schemes with a backbone."""
ENCODERS: dict[str, dict[str, Any]] = {
    "pooling_mean": {"kind": "pooling"},
    "pooling_sum": {"kind": "pooling", "mode": "sum"},
    "pooling_last": {"kind": "pooling", "mode": "last"},
    "din": {"kind": "din", "target": "post", "layer_sizes": [8]},
    "din_normalized": {"kind": "din", "target": "post", "layer_sizes": [], "normalize": True},
    "transformer": {
        "kind": "transformer",
        "target": "post",
        "width": 8,
        "num_layers": 2,
        "num_heads": 2,
        "dropout": {"rate": 0.1},
    },
    "hstu": {"kind": "hstu", "target": "post", "width": 8, "num_layers": 1, "num_heads": 2},
    "hstu_interleaved": {
        "kind": "hstu",
        "target": "post",
        "width": 8,
        "num_layers": 2,
        "num_heads": 2,
        "ages": "gap",
        "interleave": "action",
        "dropout": {"rate": 0.1},
    },
    "one_trans": {
        "kind": "one_trans",
        "width": 8,
        "num_layers": 3,
        "num_heads": 2,
        "num_tokens": 3,
        "retained_events": [4, 2],
        "dropout": {"rate": 0.1},
    },
}
"""Encoders of histories."""
HISTORY = {
    "ids": {"column": "watched", "table": "post"},
    "attributes": {
        "action": {"column": "watched_action", "size": 3},
        "gap": {"column": "watched_gap"},
        "hour": {"column": "watched_action", "table": "hour"},
    },
    "max_length": 5,
}
OTHERS: dict[str, dict[str, Any]] = {
    **{f"history_{name}": {"histories": {"watched": {"encoder": encoder}}} for name, encoder in ENCODERS.items()},
    "esmm": {"cascade": {"kind": "esmm", "chain": ["like", "share"]}},
    "aitm": {"cascade": {"kind": "aitm", "chain": ["share", "like"], "width": 5}},
    "dbmtl": {"cascade": {"kind": "dbmtl", "parents": {"like": ["share"]}, "width": 5}},
    "pepnet": {"scenario": {"kind": "pepnet", "domain": ["language"], "personal": ["hour"], "gate_width": 6}},
    "star": {"scenario": {"kind": "star", "domain": "language", "auxiliary_width": 6}},
    "narrow": {"embeddings": {"default": 4, "language": {"width": 4, "narrow": [{"after": 1, "width": 2}]}}},
    "log1p_abs": {"featurization": {"kind": "log1p_abs"}},
    "log1p_abs_joining_vectors": {"featurization": {"kind": "log1p_abs", "join": ["vector"]}},
    "clip_log1p_abs": {"featurization": {"kind": "clip_log1p_abs", "clip_magnitude": 100.0}},
    "z_score_log": {"featurization": {"kind": "z_score_log", "analysis": "a.parquet", "batch_norm": {}}},
    "z_score_log_renorm": {
        "featurization": {"kind": "z_score_log", "analysis": "a.parquet", "batch_norm": {}, "renorm": True}
    },
    "quantile": {"featurization": {"kind": "quantile", "quantiles": 9}},
    "missing_learned": {"featurization": {"kind": "double_norm_log", "missing": "learned"}},
    "piecewise_linear": {
        "featurization": {"kind": "double_norm_log", "missing": "learned"},
        "numbers": {"kind": "piecewise_linear", "bins": 3, "width": 4},
    },
    "periodic": {
        "featurization": {"kind": "quantile", "quantiles": 6, "output": "uniform"},
        "numbers": {"kind": "periodic", "frequencies": 3, "width": 4},
    },
    "auto_dis": {"numbers": {"kind": "auto_dis", "buckets": 3, "width": 4}},
    "position_debias": {"position_debias": {"feature": "hour", "max_position": 12, "num_dims": 3}},
    "position_debias_average": {"position_debias": {"feature": "hour", "num_dims": 3, "scored_at": "average"}},
    "double_norm_log_joining_vectors": {"featurization": {"kind": "double_norm_log", "join": ["vector"]}},
    "regressions": {
        "tasks": {
            "like": {"tower": TOWERS["mlp"], "objective": {"kind": "regression", "transform": "log1p"}},
            "share": {"tower": TOWERS["mlp"], "objective": {"kind": "regression"}, "affine_map": {}},
        }
    },
    "tri_bce": {
        "auxiliary_loss": {"kind": "tri_bce"},
        "backbone": BACKBONES["dcn_v3"],
        "tasks": {
            "like": {"tower": {"kind": "mlp"}, "affine_map": {}},
            "share": {"tower": BACKBONES["dcn_v3"], "pos_weight": 2.0},
        },
    },
    "self_ensemble": {"auxiliary_loss": {"kind": "self_ensemble"}, "backbone": BACKBONES["qnn"]},
    "ensemble": {
        "backbone": ENSEMBLE,
        "tasks": {"like": {"tower": {"kind": "mlp"}, "affine_map": {}}, "share": {"tower": TOWERS["mlp"]}},
    },
    "ensemble-share_partial": {"backbone": ENSEMBLE, "sharing": {"kind": "share_partial"}},
    "jrc": {
        "tasks": {
            "like": {"tower": TOWERS["mlp"], "affine_map": {}, "jrc": {"weight": 1.0}},
            "share": {"tower": TOWERS["mlp"], "listwise": {"weight": 0.5}},
        }
    },
    "a_regression_beside_a_binary_task": {
        "tasks": {
            "like": {"tower": TOWERS["mlp"]},
            "share": {"tower": TOWERS["mlp"], "objective": {"kind": "regression", "loss": {"kind": "mae"}}},
        }
    },
}
"""Other settings of a model, by name: merged over the section `model` of `mlp-share_all`."""
FEATURES: dict[str, dict[str, Any]] = {
    f"history_{name}": {
        "discrete": {"hour": {"size": 24}, "post": {"hash": {"buckets": 30}}},
        "histories": {"watched": HISTORY},
    }
    for name in ENCODERS
}
"""Merged over the section `features`, for the cases that need it."""

COMBINED: dict[str, dict[str, Any]] = {
    "every_tower": {
        "sharing": {"kind": "share_none"},
        "tasks": {name: {"tower": tower} for name, tower in TOWERS.items()},
        "featurization": {"kind": "quantile", "quantiles": 9, "join": ["vector"]},
        "numbers": OTHERS["auto_dis"]["numbers"],
        **OTHERS["narrow"],
    },
    "every_history": {
        "histories": {name: {"encoder": encoder} for name, encoder in ENCODERS.items()},
        "backbone": BACKBONES["mask_net_parallel"],
        "sharing": {**SHARINGS["poso"], "features": ["post"]},
        **OTHERS["position_debias_average"],
        **OTHERS["piecewise_linear"],
    },
    "mmoe_with_regressions": {
        "sharing": SHARINGS["mmoe"],
        "tasks": {
            **OTHERS["regressions"]["tasks"],
            "binary": {"tower": TOWERS["mlp"], "affine_map": {}},
        },
        **OTHERS["z_score_log_renorm"],
    },
    "ple_with_esmm": {
        "backbone": BACKBONES["gdcn_parallel"],
        "sharing": SHARINGS["ple"],
        **OTHERS["esmm"],
        **OTHERS["clip_log1p_abs"],
    },
    "stem_with_dbmtl": {"sharing": SHARINGS["stem"], **OTHERS["dbmtl"]},
    "ensemble_with_aitm": {"backbone": ENSEMBLE, "sharing": {"kind": "share_partial"}, **OTHERS["aitm"]},
    "star_with_jrc": {
        "backbone": BACKBONES["mlp_residual"],
        "sharing": SHARINGS["share_partial"],
        **OTHERS["star"],
        **OTHERS["jrc"],
        **OTHERS["piecewise_linear"],
    },
    "share_partial_with_aitm": {
        "backbone": BACKBONES["wukong_with_mlp"],
        "sharing": SHARINGS["share_partial"],
        **OTHERS["aitm"],
        **OTHERS["pepnet"],
        **OTHERS["log1p_abs_joining_vectors"],
        "numbers": OTHERS["periodic"]["numbers"],
    },
}
"""Every kind of part in few models, for what takes seconds a model. Merged over `model` of `mlp-share_all`."""
FEATURES["every_history"] = {
    "discrete": {"hour": {"size": 24}, "post": {"hash": {"buckets": 30}}},
    "histories": {
        name: {
            **HISTORY,
            "attributes": {key: value for key, value in HISTORY["attributes"].items() if key != "hour"},
        }
        for name in ENCODERS
    },
}

CASES: dict[str, dict[str, Any]] = {
    **{f"{backbone}-share_all": {} for backbone in BACKBONES},
    # An expert of a later level reads no embeddings, which DLRM needs.
    **{f"{name}-{'cgc' if part['kind'] == 'dlrm' else 'ple'}": {} for name, part in BACKBONES.items()},
    **{f"mlp-{sharing}": {} for sharing in SHARINGS},
    **{f"{tower}-share_none": {} for tower in TOWERS},
    **OTHERS,
}
"""Every kind of part with simple others, and every backbone as an expert."""
