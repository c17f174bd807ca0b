"""Model cards: what a checkpoint is, how it was made, and under which licences its parts stand."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Sequence
from typing import Any

from hybrid_encoder.checkpoints.card_renewal import LIBRARY, Card, read_card, renew
from hybrid_encoder.checkpoints.sources import HUB_ID
from hybrid_encoder.config import (
    MODEL_CONFIGS,
    BevConfig,
    DepthScale,
    HybridEncoderConfig,
    HybridMatchingConfig,
    SemanticConfig,
    UNetDecoderConfig,
    find_encoder_config,
)
from hybrid_encoder.config.architectures import TRANSFORMERS
from hybrid_encoder.config.parts import STREET

PAPER = "https://arxiv.org/abs/2510.09320"
OF_CLIP = "OpenAI's weights: MIT; other open_clip weights: see their own cards."
OF_DINO = "DINOv2 weights: Apache-2.0; DINOv3 weights: Meta's DINOv3 licence."
NOT_STATED = "not-stated"  # the name of a licence that nobody has said
HOW, UNKNOWN = "How it was made", "Not written down by whoever saved it."
TABLE = "| part | setting |"


def config_rows(config: Any) -> list[tuple[str, str]]:
    """Describe a model's configuration as rows of name and value, for a card or a screen."""
    if isinstance(config, BevConfig):
        return [*config_rows(config.encoder), *_bev_rows(config)]
    encoder = find_encoder_config(config)
    rows: list[tuple[str, str]] = [("towers", encoder.towers)]
    for name, tower, used in (
        ("semantic (CLIP)", encoder.semantic, encoder.uses_semantic or encoder.prompts is not None),
        ("spatial (DINO)", encoder.spatial, encoder.uses_spatial),
    ):
        if used:
            rows.append(
                (name, f"{_model_name(tower.name)}, input mean {_numbers(tower.mean)}, std {_numbers(tower.std)}")
            )
    if encoder.uses_semantic:
        rows.append(("fusion", f"{encoder.fusion.method}, {encoder.fusion.channels} channels"))
    if encoder.prompts is None:
        rows.append(("depth prompts", "none"))
    else:
        kind = "fixed words" if encoder.prompts.words else "learned tokens"
        read = "the logits alone" if encoder.prompts.decoder_input == "logits" else "logits and maps"
        how = "all maps jointly" if encoder.prompts.readout == "joint" else "each map by itself"
        count = encoder.prompts.num_prompts
        rows.append(("depth prompts", f"{count} {kind}, near before far; read off {how}; the decoder reads {read}"))
    matching = config if isinstance(config, HybridMatchingConfig) else getattr(config, "encoder", None)
    if isinstance(matching, HybridMatchingConfig):
        rows.append(
            (
                "depth bins",
                f"{matching.num_depth_bins} {matching.depth_binning} ones from {matching.min_depth_bin:g} to "
                f"{matching.max_depth_bin:g}, matched in the {matching.match} tower"
                + (", adaptive" if matching.adaptive_bins else ""),
            )
        )
    if isinstance(config, DepthScale):
        decoder = config.decoder  # type: ignore[attr-defined]
        kind = (
            f"Monodepth2's, {decoder.widths} channels on a pyramid of {decoder.neck.channels}"
            if isinstance(decoder, UNetDecoderConfig)
            else f"DPT, {decoder.features} features"
        )
        rows.append(("decoder", f"{kind}, scales {decoder.scales}, {decoder.activation}"))
        rows.append(("disparity", f"1 is {config.min_depth:g} and 0 is {config.max_depth:g}"))
        rows.append(("scale of depth", "metres" if config.metric else "unknown (relative)"))
        rows.append(("fitted at", "unknown size" if config.size is None else f"{config.size[0]} x {config.size[1]}"))
    return rows


def _bev_rows(config: BevConfig) -> list[tuple[str, str]]:
    (x0, x1), (y0, y1) = config.x_range, config.y_range
    return [
        ("depth of the lift", f"{config.depth}, {config.num_depths} from {config.near:g} to {config.far:g} m"),
        ("features", f"{config.channels} channels at stride {config.stride}"),
        ("grid", f"{x0:g} to {x1:g} m forward, {y0:g} to {y1:g} m left, cells of {config.cell:g} m"),
    ]


