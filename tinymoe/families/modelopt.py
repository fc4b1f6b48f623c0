"""NVIDIA ModelOpt's unified export, as `quantization_config` or as `hf_quant_config.json`.

    quant_algo                   weights                              inputs
    NVFP4                        E2M1, E4M3 a block of 16, float32    NVFP4 under `input_scale`
    W4A16_NVFP4                  the same                             as they are
    FP8                          E4M3, one scale a tensor             E4M3 under `input_scale`
    FP8_PER_CHANNEL_PER_TOKEN    E4M3, one scale a row                E4M3, scales found in each row
    FP8_PB_WO                    E4M3, one scale a 128 x 128 block    as they are

Source: ModelOpt's exporter (`convert_hf_config`, `unified_export_hf`, `quant_utils`). Its
`config_groups` look like compressed-tensors' but say less: `dynamic: false` for inputs whose block
scales are found in each row. So quant_algo decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tinymoe.families.fields import Fields
from tinymoe.families.scheme import Scheme, cache_of, kept_names

# the AWQ kinds scale inputs besides, W4A8 has another tensor scale, MIXED_PRECISION several schemes
ALGORITHMS: Mapping[str, Scheme] = {
    "NVFP4": Scheme("nvfp4_modelopt", (1, 16), inputs="nvfp4"),
    "W4A16_NVFP4": Scheme("nvfp4_modelopt", (1, 16)),
    "FP8": Scheme("fp8_modelopt", granularity="tensor", inputs="fp8_tensor"),
    "FP8_PER_CHANNEL_PER_TOKEN": Scheme("fp8_modelopt", granularity="channel", inputs="fp8_token"),
    "FP8_PB_WO": Scheme("fp8_modelopt", (128, 128)),
}


def read_modelopt(fields: Fields, config: Mapping[str, Any]) -> Scheme:
    """In config.json or in its own file, which calls the list of what was left alone otherwise."""
    algorithm = fields.take("quant_algo", None)
    name = algorithm.upper() if isinstance(algorithm, str) else ""  # fp8_pb_wo is written small
    if name not in ALGORITHMS:
        raise fields.unsupported("quant_algo")
    scheme = ALGORITHMS[name]
    fields.only("group_size", None, 16 if scheme.method == "nvfp4_modelopt" else 128)
    kept = [kept_names(fields, name) for name in ("ignore", "exclude_modules")]
    for other in ("config_groups", "producer", "targets"):
        fields.take(other, None)
    cache = cache_of(fields.take("kv_cache_quant_algo", None), fields.take("kv_cache_scheme", None))
    return Scheme(
        scheme.method,
        scheme.block,
        kept[0] + kept[1],
        granularity=scheme.granularity,
        inputs=scheme.inputs,
        cache=cache,
    )
