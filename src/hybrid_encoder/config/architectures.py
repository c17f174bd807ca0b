"""Which settings of open_clip, timm and transformers a configuration may change: those of an architecture alone.

A configuration comes from a stranger's file as often as from its user. Nothing in these tables names a file, a
repository or code, and every size has a limit: building any of them runs this machine's libraries and nothing else.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from hybrid_encoder.config.checking import Count, Matching, Table, Within, check_table, check_value, shown
from hybrid_encoder.errors import ConfigError

ModelName = Annotated[
    str, Matching(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", "the name of an architecture: letters, digits, '_', '.' and '-'")
]
TRANSFORMERS = "hf:"  # before the name of a spatial tower of transformers

Triple = tuple[float, float, float]
IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)
OPENAI_MEAN: Triple = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD: Triple = (0.26862954, 0.26130258, 0.27577711)
NO_MEAN: Triple = (0.0, 0.0, 0.0)
NO_STD: Triple = (1.0, 1.0, 1.0)
_HALF: Triple = (0.5, 0.5, 0.5)

OWN_NORMALISATION: tuple[tuple[str, Triple, Triple], ...] = (
    ("SigLIP", _HALF, _HALF),
    ("PE-Core", _HALF, _HALF),
    ("MobileCLIP2-(S3|S4|L-14)", OPENAI_MEAN, OPENAI_STD),
    ("MobileCLIP", NO_MEAN, NO_STD),
    ("EVA0[12]", OPENAI_MEAN, OPENAI_STD),
    ("dinov3", IMAGENET_MEAN, IMAGENET_STD),
)
"""Families by what their names hold, with the mean and std that their public weights were trained with."""

Layers = Annotated[int, Within(1, 256)]
Heads = Annotated[int, Within(1, 256)]
Side = Annotated[int, Within(1, 4096)]
Ratio = Annotated[float, Within(0.1, 64)]
Share = Annotated[float, Within(0, 0.9)]
Scale = Annotated[float, Within(-100, 100)]
Epsilon = Annotated[float, Within(1e-12, 1)]
Activation = Literal["gelu", "gelu_new", "gelu_pytorch_tanh", "quick_gelu", "relu", "silu"]
PoolType = Literal["tok", "avg", "none", "argmax", "first", "last", "eos"]

OPEN_CLIP: Table = {
    "embed_dim": Count,
    "quick_gelu": bool,
    "vision_cfg": {
        "layers": Layers | tuple[Layers, Layers, Layers, Layers],
        "width": Count,
        "head_width": Count,
        "mlp_ratio": Ratio,
        "patch_size": Side | None,
        "image_size": Side | tuple[Side, Side],
        "ls_init_value": Scale | None,
        "patch_dropout": Share,
        "no_ln_pre": bool,
        "final_ln_after_pool": bool,
        "pool_type": PoolType,
        "qk_norm": bool,
        "timm_model_name": ModelName | None,
        "timm_model_pretrained": Literal[False],
        "timm_drop": Share,
        "timm_drop_path": Share | None,
    },
    "text_cfg": {
        "context_length": Annotated[int, Within(1, 1024)],
        "vocab_size": Annotated[int, Within(1, 2_000_000)],
        "width": Count,
        "heads": Heads,
        "layers": Layers,
        "mlp_ratio": Ratio,
        "ls_init_value": Scale | None,
        "no_causal_mask": bool,
        "final_ln_after_pool": bool,
        "pool_type": PoolType,
        "qk_norm": bool,
    },
}
TIMM: Table = {
    "embed_dim": Count,
    "depth": Layers,
    "depths": tuple[Layers, Layers, Layers, Layers],
    "dims": tuple[Count, Count, Count, Count],
    "num_heads": Heads,
    "img_size": Side | tuple[Side, Side],
    "patch_size": Side,
    "mlp_ratio": Ratio,
    "qkv_bias": bool,
    "qk_norm": bool,
    "proj_bias": bool,
    "init_values": Scale | None,
    "class_token": bool,
    "no_embed_class": bool,
    "reg_tokens": Annotated[int, Within(0, 1024)],
    "num_reg_tokens": Annotated[int, Within(0, 1024)],
    "pre_norm": bool,
    "final_norm": bool,
    "global_pool": Literal["", "avg", "token"],
    "drop_rate": Share,
    "pos_drop_rate": Share,
    "patch_drop_rate": Share,
    "proj_drop_rate": Share,
    "attn_drop_rate": Share,
    "drop_path_rate": Share,
    "rope_temperature": Annotated[float, Within(1, 1e6)],
}
_VIT: Table = {
    "hidden_size": Count,
    "num_hidden_layers": Layers,
    "num_attention_heads": Heads,
    "hidden_act": Activation,
    "hidden_dropout_prob": Share,
    "attention_probs_dropout_prob": Share,
    "attention_dropout": Share,
    "initializer_range": Annotated[float, Within(0, 10)],
    "layer_norm_eps": Epsilon,
    "image_size": Side | tuple[Side, Side],
    "patch_size": Side | tuple[Side, Side],
    "num_channels": Literal[3],
    "layerscale_value": Scale,
    "drop_path_rate": Share,
    "num_register_tokens": Annotated[int, Within(0, 1024)],
}
DINO_OF_TRANSFORMERS: dict[str, Table] = {
    "dinov2": {**_VIT, "mlp_ratio": Ratio, "qkv_bias": bool, "use_swiglu_ffn": bool, "use_mask_token": bool},
    "dinov2_with_registers": {**_VIT, "mlp_ratio": Ratio, "qkv_bias": bool, "use_swiglu_ffn": bool},
    "dinov3_vit": {
        **_VIT,
        "intermediate_size": Annotated[int, Within(1, 65536)],
        "query_bias": bool,
        "key_bias": bool,
        "value_bias": bool,
        "proj_bias": bool,
        "mlp_bias": bool,
        "use_gated_mlp": bool,
        "rope_theta": Annotated[float, Within(1, 1e6)],
        "pos_embed_shift": Scale | None,
        "pos_embed_jitter": Scale | None,
        "pos_embed_rescale": Scale | None,
    },
}
"""The DINO models of transformers by their ``model_type``, with the settings that are kept of each."""


def own_normalisation(name: str) -> tuple[Triple, Triple] | None:
    """Return the mean and std that a model's public weights were trained with, and with which it is used here.

    CLIP of OpenAI's kind and DINOv2 give None: the published models feed them raw RGB in [0, 1].

    Args:
        name: of the model, as open_clip, timm or transformers call it.
    """
    return next(((mean, std) for pattern, mean, std in OWN_NORMALISATION if re.search(pattern, name)), None)


def check_spatial(name: str, overrides: dict[str, Any]) -> None:
    """Check the name and the overrides of a spatial tower.

    Raises:
        ConfigError: a name that cannot be, or a setting that the library's table lacks.
    """
    where = "spatial.overrides"
    if not name.startswith(TRANSFORMERS):
        check_value(ModelName, name, "spatial.name")
        check_table(TIMM, overrides, where)
    elif overrides:
        check_table({"config": dict[str, Any]}, overrides, where)
        stored = dict(overrides.get("config", {}))
        kind = stored.pop("model_type", None)
        check_value(Literal[tuple(DINO_OF_TRANSFORMERS)], kind, f"{where}.config.model_type")
        check_table(DINO_OF_TRANSFORMERS[kind], stored, f"{where}.config")


def check_stored(name: str, overrides: dict[str, Any]) -> None:
    """Check that a spatial tower in a file needs nothing besides the file.

    Raises:
        ConfigError: a model of transformers whose architecture is not stored: it would be asked for elsewhere.
    """
    if name.startswith(TRANSFORMERS) and not overrides.get("config"):
        raise ConfigError(
            f"spatial.name is {shown(name)} without spatial.overrides.config; save the model again with "
            "save_pretrained, which stores the architecture."
        )


def dino_settings(values: dict[str, Any]) -> dict[str, Any]:
    """Return of a configuration of transformers what describes the architecture, ``model_type`` included.

    Raises:
        ConfigError: not a DINO model.
    """
    kind = values.get("model_type")
    if kind not in DINO_OF_TRANSFORMERS:
        timms = "; DINOv3's ConvNeXts come through timm, as 'convnext_tiny.dinov3_lvd1689m'"
        raise ConfigError(
            f"the model of transformers is a {kind!r}; it must be one of {', '.join(map(repr, DINO_OF_TRANSFORMERS))}"
            f"{timms if kind == 'dinov3_convnext' else ''}."
        )
    table = DINO_OF_TRANSFORMERS[kind]
    return {"model_type": kind, **{name: value for name, value in values.items() if name in table}}
