"""Model cards: what a checkpoint is, how it was made, and under which licences its parts stand."""

from __future__ import annotations

from hybrid_encoder.config import HybridDepthConfig, HybridEncoderConfig

PAPER = "https://arxiv.org/abs/2510.09320"


def model_card(name: str, config: HybridEncoderConfig | HybridDepthConfig, notes: str) -> str:
    """The README.md of a checkpoint folder, Markdown with the Hub's metadata block.

    Args:
        name: ``HybridDepthModel`` or ``HybridDepthEncoder``.
        config: of the model.
        notes: how the weights were made; empty says that nobody wrote it down.
    """
    encoder = config.encoder if isinstance(config, HybridDepthConfig) else config
    rows = [
        ("towers", encoder.towers),
        ("semantic (CLIP)", f"{encoder.semantic.name}, input mean {_numbers(encoder.semantic.mean)}, "
         f"std {_numbers(encoder.semantic.std)}"),
        ("spatial (DINO)", f"{encoder.spatial.name}, input mean {_numbers(encoder.spatial.mean)}, "
         f"std {_numbers(encoder.spatial.std)}"),
        ("fusion", f"{encoder.fusion.method}, {encoder.fusion.channels} channels"),
    ]  # fmt: skip
    if encoder.prompts is None:
        rows.append(("depth prompts", "none"))
    else:
        kind = "fixed words" if encoder.prompts.words else "learned tokens"
        rows.append(
            (
                "depth prompts",
                f"{encoder.prompts.number} {kind}, near before far, decoder reads {encoder.prompts.align}",
            )
        )
    if isinstance(config, HybridDepthConfig):
        rows.append(("disparity", f"1 is {config.min_depth} and 0 is {config.max_depth}"))
        rows.append(("scale of depth", "metres" if config.metric else "unknown (relative)"))
        rows.append(("fitted at", "unknown size" if config.size is None else f"{config.size[0]} x {config.size[1]}"))
    table = "\n".join(f"| {key} | {value} |" for key, value in rows)
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
