"""Names of public backbones, by which people know CLIP and DINO: what a name is, and where this library takes it."""

from __future__ import annotations

import difflib
import re

SIZES = {"s": "small", "b": "base", "l": "large", "g": "giant", "h": "huge", "7b": "7b"}
# Only what looks like one of these is compared with the lists of open_clip and timm, which take seconds to load.
FAMILIES = re.compile(
    r"(hf:|hf-hub:)?(timm/|laion/|openai/|google/|apple/|facebook/)?"
    r"(vit|rn\d|eva|conv|coca|clip|dino|siglip|mobile|resnet|deit|beit|dfn)",
    re.IGNORECASE,
)
TORCH_HUB = (
    (r"dinov2_vit([sblg])14(_reg)?", lambda size, reg: f"vit_{SIZES[size]}_patch14{'_reg4' * bool(reg)}_dinov2"),
    (r"dinov3_vit([sblh]|7b)16(plus)?", lambda size, plus: f"vit_{SIZES[size]}{'_plus' * bool(plus)}_patch16_dinov3"),
    (r"dinov3_convnext_(tiny|small|base|large)", lambda size: f"convnext_{size}.dinov3_lvd1689m"),
    (r"dino_vit([sb])(8|16)", lambda size, patch: f"vit_{SIZES[size]}_patch{patch}_224.dino"),
)


def explain_backbone(name: str) -> str | None:
    """Return what the name of a backbone is and what takes it, as the end of a sentence; None for any other name.

    Args:
        name: as open_clip, timm, torch.hub, OpenAI or the Hub call it, or nearly so.
    """
    if not FAMILIES.match(name):
        return None
    for pattern, called in TORCH_HUB:
        if found := re.fullmatch(pattern, name.lower()):
            timm_name = called(*found.groups())
            return f"is torch.hub's name of a DINO backbone, {timm_name} in timm; {_spatial(timm_name)}"
    if found := re.fullmatch(r"(?:hf:)?(facebook/dino\S+)", name):
        return f"is a DINO backbone of transformers; {_spatial('hf:' + found[1])}"
    return _of_clip(name) or _of_timm(name) or _similar(name)


def _of_clip(name: str) -> str | None:
    import open_clip

    known = {_plain(model): model for model in open_clip.list_models()}
    if model := known.get(_plain(_open_clip_name(name))):
        tags = open_clip.list_pretrained_tags_by_model(model)
        if "openai" in tags and f"{_plain(model)}-quickgelu" in known:
            model += "-quickgelu"  # as OpenAI trained it
        return f"is a CLIP backbone; {_semantic(model, next(iter(tags), '') if 'openai' not in tags else '')}"
    repo = name.removeprefix("hf-hub:").lower()
    found = {}
    for model, tag in open_clip.list_pretrained() if "/" in repo else ():
        stated = open_clip.get_pretrained_cfg(model, tag) or {}
        if str(stated.get("hf_hub")).rpartition("/")[0].lower() == repo:
            found[bool(stated.get("quick_gelu")) == model.endswith("-quickgelu")] = model, tag
    return f"is the Hub's name of a CLIP backbone; {_semantic(*found[max(found)])}" if found else None


def _open_clip_name(name: str) -> str:
    """Return open_clip's name of what OpenAI, Google or transformers call otherwise; others as they are."""
    if found := re.fullmatch(r"openai/clip-vit-(base|large)-patch(\d+)(?:-(336))?", name):
        return "-".join(part for part in ("ViT", found[1][0], found[2], found[3]) if part)
    if found := re.fullmatch(r"google/siglip(2?)-(base|large|so400m)-patch(\d+)-(\d+)", name):
        size = found[2][0] if found[2] != "so400m" else found[2]
        return f"ViT-{size}-{found[3]}-SigLIP{found[1]}{'' if found[4] == '224' else '-' + found[4]}"
    return name.removesuffix("px")


def _plain(name: str) -> str:
    return re.sub(r"[/@_]", "-", name).lower()


def _of_timm(name: str) -> str | None:
    import timm

    model = name.removeprefix("timm/")
    if not timm.is_model(model.partition(".")[0]):
        return None
    if "dino" in model:
        return f"is a DINO backbone of timm; {_spatial(model)}"
    return "is a backbone of timm; SpatialConfig(name=...) takes those that are DINO's, such as vit_base_patch14_dinov2"


def _similar(name: str) -> str | None:
    """Return what was meant by a name that is nearly that of a backbone."""
    import open_clip
    import timm

    if "/" in name.removeprefix("timm/"):
        return None
    dino = {model.lower(): model for model in timm.list_models("*dino*")}
    known = {**dino, **{model.lower(): model for model in open_clip.list_models()}}
    near = difflib.get_close_matches(name.removeprefix("timm/").lower(), known, n=1, cutoff=0.85)
    if not near:
        return None
    model = known[near[0]]
    return f"is nearly the name of a backbone, {model}; {_spatial(model) if near[0] in dino else _semantic(model)}"


def _spatial(name: str) -> str:
    return f"SpatialConfig(name={name!r}) takes it"


def _semantic(name: str, tag: str = "") -> str:
    return f"SemanticConfig(name={name!r}{f', pretrained={tag!r}' if tag else ''}) takes it"