def model_card(
    name: str,
    config: Any,
    notes: str | None = None,
    *,
    license: str | None = None,
    datasets: str | Sequence[str] | None = None,
    source: str = "path/to/this/folder",
    old: str | None = None,
) -> str | None:
    """Return the README.md of a checkpoint, Markdown with the Hub's metadata block.

    Args:
        name: of the model's class.
        config: of the model.
        notes: how the weights were made; None keeps what the old card says, or says that nobody wrote it down.
        license: the Hub's name of the weights' licence, such as ``"apache-2.0"``; None keeps the old card's, or is
            ``"other"``, which is not stated.
        datasets: Hub ids or names of what the weights were trained on; None keeps the old card's, or says nothing.
        source: what ``from_pretrained`` is to be given.
        old: the card that stands there. What a person added or changed stays: the introduction, sections of their own,
            other metadata, and the notes. None is returned for a text that is not a card of this library.
    """
    encoder = find_encoder_config(config)
    given: dict[str, Any] = {}
    if license is not None:
        given["license"] = license.lower()
    if datasets is not None:
        given["datasets"] = [datasets] if isinstance(datasets, str) else list(datasets)
    metadata: dict[str, Any] = {
        "library_name": LIBRARY,
        "pipeline_tag": "depth-estimation",
        "tags": ["depth-estimation", LIBRARY],
        **({} if license else {"license": "other", "license_name": NOT_STATED}),
        **given,
    }
    if base := base_models(encoder):
        metadata["base_model"] = base
    table = "\n".join(f"| {key} | {value} |" for key, value in config_rows(config))
    snippet = f"from hybrid_encoder import {name}\n\nmodel = {name}.from_pretrained({json.dumps(source)})"
    licences = "\n".join(f"- {part}: {text}" for part, text in _licences(encoder))
    sections = {
        "How to load it": f"```python\n{snippet}\n```\n\nImages go in as RGB in [0, 1]; normalisation happens inside.",
        "What it is made of": f"{TABLE}\n| --- | --- |\n{table}",
        HOW: notes or UNKNOWN,
        "Licences of the parts": f"{licences}\n- Data that the weights were trained on may restrict their use.",
    }
    card = Card(metadata, _intro(name), sections)
    if old is None:
        return str(card)
    stands = read_card(old)
    if stands is None:
        return None
    if TABLE in stands.intro or stands.intro in map(_intro, MODEL_CONFIGS):  # ours, of an earlier version or model
        stands.intro = card.intro
    return str(renew(stands, card, [HOW] if notes is None else [], given))


def merged_card(name: str, card: str, there: str | None) -> str | None:
    """Return a model's card for a place where a card may stand already.

    Args:
        name: the class of the model.
        card: of the model, as :func:`model_card` returns it; what it says of notes, licence and data sets goes there.
        there: the text of the card that stands there; what a person added to it stays.

    Returns:
        The text, or None where what stands there is not a card of this library.
    """
    new, stands = read_card(card), read_card(there)
    if there is None or new is None:
        return card
    if stands is None:
        return None
    if new.intro != _intro(name) or stands.intro in map(_intro, MODEL_CONFIGS):
        stands.intro = new.intro
    stated = [key for key in new.metadata if key.startswith("license")] if _states_license(new) else []
    given = {key: new.metadata[key] for key in [*stated, "datasets"] if key in new.metadata}
    return str(renew(stands, new, [HOW] if new.sections.get(HOW) == UNKNOWN else [], given))


def _states_license(card: Card) -> bool:
    return card.metadata.get("license_name") != NOT_STATED and "license" in card.metadata


def base_models(encoder: HybridEncoderConfig) -> list[str]:
    """Return the Hub ids of the public weights that the towers of a configuration start from, where they are known."""
    found = []
    semantic, spatial = encoder.semantic, encoder.spatial
    if (encoder.uses_semantic or encoder.prompts) and semantic.pretrained:
        found.append(str(_stated_by_open_clip(semantic).get("hf_hub") or "").rpartition("/")[0])
    if encoder.uses_spatial and spatial.pretrained is True:
        if spatial.name.startswith(TRANSFORMERS):
            source = spatial.name.removeprefix(TRANSFORMERS)
            found.append(source if _is_on_hub(source) else "")
        else:
            import timm

            with contextlib.suppress(RuntimeError):  # weights that timm does not know any more
                described: Any = timm.get_pretrained_cfg(spatial.name)
                found.append(str(getattr(described, "hf_hub_id", None) or "").partition("@")[0])
    return [repo for repo in found if repo]


def _is_on_hub(source: str) -> bool:
    return bool(HUB_ID.fullmatch(source)) and not os.path.exists(source)


def _model_name(name: str) -> str:
    """Return the name of a tower's model; of a folder of transformers, which is one machine's, its last part."""
    source = name.removeprefix(TRANSFORMERS)
    if source == name or _is_on_hub(source):
        return name
    return TRANSFORMERS + re.split(r"[\\/]", source.rstrip("\\/"))[-1]


def _intro(name: str) -> str:
    return (
        f"# {name}\n\nOne encoder that joins CLIP and DINO under language guidance, for monocular depth "
        f"([paper]({PAPER}))."
    )


def _licences(encoder: HybridEncoderConfig) -> list[tuple[str, str]]:
    """Whose weights went in, as far as the configuration knows."""
    rows = []
    semantic, spatial = encoder.semantic, encoder.spatial
    if encoder.uses_semantic or encoder.prompts:
        public = semantic.pretrained and _stated_by_open_clip(semantic)
        rows.append(("CLIP", OF_CLIP if public else _of_own(semantic.pretrained)))
    if encoder.uses_spatial:
        rows.append(("DINO", OF_DINO if spatial.pretrained is True else _of_own(spatial.pretrained)))
    return [*rows, ("hybrid-encoder (code)", "Apache-2.0.")]


def _of_own(pretrained: str | bool | None) -> str:
    """Return the licence of a tower that started from no public weights."""
    if not pretrained:
        return "the architecture alone; no public weights went in."
    if pretrained == STREET:
        return "weights that hybrid-encoder was shipped with, trained by it on rendered streets: Apache-2.0."
    return "see the card of the weights that it started from."


def _stated_by_open_clip(semantic: SemanticConfig) -> dict[str, Any]:
    """Return what open_clip says of the weights that a CLIP starts from; nothing of a file."""
    import open_clip

    stated: dict[str, Any] = open_clip.get_pretrained_cfg(semantic.name, semantic.pretrained) or {}
    return stated


def _numbers(values: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{value:g}" for value in values) + ")"
