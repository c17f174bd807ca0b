"""Model cards: what a checkpoint is, how it was made, and under which licences its parts stand."""

from __future__ import annotations

from typing import Any

from hybrid_encoder.config import (
    DepthScale,
    HybridEncoderConfig,
    HybridMatchingConfig,
    UNetDecoderConfig,
    find_encoder_config,
)

PAPER = "https://arxiv.org/abs/2510.09320"


def config_rows(config: Any) -> list[tuple[str, str]]:
    """Describe a model's configuration as rows of name and value, for a card or a screen."""
    encoder = find_encoder_config(config)
    rows: list[tuple[str, str]] = [("towers", encoder.towers)]
    for name, tower, used in (
        ("semantic (CLIP)", encoder.semantic, encoder.uses_semantic or encoder.prompts is not None),
        ("spatial (DINO)", encoder.spatial, encoder.uses_spatial),
    ):
        if used:
            rows.append((name, f"{tower.name}, input mean {_numbers(tower.mean)}, std {_numbers(tower.std)}"))
    if encoder.uses_semantic:
        rows.append(("fusion", f"{encoder.fusion.method}, {encoder.fusion.channels} channels"))
    if encoder.prompts is None:
        rows.append(("depth prompts", "none"))
    else:
        kind = "fixed words" if encoder.prompts.words else "learned tokens"
        read = "the logits alone" if encoder.prompts.decoder_input == "logits" else "logits and maps"
        rows.append(
            ("depth prompts", f"{encoder.prompts.num_prompts} {kind}, near before far; the decoder reads {read}")
        )
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


def model_card(name: str, config: Any, notes: str) -> str:
    """Return the README.md of a checkpoint folder, Markdown with the Hub's metadata block.

    Args:
        name: of the model's class.
        config: of the model.
        notes: how the weights were made; empty says that nobody wrote it down.
    """
    encoder = find_encoder_config(config)
    table = "\n".join(f"| {key} | {value} |" for key, value in config_rows(config))
    licences = "\n".join(f"- {part}: {text}" for part, text in _licences(encoder))
    return f"""---
library_name: hybrid-encoder
pipeline_tag: depth-estimation
tags:
- depth-estimation
- hybrid-encoder
---

# {name}

One encoder that joins CLIP and DINO under language guidance, for monocular depth ([paper]({PAPER})).

```python
from hybrid_encoder import {name}

model = {name}.from_pretrained("path/to/this/folder")
```

Images go in as RGB in [0, 1]; normalisation happens inside.

| part | setting |
| --- | --- |
{table}

## How it was made

{notes or "Not written down by whoever saved it."}

## Licences of the parts

{licences}
- Data that the weights were trained on may restrict their use; see above how they were made.
"""


def _licences(encoder: HybridEncoderConfig) -> list[tuple[str, str]]:
    """Whose weights went in, as far as the configuration knows."""
    rows = []
    if encoder.uses_semantic or encoder.prompts:
        rows.append(
            ("CLIP", "OpenAI's weights: MIT; other open_clip weights: see their own cards.")
            if encoder.semantic.pretrained
            else ("CLIP", "the architecture alone; no public weights went in.")
        )
    if encoder.uses_spatial:
        rows.append(
            ("DINO", "DINOv2 weights: Apache-2.0; DINOv3 weights: Meta's DINOv3 licence.")
            if encoder.spatial.pretrained
            else ("DINO", "the architecture alone; no public weights went in.")
        )
    return [*rows, ("hybrid-encoder (code)", "Apache-2.0.")]


def _numbers(values: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{value:g}" for value in values) + ")"
